"""A 16-lane float32 SIMD type for Numba, built on LLVM vectors, which LLVM compiles on every machine.

Vectors have the operators +, -, * and /. Each operation rounds once, and none is fused or reordered, so that results
are the same bits whatever the machine's vectors are; only `fmuladd`, `exp_fma` and matmul blocks may fuse. Addresses
are int64; numbers are float32. Memory may also hold bfloat16 numbers, the upper halves of float32's bits.
"""

import operator

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import overload, register_model

from lmpipe.kernels.runtime.intrinsics import (
    I16,
    I32,
    I64,
    external,
    instruction,
    kernel,
    load,
    make_load,
    make_store,
    pointer,
    splat,
    vector,
)
from lmpipe.kernels.runtime.structs import FLOAT_BYTES, LANES, LANES_BYTES

F32 = ir.FloatType()
F32X16, f32x16 = vector(F32, LANES)
I32X16, i32x16 = vector(I32, LANES)
I16X16, i16x16 = vector(I16, LANES)
ZERO, ONE = np.float32(0.0), np.float32(1.0)
MASKED = np.float32(-np.inf)  # the score of a position that takes no part in a softmax
BF16_BYTES = 2
BF16_NAN = 0x7FC0  # NaN as bfloat16
# exp(x) = 2^n exp(r) with |r| <= log(2) / 2, where the Taylor series to degree 7 has a relative error below 1e-7.
LOG2_E = 1.44269504
LOG_2_HIGH, LOG_2_LOW = 0.693359375, -2.12194440e-4  # the high part times n is exact
MIN_EXPONENT, MAX_EXPONENT = -87.0, 88.0  # beyond these, exp leaves float32; it becomes 0, or exp(88)
EXP_COEFFICIENTS = [1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0]


class Float32x16(types.Type):
    """Numba type of a vector."""

    def __init__(self):
        super().__init__("lanes")


float32x16 = Float32x16()


@register_model(Float32x16)
class Float32x16Model(models.PrimitiveModel):
    """Data model: an LLVM vector, which stays in registers."""

    def __init__(self, manager, kind):
        super().__init__(manager, kind, F32X16)


load_f32, store_f32 = (make(F32, types.float32, align=4) for make in (make_load, make_store))
load_f32x16, store_f32x16 = (make(F32X16, float32x16, align=4) for make in (make_load, make_store))


# --- numbers in memory as float32 or bfloat16, sixteen or fewer ------------------------------------------------------


def bf16_to_f32(builder, halves):
    """Convert bfloat16 to float32, exactly."""
    return builder.bitcast(builder.shl(builder.zext(halves, I32X16), i32x16(16)), F32X16)


def f32_to_bf16(builder, floats):
    """Convert float32 to bfloat16, rounding to nearest even; NaN stays NaN."""
    bits = builder.bitcast(floats, I32X16)
    is_odd = builder.and_(builder.lshr(bits, i32x16(16)), i32x16(1))
    rounded = builder.add(builder.add(bits, i32x16(0x7FFF)), is_odd)
    halves = builder.trunc(builder.lshr(rounded, i32x16(16)), I16X16)
    return builder.select(builder.fcmp_unordered("uno", floats, floats), i16x16(BF16_NAN), halves)


def lane_mask(builder, count):
    """Return a mask of the first `count` lanes."""
    indices = ir.Constant(I32X16, list(range(LANES)))
    return builder.icmp_signed("<", indices, splat(builder, builder.trunc(count, I32), I32X16))


def masked_intrinsic(kind):
    """Return LLVM's suffix of masked loads and stores of a vector type, and the bytes of an element."""
    return (f"v{LANES}f32.p0", FLOAT_BYTES) if kind is F32X16 else (f"v{LANES}i16.p0", BF16_BYTES)


def make_masked_load(kind, widen):
    """Make an intrinsic that loads the first `count` numbers and reads no memory behind them; other lanes are 0."""
    suffix, size = masked_intrinsic(kind)

    @instruction(float32x16, types.int64, types.int64)
    def masked_load(builder, address, count):
        source, mask = pointer(builder, address, kind), lane_mask(builder, count)
        function = external(builder, f"llvm.masked.load.{suffix}", kind, source.type, I32, mask.type, kind)
        return widen(builder, builder.call(function, [source, I32(size), mask, ir.Constant(kind, None)]))

    return masked_load


def make_masked_store(kind, narrow):
    """Make an intrinsic that stores the first `count` numbers of a vector."""
    suffix, size = masked_intrinsic(kind)

    @instruction(types.void, types.int64, float32x16, types.int64)
    def masked_store(builder, address, values, count):
        target, mask = pointer(builder, address, kind), lane_mask(builder, count)
        function = external(builder, f"llvm.masked.store.{suffix}", ir.VoidType(), kind, target.type, I32, mask.type)
        builder.call(function, [narrow(builder, values), target, I32(size), mask])

    return masked_store


def unchanged(builder, values):
    """Return float32 values as they are."""
    return values


