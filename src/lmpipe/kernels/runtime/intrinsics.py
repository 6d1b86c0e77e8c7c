"""Loads, stores and vector instructions for the kernels, as LLVM intrinsics; beside them a scalar path.

Numba's intrinsics put any LLVM code into compiled functions, and LLVM chooses the instructions of the machine (AVX-512,
AVX2, SSE2, NEON). Addresses are int64; load8 to load32 and load_int give int64, load64 gives uint64 (a text, a hash).

Two variants are compiled on demand: LMPIPE_SCALAR=1 (or a machine without vectors) replaces the vector
instructions by loops; with LMPIPE_CHECK=1 every load and store looks its address up among the registered buffers.
"""

import os
import platform

import numpy as np
from llvmlite import ir
from numba import njit, types, uint64
from numba.core import cgutils
from numba.extending import intrinsic

from lmpipe.kernels.runtime import structs

SCALAR = os.environ.get("LMPIPE_SCALAR") == "1" or platform.machine().lower() not in (
    "x86_64",
    "amd64",
    "aarch64",
    "arm64",
)
CHECKED = os.environ.get("LMPIPE_CHECK") == "1"
# Merging beyond 65,536 tokens needs symbols of 32 bits.
SYMBOL_BYTES = 4 if os.environ.get("LMPIPE_WIDE") == "1" else 2

ONE = np.uint64(1)
NONE = np.uint64(0)

