"""Vectors of sixteen float32 numbers for the kernels: what Numba does not have as values, but LLVM compiles everywhere.

Every operation rounds once, and none is fused or reordered, so results are the same bits whatever the machine's own
vectors are; `plus_product`, `fused_exponential` and `product_block` alone may fuse. Addresses are int64 and need no
alignment; numbers are float32. Memory may also hold bfloat16 numbers, the upper halves of float32's bits.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from lmpipe.kernels.runtime import structs
from lmpipe.kernels.runtime.intrinsics import (
    CHECKED,
    HALF,
    INT,
    LONG,
    checked,
    everywhere,
    external,
    guarded,
    inlined,
    kernel,
    load,
    pointer,
    vector,
)

LANES, LANES_BYTES = structs.LANES, structs.LANES_BYTES
FLOAT = ir.FloatType()
FLOATS, in_floats = vector(FLOAT, LANES)
INTS, in_ints = vector(INT, LANES)
HALVES, in_halves = vector(HALF, LANES)
HALF_BYTES = 2
BROKEN_HALF = 0x7FC0  # NaN as bfloat16
# exp(x) = 2^n exp(r), with r within half of log 2: its Taylor series to the seventh power is within 1e-7 of it.
LOG2_E = 1.44269504
LOG_2_HIGH, LOG_2_LOW = 0.693359375, -2.12194440e-4  # the high part times n is exact
LEAST_EXPONENT, GREATEST_EXPONENT = -87.0, 88.0  # beyond these, exp leaves float32: 0 and its largest value stand there
SERIES = [1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0]


class LanesType(types.Type):
    """Numba's type of a vector."""

    def __init__(self):
        super().__init__("lanes")


lanes = LanesType()


@register_model(LanesType)
class LanesModel(models.PrimitiveModel):
    """A vector is one of LLVM's vectors, which it keeps in registers."""

    def __init__(self, manager, kind):
        super().__init__(manager, kind, FLOATS)


def make_load(kind, numba_type):
    """An intrinsic that loads a number or a vector."""

    @intrinsic
    def raw(context, address):
        def generate(context, builder, signature, arguments):
            return load_from(builder, arguments[0], kind)

        return numba_type(types.int64), generate

    return guarded(raw, size_of(kind))


def make_store(kind, numba_type):
    """An intrinsic that stores a number or a vector."""

    @intrinsic
    def raw(context, address, value):
        def generate(context, builder, signature, arguments):
            builder.store(arguments[1], pointer(builder, arguments[0], kind)).align = 4
            return context.get_dummy_value()

        return types.void(types.int64, numba_type), generate

    if not CHECKED:
        return raw
    size = size_of(kind)

    @inlined
    def store(address, value):
        raw(checked(address, size), value)

    return store


def load_from(builder, address, kind):
    """Load floats, which lie at multiples of their size."""
    value = load(builder, address, kind)
    value.align = 4
    return value


def size_of(kind):
    """The bytes of a float or of a vector."""
    return 4 if kind is FLOAT else LANES_BYTES


load_float, store_float = make_load(FLOAT, types.float32), make_store(FLOAT, types.float32)
load_lanes, store_lanes = make_load(FLOATS, lanes), make_store(FLOATS, lanes)


# --- numbers in memory as float32 or bfloat16, sixteen or fewer ------------------------------------------------------


def widened(builder, halves):
    """The float32 numbers that bfloat16 ones are."""
    return builder.bitcast(builder.shl(builder.zext(halves, INTS), in_ints(16)), FLOATS)


def narrowed(builder, floats):
    """The nearest bfloat16 numbers, of two equally near the even one; NaN stays NaN."""
    bits = builder.bitcast(floats, INTS)
    is_odd = builder.and_(builder.lshr(bits, in_ints(16)), in_ints(1))
    rounded = builder.add(builder.add(bits, in_ints(0x7FFF)), is_odd)
    halves = builder.trunc(builder.lshr(rounded, in_ints(16)), HALVES)
    return builder.select(builder.fcmp_unordered("uno", floats, floats), in_halves(BROKEN_HALF), halves)


