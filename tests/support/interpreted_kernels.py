"""The BPE kernels as plain Python: nothing is compiled, and each load and store is checked against the buffers.

The kernels' modules are imported with a module of intrinsics that are written in Python.
"""

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from itertools import chain
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch
from weakref import WeakSet

import numpy as np
import pytest

from lmpipe.kernels.runtime.buffers import Buffer, addresses_of
from lmpipe.kernels.runtime.structs import round_up

INTRINSICS = "lmpipe.kernels.runtime.intrinsics"
FAMILY = "lmpipe.kernels.bpe."
MASK = (1 << 64) - 1
NUMBERS = {1: ctypes.c_uint8, 2: ctypes.c_uint16, 4: ctypes.c_uint32, 8: ctypes.c_int64}


@cache
def interpreted(module: str, wide: bool = False) -> SimpleNamespace:
    """Return the kernels of a module as Python functions; they raise MemoryError for an address outside all buffers."""
    with patch.dict(sys.modules, {INTRINSICS: intrinsics(4 if wide else 2)}):
        for name in list(sys.modules):
            if name.startswith(FAMILY) and name.endswith("_kernels"):
                del sys.modules[name]
        kernels = import_module(module).KERNELS
    return SimpleNamespace(**{kernel.__name__: kernel for kernel in kernels})


_buffers: WeakSet[Buffer] = WeakSet()
_arrays: list[SimpleNamespace] = []
_recent: list[Any] = []  # the memory that was accessed last


@contextmanager
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let interpreted kernels use the buffers that are made in the block, and the arrays that it borrows."""

    def init(buffer: Buffer, *args: int, **options: bool) -> None:
        make(buffer, *args, **options)
        _buffers.add(buffer)

    make = Buffer.__init__
    monkeypatch.setattr(Buffer, "__init__", init)
    yield
    for memories in (_buffers, _arrays, _recent):
        memories.clear()


def borrow(*arrays: np.ndarray) -> list[int]:
    """Register arrays, and return their addresses."""
    addresses = addresses_of(*arrays)
    for array, address in zip(arrays, addresses, strict=True):
        _arrays.append(SimpleNamespace(address=address, size=array.nbytes, array=array))
    return addresses


def check(address: int, size: int) -> int:
    """Return an address; raise MemoryError unless `size` bytes from there on are in one buffer or array."""
    for memory in chain(_recent, _buffers, _arrays):
        if memory.address <= address and address + size <= memory.address + memory.size:
            _recent[:] = [memory]
            return int(address)
    raise MemoryError(f"{size} bytes at {address:#x} belong to no buffer")


def load(size: int, kind: Callable = int) -> Callable:
    return lambda address: kind(NUMBERS[size].from_address(check(address, size)).value)


def store(size: int) -> Callable:
    def store_value(address, value):
        NUMBERS[size].from_address(check(address, size)).value = int(value)

    return store_value


def load_unsigned(address):
    return np.uint64(load(8)(address) & MASK)


def compare_exchange(address, value):
    is_free = load(8)(address) == 0
    if is_free:
        store(8)(address, value)
    return is_free


def hash128(left, right):
    product = int(left) * int(right)
    return np.uint64(product & MASK ^ product >> 64)


def mask(bits) -> np.uint64:
    return np.uint64(sum(1 << index for index, bit in enumerate(bits) if bit))


def array(address, dtype, count):
    number = np.dtype(dtype)
    memory = (ctypes.c_char * (count * number.itemsize)).from_address(check(address, count * number.itemsize))
    return np.frombuffer(memory, number)


def classify(address):
    text = bytes(array(address, "u1", 64))
    is_white = [byte in b" \t\n\v\f\r" for byte in text]
    letters, digits = ([byte < 128 and test(chr(byte)) for byte in text] for test in (str.isalpha, str.isdigit))
    spaces, apostrophes = ([byte == ord(character) for byte in text] for character in " '")
    return tuple(map(mask, (letters, digits, spaces, is_white, apostrophes, [byte > 127 for byte in text])))


def intrinsics(id_bytes: int) -> ModuleType:
    """Return a module with what the BPE kernels import from lmpipe.kernels.runtime.intrinsics."""
    ids = f"u{id_bytes}"
    module = ModuleType(INTRINSICS)
    module.__dict__.update(
        ID_BYTES=id_bytes,
        ZERO=np.uint64(0),
        ONE=np.uint64(1),
        HASH_SEED_A=np.uint64(0x9E3779B97F4A7C15),
        HASH_SEED_B=np.uint64(0xC2B2AE3D27D4EB4F),
        kernel=lambda function: function,
        inlined=lambda function: function,
        round_up=round_up,
        load8=load(1),
        load32=load(4),
        load_int=load(8),
        load64=load_unsigned,
        load_acquire=load_unsigned,
        load_id=load(id_bytes),
        store8=store(1),
        store32=store(4),
        store_int=store(8),
        store64=store(8),
        store_release=store(8),
        store_id=store(id_bytes),
        compare_exchange=compare_exchange,
        prefetch=lambda address: None,
        trailing_zeros=lambda bits: (int(bits) & -int(bits)).bit_length() - 1,
        count_ones=lambda bits: int(bits).bit_count(),
        big_endian=lambda bits: np.uint64(int.from_bytes(int(bits).to_bytes(8, "little"))),
        low_bits=lambda count: np.uint64((1 << count) - 1),
        hash128=hash128,
        classify=classify,
        equal_bytes=lambda address, byte: mask(array(address, "u1", 64) == byte),
        equal_pairs=lambda address, left, right: mask(
            (array(address, ids, 17)[:16] == left) & (array(address, ids, 17)[1:] == right)
        ),
        hmin_u32=lambda address: int(array(address, "u4", 16).min()),
    )
    return module