# No exceptions, no bounds of arrays, no reference counts: kernels see addresses and numbers only. And no wrappers,
# whose calls of Python would tie the object code to Numba.
OPTIONS = {"error_model": "numpy", "boundscheck": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
kernel = njit(**OPTIONS)
inlined = njit(**OPTIONS, forceinline=True)

BIT, BYTE, HALF, INT, LONG = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
WIDE = ir.IntType(128)


def pointer(builder, address, kind):
    """An address as a pointer to values of a kind."""
    return builder.inttoptr(address, kind.as_pointer())


def load(builder, address, kind):
    """Load a value from an address that need not be aligned."""
    value = builder.load(pointer(builder, address, kind), typ=kind)
    value.align = 1
    return value


def external(builder, name, result, *arguments):
    """A function that LLVM or the process provides."""
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def make_load(kind, numba_type):
    """An intrinsic that loads an unsigned number and widens it to 64 bits."""

    @intrinsic
    def raw(context, address):
        def generate(context, builder, signature, arguments):
            value = load(builder, arguments[0], kind)
            return value if kind is LONG else builder.zext(value, LONG)

        return numba_type(types.int64), generate

    return guarded(raw, kind.width // 8)


def make_store(kind, numba_type):
    """An intrinsic that stores the low bits of a 64-bit number."""

    @intrinsic
    def raw(context, address, value):
        def generate(context, builder, signature, arguments):
            value = arguments[1] if kind is LONG else builder.trunc(arguments[1], kind)
            builder.store(value, pointer(builder, arguments[0], kind)).align = 1
            return context.get_dummy_value()

        return types.void(types.int64, numba_type), generate

    if not CHECKED:
        return raw
    size = kind.width // 8

    @inlined
    def store(address, value):
        raw(checked(address, size), value)

    return store


def guarded(raw, size):
    """A function of an address, or of an address and numbers, that reads `size` bytes there; checked if asked for."""
    if not CHECKED:
        return raw

    @inlined
    def read(address, *numbers):
        return raw(checked(address, size), *numbers)

    return read


@intrinsic
def raw_load(context, address):
    """Load an int64, unchecked."""
    return types.int64(types.int64), lambda context, builder, signature, arguments: load(builder, arguments[0], LONG)


@intrinsic
def raw_store(context, address, value):
    """Store an int64, unchecked."""

    def generate(context, builder, signature, arguments):
        builder.store(arguments[1], pointer(builder, arguments[0], LONG)).align = 1
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def bounds(context):
    """The address of the table of registered buffers, which the loader gives the name lmpipe_bounds."""

    def generate(context, builder, signature, arguments):
        table = builder.module.globals.get("lmpipe_bounds") or ir.GlobalVariable(builder.module, LONG, "lmpipe_bounds")
        return builder.ptrtoint(table, LONG)

    return types.int64(), generate


@kernel
def checked(address, size):
    """The address, if `size` bytes there belong to one registered buffer; else a spare place, noting the fault."""
    table = bounds()
    for place in range(structs.BOUNDS_FIRST, raw_load(table + structs.WORD * structs.BOUNDS_USED), 2):
        entry = table + structs.WORD * place
        if raw_load(entry) <= address and address + size <= raw_load(entry + structs.WORD):
            return address
    if raw_load(table + structs.WORD * structs.BOUNDS_FAILURES) == 0:
        raw_store(table + structs.WORD * structs.BOUNDS_ADDRESS, address)
        raw_store(table + structs.WORD * structs.BOUNDS_SIZE, size)
    raw_store(table + structs.WORD * structs.BOUNDS_FAILURES, 1)
    return raw_load(table + structs.WORD * structs.BOUNDS_SPARE)


load8, load16, load32 = (make_load(kind, types.int64) for kind in (BYTE, HALF, INT))
load_int, load64 = make_load(LONG, types.int64), make_load(LONG, types.uint64)
store8, store16, store32 = (make_store(kind, types.int64) for kind in (BYTE, HALF, INT))
store_int, store64 = make_store(LONG, types.int64), make_store(LONG, types.uint64)
load_symbol, store_symbol = (load32, store32) if SYMBOL_BYTES == 4 else (load16, store16)


@inlined
def field(state, number):
    """A field of a state."""
    return load_int(state + structs.WORD * number)


@inlined
def set_field(state, number, value):
    """Set a field of a state."""
    store_int(state + structs.WORD * number, value)


@intrinsic
def raw_load_published(context, address):
    """Load a uint64 that another thread may publish; what it stored before publishing is seen after it."""

    def generate(context, builder, signature, arguments):
        return builder.load_atomic(pointer(builder, arguments[0], LONG), "acquire", 8, typ=LONG)

    return types.uint64(types.int64), generate


@intrinsic
def raw_publish(context, address, value):
    """Store a uint64 for other threads, after all that was stored before."""

    def generate(context, builder, signature, arguments):
        builder.store_atomic(arguments[1], pointer(builder, arguments[0], LONG), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint64), generate


@intrinsic
def raw_claim(context, address, value):
    """Store a uint64 where there is 0, and no other thread is faster; returns whether it did."""

    def generate(context, builder, signature, arguments):
        place = pointer(builder, arguments[0], LONG)
        result = builder.cmpxchg(place, LONG(0), arguments[1], "acquire", "monotonic")
        return builder.extract_value(result, 1)

    return types.boolean(types.int64, types.uint64), generate


# The addresses of these must be multiples of 8.
load_published, publish, claim = (guarded(raw, 8) for raw in (raw_load_published, raw_publish, raw_claim))


@intrinsic
def trailing_zeros(context, bits):
    """The place of the lowest bit that is set; undefined for 0."""

    def generate(context, builder, signature, arguments):
        function = external(builder, "llvm.cttz.i64", LONG, LONG, BIT)
        return builder.call(function, [arguments[0], BIT(1)])

    return types.int64(types.uint64), generate


@intrinsic
def count_ones(context, bits):
    """The number of bits that are set."""

    def generate(context, builder, signature, arguments):
        return builder.call(external(builder, "llvm.ctpop.i64", LONG, LONG), [arguments[0]])

    return types.int64(types.uint64), generate


@intrinsic
def big_endian(context, bits):
    """The eight bytes in reverse order: as numbers, these sort as the bytes do."""

    def generate(context, builder, signature, arguments):
        return builder.call(external(builder, "llvm.bswap.i64", LONG, LONG), [arguments[0]])

    return types.uint64(types.uint64), generate


@intrinsic
def prefetch(context, address):
    """Ask for the cache line of an address, which may be anything; costs no time and changes nothing."""

    def generate(context, builder, signature, arguments):
        start = pointer(builder, arguments[0], BYTE)
        function = external(builder, "llvm.prefetch.p0", ir.VoidType(), start.type, INT, INT, INT)
        builder.call(function, [start, INT(0), INT(3), INT(1)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def mix(context, left, right):
    """Hash two numbers: the high half of their 128-bit product xor the low half (one multiplication)."""

    def generate(context, builder, signature, arguments):
        product = builder.mul(*(builder.zext(argument, WIDE) for argument in arguments))
        return builder.xor(builder.trunc(product, LONG), builder.trunc(builder.lshr(product, WIDE(64)), LONG))

    return types.uint64(types.uint64, types.uint64), generate


@inlined
def low_bits(count):
    """A mask of the `count` lowest bits, for a count below 64."""
    return (ONE << uint64(count)) - ONE


def vector(kind, lanes):
    """A vector type and a function that makes a vector with one number in every lane."""
    made = ir.VectorType(kind, lanes)
    return made, lambda value: ir.Constant(made, [value] * lanes)


def everywhere(builder, value, made):
    """A vector with a value that is only known at run time in every lane."""
    first = builder.insert_element(ir.Constant(made, ir.Undefined), value, INT(0))
    zeros = ir.Constant(ir.VectorType(INT, made.count), [0] * made.count)
    return builder.shuffle_vector(first, ir.Constant(made, ir.Undefined), zeros)


BYTES, in_bytes = vector(BYTE, 64)
SYMBOL = INT if SYMBOL_BYTES == 4 else HALF
SYMBOLS, _ = vector(SYMBOL, 16)
INTS, _ = vector(INT, 16)


@intrinsic
def vector_classify(context, address):
    """The vector form of `classify`."""
    masks = types.UniTuple(types.uint64, 6)

    def generate(context, builder, signature, arguments):
        text = load(builder, arguments[0], BYTES)

        def between(values, first, count):
            return builder.icmp_unsigned("<", builder.sub(values, in_bytes(ord(first))), in_bytes(count))

        found = [
            between(builder.or_(text, in_bytes(0x20)), "a", 26),
            between(text, "0", 10),
            builder.icmp_unsigned("==", text, in_bytes(ord(" "))),
            between(text, "\t", 5),
            builder.icmp_unsigned("==", text, in_bytes(ord("'"))),
            builder.icmp_signed("<", text, in_bytes(0)),
        ]
        letters, digits, spaces, controls, apostrophes, high = (builder.bitcast(mask, LONG) for mask in found)
        white = builder.or_(spaces, controls)
        return context.make_tuple(builder, masks, [letters, digits, spaces, white, apostrophes, high])

    return masks(types.int64), generate


@intrinsic
def vector_equal_bytes(context, address, byte):
    """The vector form of `equal_bytes`."""

    def generate(context, builder, signature, arguments):
        wanted = everywhere(builder, builder.trunc(arguments[1], BYTE), BYTES)
        return builder.bitcast(builder.icmp_unsigned("==", load(builder, arguments[0], BYTES), wanted), LONG)

    return types.uint64(types.int64, types.int64), generate


@intrinsic
def vector_equal_pairs(context, address, left, right):
    """The vector form of `equal_pairs`."""

    def generate(context, builder, signature, arguments):
        address = arguments[0]
        masks = []
        for wanted, start in zip(arguments[1:], (address, builder.add(address, LONG(SYMBOL_BYTES))), strict=True):
            wanted = everywhere(builder, builder.trunc(wanted, SYMBOL), SYMBOLS)
            masks.append(builder.icmp_unsigned("==", load(builder, start, SYMBOLS), wanted))
        return builder.zext(builder.bitcast(builder.and_(*masks), HALF), LONG)

    return types.uint64(types.int64, types.int64, types.int64), generate


@intrinsic
def vector_least(context, address):
    """The vector form of `least`."""

    def generate(context, builder, signature, arguments):
        function = external(builder, "llvm.vector.reduce.umin.v16i32", INT, INTS)
        return builder.zext(builder.call(function, [load(builder, arguments[0], INTS)]), LONG)

    return types.int64(types.int64), generate


@kernel
def scalar_classify(address):
    """The scalar form of `classify`."""
    letters = digits = spaces = white = apostrophes = high = NONE
    bit = ONE
    for place in range(64):
        byte = load8(address + place)
        if 97 <= (byte | 32) <= 122:
            letters |= bit
        elif 48 <= byte <= 57:
            digits |= bit
        elif byte == 32 or 9 <= byte <= 13:
            white |= bit
            if byte == 32:
                spaces |= bit
        elif byte == 39:
            apostrophes |= bit
        elif byte >= 128:
            high |= bit
        bit <<= ONE
    return letters, digits, spaces, white, apostrophes, high


@kernel
def scalar_equal_bytes(address, byte):
    """The scalar form of `equal_bytes`."""
    mask = NONE
    for place in range(64):
        if load8(address + place) == byte:
            mask |= ONE << uint64(place)
    return mask


@kernel
def scalar_equal_pairs(address, left, right):
    """The scalar form of `equal_pairs`."""
    mask = NONE
    for place in range(16):
        symbol = address + SYMBOL_BYTES * place
        if load_symbol(symbol) == left and load_symbol(symbol + SYMBOL_BYTES) == right:
            mask |= ONE << uint64(place)
    return mask


@kernel
def scalar_least(address):
    """The scalar form of `least`."""
    smallest = load32(address)
    for place in range(1, 16):
        smallest = min(smallest, load32(address + 4 * place))
    return smallest


# The masks of 64 bytes of text, bit k for byte k: ASCII letters, digits, spaces, white space, apostrophes, not ASCII.
classify = scalar_classify if SCALAR else guarded(vector_classify, 64)
# The mask of those of 64 bytes that equal one byte.
equal_bytes = scalar_equal_bytes if SCALAR else guarded(vector_equal_bytes, 64)
# Of 17 symbols: bit k is set where number k is the left and number k + 1 the right of a pair.
equal_pairs = scalar_equal_pairs if SCALAR else guarded(vector_equal_pairs, 17 * SYMBOL_BYTES)
# The smallest of 16 unsigned numbers of 32 bits.
least = scalar_least if SCALAR else guarded(vector_least, 64)