load_f32_masked, store_f32_masked = make_masked_load(F32X16, unchanged), make_masked_store(F32X16, unchanged)
load_bf16_masked, store_bf16_masked = make_masked_load(I16X16, bf16_to_f32), make_masked_store(I16X16, f32_to_bf16)


@instruction(float32x16, float32x16, types.int64, types.float32)
def select_tail(builder, values, count, number):
    """Keep the first `count` lanes, and set the others to a number."""
    return builder.select(lane_mask(builder, count), values, splat(builder, number, F32X16))


# --- arithmetic ------------------------------------------------------------------------------------------------------


def emit_maximum(builder, left, right):
    """Emit the maximum of each lane; the right number if either is NaN."""
    return builder.select(builder.fcmp_ordered(">", left, right), left, right)


binary = instruction(float32x16, float32x16, float32x16)
maximum = binary(emit_maximum)


def define_operator(function, emit):
    """Define an operator of vectors by a function (builder, left, right) that emits LLVM code."""
    compute = binary(lambda builder, left, right: emit(builder, left, right))

    @overload(function, jit_options={"forceinline": True})
    def operate(left, right):
        if left is float32x16 and right is float32x16:
            return lambda left, right: compute(left, right)
        return None


for function, emit in (
    (operator.add, ir.IRBuilder.fadd),
    (operator.sub, ir.IRBuilder.fsub),
    (operator.mul, ir.IRBuilder.fmul),
    (operator.truediv, ir.IRBuilder.fdiv),
):
    define_operator(function, emit)


@instruction(float32x16, types.float32)
def broadcast(builder, number):
    """Broadcast a number to every lane."""
    return splat(builder, number, F32X16)


def horizontal(combine):
    """Make an intrinsic that reduces all lanes to one number, by halves, always in the same order."""

    @instruction(types.float32, float32x16)
    def fold(builder, values):
        count = LANES
        while count > 1:
            count //= 2
            halves = (range(count), range(count, 2 * count))
            masks = [ir.Constant(ir.VectorType(I32, count), list(half)) for half in halves]
            low, high = (builder.shuffle_vector(values, values, mask) for mask in masks)
            values = combine(builder, low, high)
        return builder.extract_element(values, I32(0))

    return fold


hsum = horizontal(lambda builder, left, right: builder.fadd(left, right))
hmax = horizontal(emit_maximum)


def emit_fmuladd(builder, total, left, right):
    """Emit total + left * right, fused if the machine has FMA."""
    function = external(builder, f"llvm.fmuladd.v{LANES}f32", F32X16, F32X16, F32X16, F32X16)
    return builder.call(function, [left, right, total])


def emit_mul_add(builder, total, left, right):
    """Emit total + left * right, rounded twice."""
    return builder.fadd(builder.fmul(left, right), total)


def make_exp(multiply_add):
    """Make an intrinsic for exp of every lane, with a relative error of 2e-7; 0 below -87, NaN for NaN."""

    @instruction(float32x16, float32x16)
    def exp(builder, x):
        inside = builder.fcmp_ordered(">", x, f32x16(MIN_EXPONENT))
        clamped = builder.select(inside, x, f32x16(MIN_EXPONENT))
        below = builder.fcmp_ordered("<", clamped, f32x16(MAX_EXPONENT))
        clamped = builder.select(below, clamped, f32x16(MAX_EXPONENT))
        # Round to nearest: the sum is positive, so that truncation rounds down.
        shifted = multiply_add(builder, f32x16(128.5), clamped, f32x16(np.float32(LOG2_E)))
        exponent = builder.sub(builder.fptosi(shifted, I32X16), i32x16(128))
        whole = builder.sitofp(exponent, F32X16)
        rest = multiply_add(builder, clamped, whole, f32x16(np.float32(-LOG_2_HIGH)))
        rest = multiply_add(builder, rest, whole, f32x16(np.float32(-LOG_2_LOW)))
        value = f32x16(np.float32(EXP_COEFFICIENTS[0]))
        for coefficient in EXP_COEFFICIENTS[1:]:
            value = multiply_add(builder, f32x16(np.float32(coefficient)), value, rest)
        # Bits of the float 2^n.
        scale = builder.bitcast(builder.shl(builder.add(exponent, i32x16(127)), i32x16(23)), F32X16)
        result = builder.select(inside, builder.fmul(value, scale), f32x16(0.0))
        return builder.select(builder.fcmp_unordered("uno", x, x), x, result)

    return exp


exp, exp_fma = make_exp(emit_mul_add), make_exp(emit_fmuladd)


@instruction(float32x16, float32x16, float32x16, float32x16)
def fmuladd(builder, total, left, right):
    """Compute total + left * right, fused if the machine has FMA."""
    return emit_fmuladd(builder, total, left, right)


