"""Loads, stores and vector instructions for kernels, as LLVM intrinsics.

Numba's `intrinsic` puts any LLVM code into compiled functions, and LLVM chooses the machine's instructions (AVX-512,
AVX2, SSE2, NEON). Addresses are int64; load8 to load32 and load_int return int64, load64 returns uint64 (text, hashes).
"""

import inspect
import os

import numpy as np
from llvmlite import ir
from numba import njit, types, uint64
from numba.core import cgutils
from numba.extending import intrinsic

from lmpipe.kernels.runtime import structs

# Vocabularies of more than 65,536 tokens need ids of 32 bits.
ID_BYTES = 4 if os.environ.get("LMPIPE_WIDE") == "1" else 2

ONE = np.uint64(1)
ZERO = np.uint64(0)

# No exceptions, bounds checks or reference counts: kernels see addresses and numbers only. No wrappers either: they
# call Python, which would tie the object code to Numba.
OPTIONS = {"error_model": "numpy", "boundscheck": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
kernel = njit(**OPTIONS)
inlined = njit(**OPTIONS, forceinline=True)
round_up = inlined(structs.round_up)

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
I128 = ir.IntType(128)


def pointer(builder, address, kind):
    """Convert an address to a pointer to values of a type."""
    return builder.inttoptr(address, kind.as_pointer())


def load(builder, address, kind, align=1):
    """Load a value from an address that is a multiple of `align`."""
    value = builder.load(pointer(builder, address, kind), typ=kind)
    value.align = align
    return value


def external(builder, name, result, *arguments):
    """Declare a function that LLVM or the process provides."""
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def instruction(result, *arguments):
    """Turn a function (builder, *values) that emits LLVM code into an intrinsic with these Numba types.

    The function returns a value, a list of them for a tuple, or anything if `result` is void.
    """

    def decorate(emit):
        def typed(context, *_):
            def generate(context, builder, signature, values):
                value = emit(builder, *values)
                if result is types.void:
                    return context.get_dummy_value()
                return context.make_tuple(builder, result, value) if isinstance(value, list) else value

            return result(*arguments), generate

        # Numba asks for the names of the arguments.
        typed.__signature__ = inspect.signature(emit)
        typed.__name__ = emit.__name__
        return intrinsic(typed)

    return decorate


def make_load(kind, numba_type, align=1):
    """Make an intrinsic that loads a value of a type; integers are extended to 64 bits, without a sign."""

    @instruction(numba_type, types.int64)
    def load_value(builder, address):
        value = load(builder, address, kind, align)
        return builder.zext(value, I64) if kind in (I8, I16, I32) else value

    return load_value


def make_store(kind, numba_type, align=1):
    """Make an intrinsic that stores a value of a type: of an integer of 64 bits, the low ones."""

    @instruction(types.void, types.int64, numba_type)
    def store_value(builder, address, value):
        value = builder.trunc(value, kind) if kind in (I8, I16, I32) else value
        builder.store(value, pointer(builder, address, kind)).align = align

    return store_value


load8, load16, load32, load_int = (make_load(kind, types.int64) for kind in (I8, I16, I32, I64))
store8, store16, store32, store_int = (make_store(kind, types.int64) for kind in (I8, I16, I32, I64))
load64, store64 = make_load(I64, types.uint64), make_store(I64, types.uint64)
load_id, store_id = (load32, store32) if ID_BYTES == 4 else (load16, store16)

# The addresses of the next three must be multiples of 8.


@instruction(types.uint64, types.int64)
def load_acquire(builder, address):
    """Load a uint64 with acquire order: stores before the store_release that wrote it are visible afterwards."""
    return builder.load_atomic(pointer(builder, address, I64), "acquire", 8, typ=I64)


@instruction(types.void, types.int64, types.uint64)
def store_release(builder, address, value):
    """Store a uint64 with release order."""
    builder.store_atomic(value, pointer(builder, address, I64), "release", 8)


@instruction(types.boolean, types.int64, types.uint64)
def compare_exchange(builder, address, value):
    """Store a uint64 if 0 is there, atomically; return True if it was stored."""
    result = builder.cmpxchg(pointer(builder, address, I64), I64(0), value, "acquire", "monotonic")
    return builder.extract_value(result, 1)


@instruction(types.int64, types.uint64)
def trailing_zeros(builder, bits):
    """Return the index of the lowest bit that is set; undefined for 0."""
    return builder.call(external(builder, "llvm.cttz.i64", I64, I64, I1), [bits, I1(1)])


@instruction(types.int64, types.uint64)
def count_ones(builder, bits):
    """Return the number of bits that are set."""
    return builder.call(external(builder, "llvm.ctpop.i64", I64, I64), [bits])


@instruction(types.uint64, types.uint64)
def big_endian(builder, bits):
    """Reverse the eight bytes: the resulting numbers sort as the bytes do."""
    return builder.call(external(builder, "llvm.bswap.i64", I64, I64), [bits])


@instruction(types.void, types.int64)
def prefetch(builder, address):
    """Prefetch the cache line of an address, valid or not."""
    start = pointer(builder, address, I8)
    function = external(builder, "llvm.prefetch.p0", ir.VoidType(), start.type, I32, I32, I32)
    builder.call(function, [start, I32(0), I32(3), I32(1)])


# Seeds of the hashes: 2^64 divided by the golden ratio, and a prime of xxHash.
HASH_SEED_A = np.uint64(0x9E3779B97F4A7C15)
HASH_SEED_B = np.uint64(0xC2B2AE3D27D4EB4F)


@instruction(types.uint64, types.uint64, types.uint64)
def hash128(builder, left, right):
    """Hash two numbers: the high half of their 128-bit product xor the low half."""
    product = builder.mul(builder.zext(left, I128), builder.zext(right, I128))
    return builder.xor(builder.trunc(product, I64), builder.trunc(builder.lshr(product, I128(64)), I64))


@inlined
def low_bits(count):
    """Return a mask of the `count` lowest bits, for a count below 64."""
    return (ONE << uint64(count)) - ONE


def vector(kind, lanes):
    """Return a vector type, and a function that makes a constant vector with one number in every lane."""
    vector_type = ir.VectorType(kind, lanes)
    return vector_type, lambda value: ir.Constant(vector_type, [value] * lanes)


def splat(builder, value, vector_type):
    """Broadcast a value that is known at run time to every lane."""
    undefined = ir.Constant(vector_type, ir.Undefined)
    zeros = ir.Constant(ir.VectorType(I32, vector_type.count), [0] * vector_type.count)
    return builder.shuffle_vector(builder.insert_element(undefined, value, I32(0)), undefined, zeros)


I8X64, i8x64 = vector(I8, 64)
ID_TYPE = I32 if ID_BYTES == 4 else I16
IDS, _ = vector(ID_TYPE, 16)
I32X16, _ = vector(I32, 16)


@instruction(types.UniTuple(types.uint64, 6), types.int64)
def classify(builder, address):
    """Return masks of 64 bytes of text, bit k for byte k.

    They are: ASCII letters, digits, spaces, white space, apostrophes, bytes that are not ASCII.
    """
    text = load(builder, address, I8X64)

    def between(values, first, count):
        return builder.icmp_unsigned("<", builder.sub(values, i8x64(ord(first))), i8x64(count))

    masks = [
        between(builder.or_(text, i8x64(0x20)), "a", 26),
        between(text, "0", 10),
        builder.icmp_unsigned("==", text, i8x64(ord(" "))),
        between(text, "\t", 5),
        builder.icmp_unsigned("==", text, i8x64(ord("'"))),
        builder.icmp_signed("<", text, i8x64(0)),
    ]
    letters, digits, spaces, controls, apostrophes, high = (builder.bitcast(mask, I64) for mask in masks)
    return [letters, digits, spaces, builder.or_(spaces, controls), apostrophes, high]


@instruction(types.uint64, types.int64, types.int64)
def equal_bytes(builder, address, byte):
    """Return the mask of those of 64 bytes that equal one byte."""
    bytes_64 = splat(builder, builder.trunc(byte, I8), I8X64)
    return builder.bitcast(builder.icmp_unsigned("==", load(builder, address, I8X64), bytes_64), I64)


@instruction(types.uint64, types.int64, types.int64, types.int64)
def equal_pairs(builder, address, left, right):
    """Return a mask of 16 pairs of neighbours among 17 ids: bit k is set if id k is `left` and id k + 1 is `right`."""
    masks = []
    for token_id, start in ((left, address), (right, builder.add(address, I64(ID_BYTES)))):
        ids = splat(builder, builder.trunc(token_id, ID_TYPE), IDS)
        masks.append(builder.icmp_unsigned("==", load(builder, start, IDS), ids))
    return builder.zext(builder.bitcast(builder.and_(*masks), I16), I64)


@instruction(types.int64, types.int64)
def hmin_u32(builder, address):
    """Return the smallest of 16 uint32."""
    function = external(builder, "llvm.vector.reduce.umin.v16i32", I32, I32X16)
    return builder.zext(builder.call(function, [load(builder, address, I32X16)]), I64)
