"""The compiled kernels: plain Python files that Numba turns into machine code, once for each machine.

simd.py (loads, stores and vector instructions), scan.py, count.py, merge.py and encode.py hold those of byte-level BPE,
lanes.py (vectors of float32) and forward.py the one that computes a trained model, layers.py those of training. They
import Numba; only build.py imports them, in a process of its own. load.py keeps the object code on disk and calls it
without Numba, team.py in several threads. memory.py is the memory that kernels work on, layout.py where things lie in
it.
"""
