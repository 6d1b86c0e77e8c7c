"""Compilation, cache and loading of kernels, the memory that they share with their callers, and threads.

It imports lmpipe.errors and lmpipe.io, Numba and llvmlite; only compile, intrinsics and simd_float32 import Numba.
"""