def first_lanes(builder, count):
    """A mask of the first `count` lanes."""
    places = ir.Constant(INTS, list(range(LANES)))
    return builder.icmp_signed("<", places, everywhere(builder, builder.trunc(count, INT), INTS))


def make_load_some(kind, widen):
    """An intrinsic that loads the first numbers of a vector, the rest being 0, and touches no memory behind them."""

    @intrinsic
    def raw(context, address, count):
        def generate(context, builder, signature, arguments):
            place = pointer(builder, arguments[0], kind)
            mask = first_lanes(builder, arguments[1])
            name = f"llvm.masked.load.v{LANES}{'f32' if kind is FLOATS else 'i16'}.p0"
            function = external(builder, name, kind, place.type, INT, mask.type, kind)
            size = 4 if kind is FLOATS else HALF_BYTES
            return widen(builder, builder.call(function, [place, INT(size), mask, ir.Constant(kind, None)]))

        return lanes(types.int64, types.int64), generate

    if not CHECKED:
        return raw
    size = 4 if kind is FLOATS else HALF_BYTES

    @inlined
    def read(address, count):
        return raw(checked(address, size * count), count)

    return read


def make_store_some(kind, narrow):
    """An intrinsic that stores the first numbers of a vector."""

    @intrinsic
    def raw(context, address, value, count):
        def generate(context, builder, signature, arguments):
            place = pointer(builder, arguments[0], kind)
            mask = first_lanes(builder, arguments[2])
            name = f"llvm.masked.store.v{LANES}{'f32' if kind is FLOATS else 'i16'}.p0"
            function = external(builder, name, ir.VoidType(), kind, place.type, INT, mask.type)
            size = 4 if kind is FLOATS else HALF_BYTES
            builder.call(function, [narrow(builder, arguments[1]), place, INT(size), mask])
            return context.get_dummy_value()

        return types.void(types.int64, lanes, types.int64), generate

    if not CHECKED:
        return raw
    size = 4 if kind is FLOATS else HALF_BYTES

    @inlined
    def store(address, value, count):
        raw(checked(address, size * count), value, count)

    return store


def unchanged(builder, values):
    """Float32 numbers are float32 numbers."""
    return values


load_some, store_some = make_load_some(FLOATS, unchanged), make_store_some(FLOATS, unchanged)
load_some_halves, store_some_halves = make_load_some(HALVES, widened), make_store_some(HALVES, narrowed)


@intrinsic
def filled(context, values, count, number):
    """The first `count` lanes, and a number in the others."""

    def generate(context, builder, signature, arguments):
        values, count, number = arguments
        return builder.select(first_lanes(builder, count), values, everywhere(builder, number, FLOATS))

    return lanes(lanes, types.int64, types.float32), generate


# --- arithmetic ------------------------------------------------------------------------------------------------------


def operation(emit):
    """An intrinsic of two vectors; `emit` makes LLVM's instruction."""

    @intrinsic
    def apply(context, left, right):
        return lanes(lanes, lanes), lambda context, builder, signature, arguments: emit(builder, *arguments)

    return apply


def larger_of(builder, left, right):
    """The larger of two numbers; the right one where either is NaN."""
    return builder.select(builder.fcmp_ordered(">", left, right), left, right)


plus = operation(lambda builder, left, right: builder.fadd(left, right))
minus = operation(lambda builder, left, right: builder.fsub(left, right))
times = operation(lambda builder, left, right: builder.fmul(left, right))
over = operation(lambda builder, left, right: builder.fdiv(left, right))
larger = operation(larger_of)


@intrinsic
def spread(context, number):
    """A number in every lane."""

    def generate(context, builder, signature, arguments):
        return everywhere(builder, arguments[0], FLOATS)

    return lanes(types.float32), generate


