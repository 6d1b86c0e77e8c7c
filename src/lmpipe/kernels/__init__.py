"""Compiled kernels: runtime/ compiles and loads them, bpe/ and transformer/ are families of them with their host sides.

Modules that are compiled import Numba, and runtime/compile.py alone imports them; hosts load them by name without it.
The package imports errors, io, provenance and study; the families do not import each other.
"""
