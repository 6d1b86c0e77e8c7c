"""The compiled kernels of byte-level BPE: plain Python files that Numba turns into machine code, once for each machine.

simd.py (loads, stores and vector instructions), scan.py, count.py and merge.py hold the kernels and import Numba;
only build.py imports them, in a process of its own. load.py keeps the object code on disk and calls it without Numba.
memory.py is the memory that kernels work on, layout.py where things lie in it.
"""