def folded(combine):
    """An intrinsic that combines all lanes into one number: halves with each other, always in the same order."""

    @intrinsic
    def fold(context, vector):
        def generate(context, builder, signature, arguments):
            (left,) = arguments
            count = LANES
            while count > 1:
                count //= 2
                halves = (range(count), range(count, 2 * count))
                masks = [ir.Constant(ir.VectorType(INT, count), list(half)) for half in halves]
                low, high = (builder.shuffle_vector(left, left, mask) for mask in masks)
                left = combine(builder, low, high)
            return builder.extract_element(left, INT(0))

        return types.float32(lanes), generate

    return fold


total = folded(lambda builder, left, right: builder.fadd(left, right))
largest = folded(larger_of)


def fused(builder, total, left, right):
    """Total + left * right, rounded once where the machine can."""
    function = external(builder, f"llvm.fmuladd.v{LANES}f32", FLOATS, FLOATS, FLOATS, FLOATS)
    return builder.call(function, [left, right, total])


def unfused(builder, total, left, right):
    """Total + left * right, rounded twice."""
    return builder.fadd(builder.fmul(left, right), total)


def exponential_by(multiply_add):
    """An intrinsic for the exponential of every lane, to a relative error of 2e-7; 0 below -87, and NaN for NaN."""

    @intrinsic
    def exponential(context, vector):
        def generate(context, builder, signature, arguments):
            (x,) = arguments
            inside = builder.fcmp_ordered(">", x, in_floats(LEAST_EXPONENT))
            clamped = builder.select(inside, x, in_floats(LEAST_EXPONENT))
            below = builder.fcmp_ordered("<", clamped, in_floats(GREATEST_EXPONENT))
            clamped = builder.select(below, clamped, in_floats(GREATEST_EXPONENT))
            # Rounded to the nearest: made positive, so that cutting off rounds down.
            shifted = multiply_add(builder, in_floats(128.5), clamped, in_floats(np.float32(LOG2_E)))
            exponent = builder.sub(builder.fptosi(shifted, INTS), in_ints(128))
            whole = builder.sitofp(exponent, FLOATS)
            rest = multiply_add(builder, clamped, whole, in_floats(np.float32(-LOG_2_HIGH)))
            rest = multiply_add(builder, rest, whole, in_floats(np.float32(-LOG_2_LOW)))
            value = in_floats(np.float32(SERIES[0]))
            for coefficient in SERIES[1:]:
                value = multiply_add(builder, in_floats(np.float32(coefficient)), value, rest)
            # The bits of the float 2^n.
            scale = builder.bitcast(builder.shl(builder.add(exponent, in_ints(127)), in_ints(23)), FLOATS)
            found = builder.select(inside, builder.fmul(value, scale), in_floats(0.0))
            return builder.select(builder.fcmp_unordered("uno", x, x), x, found)

        return lanes(lanes), generate

    return exponential


exponential, fused_exponential = exponential_by(unfused), exponential_by(fused)


@intrinsic
def plus_product(context, total, left, right):
    """Total + left * right, rounded once where the machine can."""

    def generate(context, builder, signature, arguments):
        return fused(builder, *arguments)

    return lanes(lanes, lanes, lanes), generate


