"""The layers of the model in training, forwards and backwards: all that lies between the matrix products.

Every kernel takes the address of its arguments (layout.py names them), the first of its units of work and the one after
the last, and the number of the thread that calls it. What a unit gives does not depend on the others, so results are
the same however threads share the units. Rows are float32 (`size` 4) or bfloat16 (`size` 2) numbers, one behind the
other; all are computed in float32.
"""

import numpy as np

from lmpipe.kernels.runtime.intrinsics import CHECKED, bounds_check, inlined, kernel, load_int
from lmpipe.kernels.runtime.simd_float32 import (
    BF16_BYTES,
    LANES,
    MASKED,
    add,
    broadcast,
    div,
    exp_fma,
    fmuladd,
    hmax,
    hsum,
    load_bf16_masked,
    load_f32,
    load_f32_masked,
    load_f32x16,
    make_matmul_block,
    make_softmax_numerators,
    maximum,
    mul,
    rotate_pairs,
    select_tail,
    sqrt,
    store_bf16_masked,
    store_f32,
    store_f32_masked,
    store_f32x16,
    sub,
    transpose_16x16,
)
from lmpipe.kernels.runtime.structs import LANES_BYTES, WORD
from lmpipe.kernels.transformer import structs
from lmpipe.kernels.transformer.structs import ATTENTION, ATTENTION_BLOCK, LOSS, NORM, NORM_GROUP, SWIGLU

FLOAT_BYTES = 4
BLOCK = ATTENTION_BLOCK
ZERO, ONE = np.float32(0.0), np.float32(1.0)
NORM_EPS = np.float32(structs.NORM_EPS)
softmax_numerators = make_softmax_numerators(exp_fma)


# --- rows of numbers -------------------------------------------------------------------------------------------------


@inlined
def read(row, place, count, size):
    """Sixteen numbers of a row from `place` on; behind the `count` that it has there are zeros."""
    left = count - place
    if size == FLOAT_BYTES:
        address = row + FLOAT_BYTES * place
        return load_f32x16(address) if left >= LANES else load_f32_masked(address, left)
    return load_bf16_masked(row + BF16_BYTES * place, min(left, LANES))


@inlined
def write(row, place, values, count, size):
    """Write sixteen numbers of a row from `place` on, or as many as it has."""
    left = count - place
    if size != FLOAT_BYTES:
        store_bf16_masked(row + BF16_BYTES * place, values, min(left, LANES))
    elif left >= LANES:
        store_f32x16(row + FLOAT_BYTES * place, values)
    else:
        store_f32_masked(row + FLOAT_BYTES * place, values, left)


@inlined
def sigmoid(values):
    """The logistic function."""
    return div(broadcast(ONE), add(broadcast(ONE), exp_fma(sub(broadcast(ZERO), values))))


# --- RMSNorm ---------------------------------------------------------------------------------------------------------


@kernel
def rmsnorm(args, first, last, thread_id):
    """RMSNorm of rows of float32, and the scale of each, which its derivative needs."""
    d_model, size = load_int(args + NORM.d_model), load_int(args + NORM.itemsize)
    gain = load_int(args + NORM.weight)
    for row in range(first, last):
        x = load_int(args + NORM.x) + FLOAT_BYTES * d_model * row
        output = load_int(args + NORM.output) + size * d_model * row
        squares = broadcast(ZERO)
        for place in range(0, d_model, LANES):
            values = read(x, place, d_model, FLOAT_BYTES)
            squares = fmuladd(squares, values, values)
        scale = ONE / sqrt(hsum(squares) / np.float32(d_model) + NORM_EPS)
        store_f32(load_int(args + NORM.scales) + FLOAT_BYTES * row, scale)
        for place in range(0, d_model, LANES):
            values = mul(read(x, place, d_model, FLOAT_BYTES), broadcast(scale))
            write(output, place, mul(values, read(gain, place, d_model, FLOAT_BYTES)), d_model, size)
    return 0


