"""Byte-level BPE: pre-tokenization, counting, the merge loop and encoding; exact, in as many threads as the caller has.

Modules named *_kernels are compiled; pretoken_table, merge_loop, encoder and block_scan are their host sides.
It imports lmpipe.kernels.runtime.
"""