@instruction(float32x16, float32x16, float32x16, types.float32)
def rotate_pairs(builder, values, cos_sin, sign):
    """Rotate pairs of neighbouring lanes (RoPE) by their (cosine, sine); `sign` -1 rotates back."""

    def permute(vector, indices):
        return builder.shuffle_vector(vector, vector, ir.Constant(I32X16, list(indices)))

    cosines, sines = (permute(cos_sin, [lane // 2 * 2 + half for lane in range(LANES)]) for half in (0, 1))
    crossed = permute(values, [lane ^ 1 for lane in range(LANES)])
    signs = ir.Constant(F32X16, [-1.0, 1.0] * (LANES // 2))
    sines = builder.fmul(sines, builder.fmul(signs, splat(builder, sign, F32X16)))
    return builder.fadd(builder.fmul(values, cosines), builder.fmul(crossed, sines))


@instruction(types.void, *[types.int64] * 4)
def transpose_16x16(builder, target, target_stride, source, source_stride):
    """Transpose a block of 16 by 16 numbers; strides are the bytes from one row to the next."""

    def address_of(start, stride, row):
        return builder.add(start, builder.mul(stride, I64(row)))

    rows = [load(builder, address_of(source, source_stride, row), F32X16, align=4) for row in range(LANES)]
    # Swap the off-diagonal blocks of each pair of rows: of 1 x 1 numbers, then 2 x 2, 4 x 4 and 8 x 8.
    for distance in (1, 2, 4, 8):
        low = [lane if not lane & distance else LANES + lane - distance for lane in range(LANES)]
        high = [lane + distance if not lane & distance else LANES + lane for lane in range(LANES)]
        for row in range(LANES):
            if not row & distance:
                pair = rows[row], rows[row + distance]
                for target_row, mask in ((row, low), (row + distance, high)):
                    rows[target_row] = builder.shuffle_vector(*pair, ir.Constant(I32X16, mask))
    for row, values in enumerate(rows):
        builder.store(values, pointer(builder, address_of(target, target_stride, row), F32X16)).align = 4


def make_matmul_block(rows, vectors, is_added):
    """Make an intrinsic that computes a block of a matrix product: `rows` rows and `vectors` times 16 columns.

    C[i, j] becomes, or is increased by (`is_added`), the sum over k of A[i, k] B[k, j], of `depth` terms. Strides are
    the bytes from one row to the next, `a_step` those from one k to the next in A. The sums stay in registers.
    """

    @instruction(types.void, *[types.int64] * 8)
    def block(builder, c, c_stride, a, a_stride, a_step, b, b_stride, depth):
        def address_of(start, stride, row, vector=0):
            return builder.add(builder.add(start, builder.mul(stride, I64(row))), I64(LANES_BYTES * vector))

        cells = [(row, vector) for row in range(rows) for vector in range(vectors)]
        sums = {cell: cgutils.alloca_once(builder, F32X16) for cell in cells}
        for cell, total in sums.items():
            start = load(builder, address_of(c, c_stride, *cell), F32X16, align=4) if is_added else f32x16(0.0)
            builder.store(start, total)
        with cgutils.for_range(builder, depth) as loop:
            b_row = builder.add(b, builder.mul(b_stride, loop.index))
            a_column = builder.add(a, builder.mul(a_step, loop.index))
            right = [load(builder, address_of(b_row, I64(0), 0, vector), F32X16, align=4) for vector in range(vectors)]
            for row in range(rows):
                factor = load(builder, address_of(a_column, a_stride, row), F32, align=4)
                left = splat(builder, factor, F32X16)
                for vector in range(vectors):
                    total = sums[row, vector]
                    value = emit_fmuladd(builder, builder.load(total, typ=F32X16), left, right[vector])
                    builder.store(value, total)
        for cell, total in sums.items():
            output = pointer(builder, address_of(c, c_stride, *cell), F32X16)
            builder.store(builder.load(total, typ=F32X16), output).align = 4

    return block


@instruction(types.float32, types.float32)
def sqrt(builder, number):
    """Return the square root of a number, correctly rounded."""
    return builder.call(external(builder, "llvm.sqrt.f32", F32, F32), [number])


# --- a row of scores -------------------------------------------------------------------------------------------------


def make_softmax_numerators(exp):
    """Make a kernel that replaces `count` scores by exp(score - maximum); it returns the sum of these numerators.

    The numbers that follow, up to `size` bytes, become 0. `exp` is one of the exponentials above.
    """

    @kernel
    def softmax_numerators(scores, count, size):
        for offset in range(FLOAT_BYTES * count, size, FLOAT_BYTES):
            store_f32(scores + offset, MASKED)
        highest = load_f32x16(scores)
        for offset in range(LANES_BYTES, size, LANES_BYTES):
            highest = maximum(highest, load_f32x16(scores + offset))
        highest = broadcast(hmax(highest))
        total = broadcast(ZERO)
        for offset in range(0, size, LANES_BYTES):
            values = exp(load_f32x16(scores + offset) - highest)
            store_f32x16(scores + offset, values)
            total = total + values
        return hsum(total)

    return softmax_numerators