@kernel
def rmsnorm_backward(args, first, last, thread_id):
    """The gradients of RMSNorm, by groups of rows: of the rows, and of the gain a sum for each group.

    With r the scale and n = r x: dx = r (g w - n mean(g w n)), and dw sums g n.
    """
    d_model, size = load_int(args + NORM.d_model), load_int(args + NORM.itemsize)
    gain, rows = load_int(args + NORM.weight), load_int(args + NORM.rows)
    for group in range(first, last):
        sums = load_int(args + NORM.weight_sums) + FLOAT_BYTES * d_model * group
        for place in range(0, d_model, LANES):
            write(sums, place, broadcast(ZERO), d_model, FLOAT_BYTES)
        for row in range(group * NORM_GROUP, min((group + 1) * NORM_GROUP, rows)):
            x = load_int(args + NORM.x) + FLOAT_BYTES * d_model * row
            grad = load_int(args + NORM.output) + size * d_model * row
            scale = broadcast(load_f32(load_int(args + NORM.scales) + FLOAT_BYTES * row))
            weighted = broadcast(ZERO)
            for place in range(0, d_model, LANES):
                normal = mul(read(x, place, d_model, FLOAT_BYTES), scale)
                product = mul(read(grad, place, d_model, size), normal)
                write(sums, place, add(read(sums, place, d_model, FLOAT_BYTES), product), d_model, FLOAT_BYTES)
                weighted = fmuladd(weighted, product, read(gain, place, d_model, FLOAT_BYTES))
            mean = broadcast(hsum(weighted) / np.float32(d_model))
            output = load_int(args + NORM.grad_x) + FLOAT_BYTES * d_model * row
            for place in range(0, d_model, LANES):
                normal = mul(read(x, place, d_model, FLOAT_BYTES), scale)
                grad_times_weight = mul(read(grad, place, d_model, size), read(gain, place, d_model, FLOAT_BYTES))
                write(output, place, mul(sub(grad_times_weight, mul(normal, mean)), scale), d_model, FLOAT_BYTES)
    return 0


# --- SwiGLU ----------------------------------------------------------------------------------------------------------


@kernel
def swiglu(args, first, last, thread_id):
    """silu(gate) * up of rows that hold both, d_ff numbers each."""
    d_ff, size = load_int(args + SWIGLU.d_ff), load_int(args + SWIGLU.itemsize)
    for row in range(first, last):
        gates = load_int(args + SWIGLU.gate_up) + 2 * size * d_ff * row
        output = load_int(args + SWIGLU.output) + size * d_ff * row
        for place in range(0, d_ff, LANES):
            gate = read(gates, place, d_ff, size)
            up = read(gates + size * d_ff, place, d_ff, size)
            write(output, place, mul(mul(gate, sigmoid(gate)), up), d_ff, size)
    return 0


@kernel
def swiglu_backward(args, first, last, thread_id):
    """The gradients of both halves, side by side, too; those of the product are replaced by the product itself."""
    d_ff, size = load_int(args + SWIGLU.d_ff), load_int(args + SWIGLU.itemsize)
    for row in range(first, last):
        gates = load_int(args + SWIGLU.gate_up) + 2 * size * d_ff * row
        grads = load_int(args + SWIGLU.output) + size * d_ff * row
        outputs = load_int(args + SWIGLU.grads) + 2 * size * d_ff * row
        for place in range(0, d_ff, LANES):
            gate = read(gates, place, d_ff, size)
            up = read(gates + size * d_ff, place, d_ff, size)
            grad = read(grads, place, d_ff, size)
            sig = sigmoid(gate)
            silu = mul(gate, sig)
            # silu'(x) = s + silu(x) (1 - s), s being the logistic function.
            silu_grad = fmuladd(sig, silu, sub(broadcast(ONE), sig))
            write(outputs, place, mul(mul(grad, up), silu_grad), d_ff, size)
            write(outputs + size * d_ff, place, mul(grad, silu), d_ff, size)
            write(grads, place, mul(silu, up), d_ff, size)
    return 0


# --- cross-entropy ---------------------------------------------------------------------------------------------------


