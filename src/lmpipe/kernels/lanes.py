"""Vectors of sixteen float32 numbers for the kernels: what Numba does not have as values, but LLVM compiles everywhere.

Every operation rounds once, and none is fused or reordered, so results are the same bits whatever the machine's own
vectors are. Addresses are int64 and need no alignment; numbers are float32.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from lmpipe.kernels.simd import CHECKED, INT, checked, everywhere, external, guarded, inlined, load, pointer, vector

LANES = 16
LANES_BYTES = 4 * LANES
FLOAT = ir.FloatType()
FLOATS, in_floats = vector(FLOAT, LANES)
INTS, in_ints = vector(INT, LANES)
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


@intrinsic
def exponential(context, vector):
    """The exponential of every lane, to a relative error of 2e-7; 0 below -87, and for NaN."""

    def generate(context, builder, signature, arguments):
        (x,) = arguments
        inside = builder.fcmp_ordered(">", x, in_floats(LEAST_EXPONENT))
        clamped = builder.select(inside, x, in_floats(LEAST_EXPONENT))
        below = builder.fcmp_ordered("<", clamped, in_floats(GREATEST_EXPONENT))
        clamped = builder.select(below, clamped, in_floats(GREATEST_EXPONENT))
        powers = builder.fmul(clamped, in_floats(np.float32(LOG2_E)))
        # Rounded to the nearest: made positive, so that cutting off rounds down.
        shifted = builder.fptosi(builder.fadd(powers, in_floats(128.5)), INTS)
        exponent = builder.sub(shifted, in_ints(128))
        whole = builder.sitofp(exponent, FLOATS)
        rest = builder.fsub(clamped, builder.fmul(whole, in_floats(np.float32(LOG_2_HIGH))))
        rest = builder.fsub(rest, builder.fmul(whole, in_floats(np.float32(LOG_2_LOW))))
        value = in_floats(np.float32(SERIES[0]))
        for coefficient in SERIES[1:]:
            value = builder.fadd(builder.fmul(value, rest), in_floats(np.float32(coefficient)))
        # The bits of the float 2^n.
        scale = builder.bitcast(builder.shl(builder.add(exponent, in_ints(127)), in_ints(23)), FLOATS)
        return builder.select(inside, builder.fmul(value, scale), in_floats(0.0))

    return lanes(lanes), generate


@intrinsic
def square_root(context, number):
    """The square root of a number, correctly rounded."""

    def generate(context, builder, signature, arguments):
        return builder.call(external(builder, "llvm.sqrt.f32", FLOAT, FLOAT), arguments)

    return types.float32(types.float32), generate
