"""Byte-level BPE: pre-tokens, their counts, training, vocabulary and its exports, encoding, evaluation, Unicode.

May import kernels, study, provenance, io and errors.
"""