@kernel
def cross_entropy_fwd_bwd(args, first, last, thread_id):
    """Turn rows of logits into the gradients of their losses, in place.

    A loss is the terms of a row, (the largest logit - the target's) and the sum of exp(logit - largest), as
    difference + log(sum).
    """
    vocab, size = load_int(args + LOSS.vocab_size), load_int(args + LOSS.itemsize)
    for row in range(first, last):
        logits = load_int(args + LOSS.logits) + size * vocab * row
        target = load_int(load_int(args + LOSS.targets) + WORD * row)
        terms = load_int(args + LOSS.terms) + 2 * FLOAT_BYTES * row
        max_lanes = broadcast(MASKED)
        for place in range(0, vocab, LANES):
            max_lanes = maximum(select_tail(read(logits, place, vocab, size), vocab - place, MASKED), max_lanes)
        max_logit = hmax(max_lanes)
        target_logit = hsum(read(logits, target, target + 1, size))
        found = broadcast(ZERO)
        for place in range(0, vocab, LANES):
            values = select_tail(read(logits, place, vocab, size), vocab - place, MASKED)
            values = exp_fma(sub(values, broadcast(max_logit)))
            if size == FLOAT_BYTES:
                write(logits, place, values, vocab, size)
            found = add(found, values)
        sum_exp = hsum(found)
        store_f32(terms, max_logit - target_logit)
        store_f32(terms + FLOAT_BYTES, sum_exp)
        inv_sum = broadcast(ONE / sum_exp)
        for place in range(0, vocab, LANES):
            values = read(logits, place, vocab, size)
            if size != FLOAT_BYTES:
                # bfloat16 would not keep the exponentials well: they are computed again.
                values = exp_fma(sub(values, broadcast(max_logit)))
            write(logits, place, mul(values, inv_sum), vocab, size)
        # The gradient of a logit is its probability, less 1 for the target's.
        target_prob = mul(exp_fma(broadcast(target_logit - max_logit)), inv_sum)
        write(logits, target, sub(target_prob, broadcast(ONE)), target + 1, size)
    return 0


# --- matrix products of attention's blocks ---------------------------------------------------------------------------

ROWS = 8


@inlined
def check_product(c, c_stride, a, a_stride, a_step, b, b_stride, columns, depth):
    """Look the corners of a product's matrices up, where addresses are checked."""
    if CHECKED:
        for row in (0, ROWS - 1):
            bounds_check(c + c_stride * row, columns)
            bounds_check(a + a_stride * row, FLOAT_BYTES)
            bounds_check(a + a_stride * row + a_step * (depth - 1), FLOAT_BYTES)
        bounds_check(b, columns)
        bounds_check(b + b_stride * (depth - 1), columns)


def product_by(pair_block, single_block):
    """A kernel that goes through C in blocks: `rows` a multiple of 8, `columns` bytes of whole vectors."""

    @kernel
    def product(c, c_stride, a, a_stride, a_step, b, b_stride, rows, columns, depth):
        for row in range(0, rows, ROWS):
            c_row, a_row = c + c_stride * row, a + a_stride * row
            check_product(c_row, c_stride, a_row, a_stride, a_step, b, b_stride, columns, depth)
            for offset in range(0, columns - LANES_BYTES, 2 * LANES_BYTES):
                pair_block(c_row + offset, c_stride, a_row, a_stride, a_step, b + offset, b_stride, depth)
            if columns % (2 * LANES_BYTES):
                offset = columns - LANES_BYTES
                single_block(c_row + offset, c_stride, a_row, a_stride, a_step, b + offset, b_stride, depth)

    return product


# C = A B, and C += A B.
multiply = product_by(make_matmul_block(ROWS, 2, False), make_matmul_block(ROWS, 1, False))
add_product = product_by(make_matmul_block(ROWS, 2, True), make_matmul_block(ROWS, 1, True))


# --- causal attention ------------------------------------------------------------------------------------------------


@inlined
def filled_up(count, unit):
    """The next multiple of a unit."""
    return (count + unit - 1) // unit * unit


@kernel
def load_row(target, row, head_dim, size, factor, cos_sin):
    """A head's row of numbers as float32, filled up with zeros: times a factor, rotated unless `cos_sin` is 0."""
    for place in range(0, head_dim, LANES):
        values = mul(read(row, place, head_dim, size), broadcast(factor))
        if cos_sin != 0:
            values = rotate_pairs(values, read(cos_sin, place, head_dim, FLOAT_BYTES), ONE)
        store_f32x16(target + FLOAT_BYTES * place, values)


@kernel
def store_row(row, source, head_dim, size, factor, cos_sin):
    """The other way round: a head's row of gradients, times a factor, turned back."""
    for place in range(0, head_dim, LANES):
        values = mul(load_f32x16(source + FLOAT_BYTES * place), broadcast(factor))
        if cos_sin != 0:
            values = rotate_pairs(values, read(cos_sin, place, head_dim, FLOAT_BYTES), -ONE)
        write(row, place, values, head_dim, size)


@kernel
def clear(address, size):
    """Fill memory with zeros."""
    for offset in range(0, size, LANES_BYTES):
        store_f32x16(address + offset, broadcast(ZERO))


@kernel
def load_rows(target, row_bytes, rows, stride, first, last, seq, head_dim, size, factor, cos_sin):
    """A head's rows of some positions, those behind the last one of the sequence being zeros."""
    for position in range(first, last):
        if position < seq:
            load_row(target, rows + stride * position, head_dim, size, factor, cos_sin_at(cos_sin, position, head_dim))
        else:
            clear(target, row_bytes)
        target += row_bytes