@intrinsic
def turned(context, values, turns, sign):
    """Pairs of lanes, turned by the (cosine, sine) that `turns` has for each; back where `sign` is -1."""

    def generate(context, builder, signature, arguments):
        values, turns, sign = arguments

        def picked(vector, places):
            return builder.shuffle_vector(vector, vector, ir.Constant(INTS, list(places)))

        cosines, sines = (picked(turns, [lane // 2 * 2 + half for lane in range(LANES)]) for half in (0, 1))
        crossed = picked(values, [lane ^ 1 for lane in range(LANES)])
        signs = ir.Constant(FLOATS, [-1.0, 1.0] * (LANES // 2))
        sines = builder.fmul(sines, builder.fmul(signs, everywhere(builder, sign, FLOATS)))
        return builder.fadd(builder.fmul(values, cosines), builder.fmul(crossed, sines))

    return lanes(lanes, lanes, types.float32), generate


@intrinsic
def transpose_block(context, target, target_stride, source, source_stride):
    """Write sixteen rows of sixteen numbers as columns; rows lie so many bytes apart."""

    def generate(context, builder, signature, arguments):
        target, target_stride, source, source_stride = arguments

        def place(start, stride, row):
            return builder.add(start, builder.mul(stride, LONG(row)))

        rows = [load_from(builder, place(source, source_stride, row), FLOATS) for row in range(LANES)]
        # Of each two rows, squares of numbers beside the diagonal change places: of one, then two, four and eight.
        for distance in (1, 2, 4, 8):
            low = [lane if not lane & distance else LANES + lane - distance for lane in range(LANES)]
            high = [lane + distance if not lane & distance else LANES + lane for lane in range(LANES)]
            for row in range(LANES):
                if not row & distance:
                    pair = rows[row], rows[row + distance]
                    for place_of, mask in ((row, low), (row + distance, high)):
                        rows[place_of] = builder.shuffle_vector(*pair, ir.Constant(INTS, mask))
        for row, values in enumerate(rows):
            builder.store(values, pointer(builder, place(target, target_stride, row), FLOATS)).align = 4
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


def product_block(rows, vectors, is_added):
    """An intrinsic that computes a part of a matrix product: `rows` rows and `vectors` times sixteen columns of it.

    C[i, j] is, or grows by, the sum over k of A[i, k] * B[k, j]. Every number of A stands at its own address: from one
    row and one k to the next it is so many bytes. The sums stay in registers.
    """

    @intrinsic
    def block(context, c, c_stride, a, a_stride, a_step, b, b_stride, depth):
        def generate(context, builder, signature, arguments):
            c, c_stride, a, a_stride, a_step, b, b_stride, depth = arguments

            def place(start, stride, row, vector=0):
                return builder.add(builder.add(start, builder.mul(stride, LONG(row))), LONG(LANES_BYTES * vector))

            cells = [(row, vector) for row in range(rows) for vector in range(vectors)]
            sums = {cell: cgutils.alloca_once(builder, FLOATS) for cell in cells}
            for cell, found in sums.items():
                start = load_from(builder, place(c, c_stride, *cell), FLOATS) if is_added else in_floats(0.0)
                builder.store(start, found)
            with cgutils.for_range(builder, depth) as loop:
                b_row = builder.add(b, builder.mul(b_stride, loop.index))
                a_column = builder.add(a, builder.mul(a_step, loop.index))
                right = [load_from(builder, place(b_row, LONG(0), 0, vector), FLOATS) for vector in range(vectors)]
                for row in range(rows):
                    factor = load_from(builder, place(a_column, a_stride, row), FLOAT)
                    left = everywhere(builder, factor, FLOATS)
                    for vector in range(vectors):
                        found = sums[row, vector]
                        builder.store(fused(builder, builder.load(found, typ=FLOATS), left, right[vector]), found)
            for cell, found in sums.items():
                builder.store(
                    builder.load(found, typ=FLOATS), pointer(builder, place(c, c_stride, *cell), FLOATS)
                ).align = 4
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), generate

    return block


@intrinsic
def square_root(context, number):
    """The square root of a number, correctly rounded."""

    def generate(context, builder, signature, arguments):
        return builder.call(external(builder, "llvm.sqrt.f32", FLOAT, FLOAT), arguments)

    return types.float32(types.float32), generate


# --- a row of scores -------------------------------------------------------------------------------------------------

MASKED = np.float32(-np.inf)


def soften_by(power):
    """A kernel for the numerators of the softmax of `count` scores, in place; it returns their sum.

    What fills `size` bytes behind them becomes 0. `power` is the exponential function.
    """

    @kernel
    def soften(scores, count, size):
        for offset in range(4 * count, size, 4):
            store_float(scores + offset, MASKED)
        highest = load_lanes(scores)
        for offset in range(LANES_BYTES, size, LANES_BYTES):
            highest = larger(highest, load_lanes(scores + offset))
        highest = spread(largest(highest))
        found = spread(np.float32(0.0))
        for offset in range(0, size, LANES_BYTES):
            values = power(minus(load_lanes(scores + offset), highest))
            store_lanes(scores + offset, values)
            found = plus(found, values)
        return total(found)

    return soften