@kernel
def transpose(target, target_stride, source, row_bytes, rows):
    """A matrix of whole blocks, transposed."""
    for offset in range(0, row_bytes, LANES_BYTES):
        for row in range(0, rows, LANES):
            from_place = source + row_bytes * row + offset
            to_place = target + target_stride * (offset // FLOAT_BYTES) + FLOAT_BYTES * row
            if CHECKED:
                for corner in (0, LANES - 1):
                    bounds_check(from_place + row_bytes * corner, LANES_BYTES)
                    bounds_check(to_place + target_stride * corner, LANES_BYTES)
            transpose_16x16(to_place, target_stride, from_place, row_bytes)


@inlined
def cos_sin_at(cos_sin, position, head_dim):
    """The cosines and sines of a position, 0 where nothing is turned."""
    return cos_sin + FLOAT_BYTES * head_dim * position if cos_sin != 0 else 0


@inlined
def attention_shape(args):
    """Positions of a sequence, heads, and the head_dim of one."""
    return (
        load_int(args + ATTENTION.seq),
        load_int(args + ATTENTION.num_heads),
        load_int(args + ATTENTION.head_dim),
    )


@kernel
def causal_attention(args, first, last, thread_id):
    """Causal attention, a head of a sequence each: queries, keys and values (seq, 3 d_model) to (seq, d_model)."""
    seq, heads, head_dim = attention_shape(args)
    size, cos_sin = load_int(args + ATTENTION.itemsize), load_int(args + ATTENTION.cos_sin)
    d_model, factor = heads * head_dim, ONE / sqrt(np.float32(head_dim))
    positions, row_bytes = filled_up(seq, BLOCK), FLOAT_BYTES * filled_up(head_dim, LANES)
    score_row, matrix = FLOAT_BYTES * positions, positions * row_bytes
    key_columns = load_int(args + ATTENTION.scratch) + load_int(args + ATTENTION.scratch_bytes) * thread_id
    keys, values = key_columns + matrix, key_columns + 2 * matrix
    queries = values + matrix
    context = queries + BLOCK * row_bytes
    scores = context + BLOCK * row_bytes
    stride, out_stride = 3 * size * d_model, size * d_model
    for unit in range(first, last):
        place = unit // heads * seq * d_model
        qkv = load_int(args + ATTENTION.qkv) + size * (3 * place + unit % heads * head_dim)
        output = load_int(args + ATTENTION.output) + size * (place + unit % heads * head_dim)
        load_rows(keys, row_bytes, qkv + out_stride, stride, 0, positions, seq, head_dim, size, ONE, cos_sin)
        load_rows(values, row_bytes, qkv + 2 * out_stride, stride, 0, positions, seq, head_dim, size, ONE, 0)
        transpose(key_columns, score_row, keys, row_bytes, positions)
        for start in range(0, seq, BLOCK):
            stop = start + BLOCK
            load_rows(queries, row_bytes, qkv, stride, start, stop, seq, head_dim, size, factor, cos_sin)
            multiply(
                scores,
                score_row,
                queries,
                row_bytes,
                FLOAT_BYTES,
                key_columns,
                score_row,
                BLOCK,
                FLOAT_BYTES * stop,
                head_dim,
            )
            for row in range(BLOCK):
                inv_sum = ONE / softmax_numerators(scores + score_row * row, start + row + 1, FLOAT_BYTES * stop)
                # The query is not needed any more.
                store_f32(queries + row_bytes * row, inv_sum)
            multiply(context, row_bytes, scores, score_row, FLOAT_BYTES, values, row_bytes, BLOCK, row_bytes, stop)
            for position in range(start, min(stop, seq)):
                row = row_bytes * (position - start)
                inv_sum = load_f32(queries + row)
                store_row(output + out_stride * position, context + row, head_dim, size, inv_sum, 0)
    return 0


@kernel
def causal_attention_backward(args, first, last, thread_id):
    """The gradients of queries, keys and values (seq, 3 d_model), for a head of a sequence each.

    The probs P of the softmax are computed again. With S the scores and G the gradient of the output:
    dV = P' G, dP = G V', dS = P (dP - sum(P dP)), dQ = dS K, dK = dS' Q.
    """
    seq, heads, head_dim = attention_shape(args)
    size, cos_sin = load_int(args + ATTENTION.itemsize), load_int(args + ATTENTION.cos_sin)
    d_model, factor = heads * head_dim, ONE / sqrt(np.float32(head_dim))
    positions, row_bytes = filled_up(seq, BLOCK), FLOAT_BYTES * filled_up(head_dim, LANES)
    score_row, matrix = FLOAT_BYTES * positions, positions * row_bytes
    key_columns = load_int(args + ATTENTION.scratch) + load_int(args + ATTENTION.scratch_bytes) * thread_id
    value_columns, keys = key_columns + matrix, key_columns + 2 * matrix
    key_grads, value_grads = keys + matrix, keys + 2 * matrix
    queries = keys + 3 * matrix
    grads = queries + BLOCK * row_bytes
    query_grads = grads + BLOCK * row_bytes
    scores = query_grads + BLOCK * row_bytes
    changes = scores + BLOCK * score_row  # the gradients of the scores
    stride, out_stride = 3 * size * d_model, size * d_model
    for unit in range(first, last):
        place = unit // heads * seq * d_model
        qkv = load_int(args + ATTENTION.qkv) + size * (3 * place + unit % heads * head_dim)
        outputs = load_int(args + ATTENTION.grads) + size * (3 * place + unit % heads * head_dim)
        output_grads = load_int(args + ATTENTION.output) + size * (place + unit % heads * head_dim)
        load_rows(keys, row_bytes, qkv + 2 * out_stride, stride, 0, positions, seq, head_dim, size, ONE, 0)
        transpose(value_columns, score_row, keys, row_bytes, positions)
        load_rows(keys, row_bytes, qkv + out_stride, stride, 0, positions, seq, head_dim, size, ONE, cos_sin)
        transpose(key_columns, score_row, keys, row_bytes, positions)
        clear(key_grads, 2 * matrix)
        for start in range(0, seq, BLOCK):
            stop = start + BLOCK
            columns = FLOAT_BYTES * stop
            load_rows(queries, row_bytes, qkv, stride, start, stop, seq, head_dim, size, factor, cos_sin)
            load_rows(grads, row_bytes, output_grads, out_stride, start, stop, seq, head_dim, size, ONE, 0)
            multiply(
                scores,
                score_row,
                queries,
                row_bytes,
                FLOAT_BYTES,
                key_columns,
                score_row,
                BLOCK,
                columns,
                head_dim,
            )
            multiply(
                changes,
                score_row,
                grads,
                row_bytes,
                FLOAT_BYTES,
                value_columns,
                score_row,
                BLOCK,
                columns,
                head_dim,
            )
            for row in range(BLOCK):
                softmax_backward(scores + score_row * row, changes + score_row * row, start + row + 1, columns)
            add_product(
                value_grads, row_bytes, scores, FLOAT_BYTES, score_row, grads, row_bytes, stop, row_bytes, BLOCK
            )
            add_product(
                key_grads, row_bytes, changes, FLOAT_BYTES, score_row, queries, row_bytes, stop, row_bytes, BLOCK
            )
            multiply(query_grads, row_bytes, changes, score_row, FLOAT_BYTES, keys, row_bytes, BLOCK, row_bytes, stop)
            for position in range(start, min(stop, seq)):
                row = query_grads + row_bytes * (position - start)
                store_row(
                    outputs + stride * position, row, head_dim, size, factor, cos_sin_at(cos_sin, position, head_dim)
                )
        for position in range(seq):
            row, offset = outputs + stride * position, row_bytes * position
            store_row(
                row + out_stride, key_grads + offset, head_dim, size, ONE, cos_sin_at(cos_sin, position, head_dim)
            )
            store_row(row + 2 * out_stride, value_grads + offset, head_dim, size, ONE, 0)
    return 0


@kernel
def softmax_backward(scores, grads, count, size):
    """Turn a row of scores into probs, and the gradients of the probs into those of the scores."""
    inv_sum = broadcast(ONE / softmax_numerators(scores, count, size))
    weighted = broadcast(ZERO)
    for offset in range(0, size, LANES_BYTES):
        probs = mul(load_f32x16(scores + offset), inv_sum)
        store_f32x16(scores + offset, probs)
        weighted = fmuladd(weighted, probs, load_f32x16(grads + offset))
    mean = broadcast(hsum(weighted))
    for offset in range(0, size, LANES_BYTES):
        grad = sub(load_f32x16(grads + offset), mean)
        store_f32x16(grads + offset, mul(load_f32x16(scores + offset), grad))


KERNELS = (
    rmsnorm,
    rmsnorm_backward,
    swiglu,
    swiglu_backward,
    cross_entropy_fwd_bwd,
    causal_attention,
    causal_attention_backward,
)
