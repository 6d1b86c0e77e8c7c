"""The layers of the model in training, forwards and backwards: all that lies between the matrix products.

Every kernel takes the address of its arguments (layout.py names them), the first of its units of work and the one after
the last, and the number of the thread that calls it. What a unit gives does not depend on the others, so results are
the same however threads share the units. Rows are float32 (`size` 4) or bfloat16 (`size` 2) numbers, one behind the
other; all are computed in float32.
"""

import numpy as np

from lmpipe.kernels.runtime.intrinsics import CHECKED, checked, field, inlined, kernel, load_int
from lmpipe.kernels.runtime.simd_float32 import (
    HALF_BYTES,
    LANES,
    MASKED,
    filled,
    fused_exponential,
    larger,
    largest,
    load_float,
    load_lanes,
    load_some,
    load_some_halves,
    minus,
    over,
    plus,
    plus_product,
    product_block,
    soften_by,
    spread,
    square_root,
    store_float,
    store_lanes,
    store_some,
    store_some_halves,
    times,
    total,
    transpose_block,
    turned,
)
from lmpipe.kernels.runtime.structs import LANES_BYTES, WORD
from lmpipe.kernels.transformer import structs

FLOAT_BYTES = 4
BLOCK = structs.ATTENTION_BLOCK
ZERO, ONE = np.float32(0.0), np.float32(1.0)
NORM_EPS = np.float32(structs.NORM_EPS)
soften = soften_by(fused_exponential)


# --- rows of numbers -------------------------------------------------------------------------------------------------


@inlined
def read(row, place, count, size):
    """Sixteen numbers of a row from `place` on; behind the `count` that it has there are zeros."""
    left = count - place
    if size == FLOAT_BYTES:
        return load_lanes(row + FLOAT_BYTES * place) if left >= LANES else load_some(row + FLOAT_BYTES * place, left)
    return load_some_halves(row + HALF_BYTES * place, min(left, LANES))


@inlined
def write(row, place, values, count, size):
    """Write sixteen numbers of a row from `place` on, or as many as it has."""
    left = count - place
    if size != FLOAT_BYTES:
        store_some_halves(row + HALF_BYTES * place, values, min(left, LANES))
    elif left >= LANES:
        store_lanes(row + FLOAT_BYTES * place, values)
    else:
        store_some(row + FLOAT_BYTES * place, values, left)


@inlined
def sigmoid(values):
    """The logistic function."""
    return over(spread(ONE), plus(spread(ONE), fused_exponential(minus(spread(ZERO), values))))


# --- RMSNorm ---------------------------------------------------------------------------------------------------------


@kernel
def rmsnorm(args, first, last, thread_id):
    """RMSNorm of rows of float32, and the scale of each, which its derivative needs."""
    d_model, size = field(args, structs.NORM_D_MODEL), field(args, structs.NORM_ITEMSIZE)
    gain = field(args, structs.NORM_WEIGHT)
    for row in range(first, last):
        x = field(args, structs.NORM_X) + FLOAT_BYTES * d_model * row
        output = field(args, structs.NORM_OUTPUT) + size * d_model * row
        squares = spread(ZERO)
        for place in range(0, d_model, LANES):
            values = read(x, place, d_model, FLOAT_BYTES)
            squares = plus_product(squares, values, values)
        scale = ONE / square_root(total(squares) / np.float32(d_model) + NORM_EPS)
        store_float(field(args, structs.NORM_SCALES) + FLOAT_BYTES * row, scale)
        for place in range(0, d_model, LANES):
            values = times(read(x, place, d_model, FLOAT_BYTES), spread(scale))
            write(output, place, times(values, read(gain, place, d_model, FLOAT_BYTES)), d_model, size)
    return 0


@kernel
def rmsnorm_backward(args, first, last, thread_id):
    """The gradients of RMSNorm, by groups of rows: of the rows, and of the gain a sum for each group.

    With r the scale and n = r x: dx = r (g w - n mean(g w n)), and dw sums g n.
    """
    d_model, size = field(args, structs.NORM_D_MODEL), field(args, structs.NORM_ITEMSIZE)
    gain, rows = field(args, structs.NORM_WEIGHT), field(args, structs.NORM_ROWS)
    for group in range(first, last):
        sums = field(args, structs.NORM_WEIGHT_SUMS) + FLOAT_BYTES * d_model * group
        for place in range(0, d_model, LANES):
            write(sums, place, spread(ZERO), d_model, FLOAT_BYTES)
        for row in range(group * structs.NORM_GROUP, min((group + 1) * structs.NORM_GROUP, rows)):
            x = field(args, structs.NORM_X) + FLOAT_BYTES * d_model * row
            grad = field(args, structs.NORM_OUTPUT) + size * d_model * row
            scale = spread(load_float(field(args, structs.NORM_SCALES) + FLOAT_BYTES * row))
            weighted = spread(ZERO)
            for place in range(0, d_model, LANES):
                normal = times(read(x, place, d_model, FLOAT_BYTES), scale)
                product = times(read(grad, place, d_model, size), normal)
                write(sums, place, plus(read(sums, place, d_model, FLOAT_BYTES), product), d_model, FLOAT_BYTES)
                weighted = plus_product(weighted, product, read(gain, place, d_model, FLOAT_BYTES))
            mean = spread(total(weighted) / np.float32(d_model))
            output = field(args, structs.NORM_GRAD_X) + FLOAT_BYTES * d_model * row
            for place in range(0, d_model, LANES):
                normal = times(read(x, place, d_model, FLOAT_BYTES), scale)
                grad_times_weight = times(read(grad, place, d_model, size), read(gain, place, d_model, FLOAT_BYTES))
                write(output, place, times(minus(grad_times_weight, times(normal, mean)), scale), d_model, FLOAT_BYTES)
    return 0


# --- SwiGLU ----------------------------------------------------------------------------------------------------------


@kernel
def swiglu(args, first, last, thread_id):
    """silu(gate) * up of rows that hold both, d_ff numbers each."""
    d_ff, size = field(args, structs.SWIGLU_D_FF), field(args, structs.SWIGLU_ITEMSIZE)
    for row in range(first, last):
        gates = field(args, structs.SWIGLU_GATE_UP) + 2 * size * d_ff * row
        output = field(args, structs.SWIGLU_OUTPUT) + size * d_ff * row
        for place in range(0, d_ff, LANES):
            gate = read(gates, place, d_ff, size)
            up = read(gates + size * d_ff, place, d_ff, size)
            write(output, place, times(times(gate, sigmoid(gate)), up), d_ff, size)
    return 0


@kernel
def swiglu_backward(args, first, last, thread_id):
    """The gradients of both halves, side by side, too; those of the product are replaced by the product itself."""
    d_ff, size = field(args, structs.SWIGLU_D_FF), field(args, structs.SWIGLU_ITEMSIZE)
    for row in range(first, last):
        gates = field(args, structs.SWIGLU_GATE_UP) + 2 * size * d_ff * row
        grads = field(args, structs.SWIGLU_OUTPUT) + size * d_ff * row
        outputs = field(args, structs.SWIGLU_GRADS) + 2 * size * d_ff * row
        for place in range(0, d_ff, LANES):
            gate = read(gates, place, d_ff, size)
            up = read(gates + size * d_ff, place, d_ff, size)
            grad = read(grads, place, d_ff, size)
            sig = sigmoid(gate)
            silu = times(gate, sig)
            # silu'(x) = s + silu(x) (1 - s), s being the logistic function.
            silu_grad = plus_product(sig, silu, minus(spread(ONE), sig))
            write(outputs, place, times(times(grad, up), silu_grad), d_ff, size)
            write(outputs + size * d_ff, place, times(grad, silu), d_ff, size)
            write(grads, place, times(silu, up), d_ff, size)
    return 0


# --- cross-entropy ---------------------------------------------------------------------------------------------------


@kernel
def cross_entropy_fwd_bwd(args, first, last, thread_id):
    """Turn rows of logits into the gradients of their losses, in place.

    A loss is the terms of a row, (the largest logit - the target's) and the sum of exp(logit - largest), as
    difference + log(sum).
    """
    vocab, size = field(args, structs.LOSS_VOCAB_SIZE), field(args, structs.LOSS_ITEMSIZE)
    for row in range(first, last):
        logits = field(args, structs.LOSS_LOGITS) + size * vocab * row
        target = load_int(field(args, structs.LOSS_TARGETS) + WORD * row)
        terms = field(args, structs.LOSS_TERMS) + 2 * FLOAT_BYTES * row
        max_lanes = spread(MASKED)
        for place in range(0, vocab, LANES):
            max_lanes = larger(filled(read(logits, place, vocab, size), vocab - place, MASKED), max_lanes)
        max_logit = largest(max_lanes)
        target_logit = total(read(logits, target, target + 1, size))
        found = spread(ZERO)
        for place in range(0, vocab, LANES):
            values = filled(read(logits, place, vocab, size), vocab - place, MASKED)
            values = fused_exponential(minus(values, spread(max_logit)))
            if size == FLOAT_BYTES:
                write(logits, place, values, vocab, size)
            found = plus(found, values)
        sum_exp = total(found)
        store_float(terms, max_logit - target_logit)
        store_float(terms + FLOAT_BYTES, sum_exp)
        inv_sum = spread(ONE / sum_exp)
        for place in range(0, vocab, LANES):
            values = read(logits, place, vocab, size)
            if size != FLOAT_BYTES:
                # bfloat16 would not keep the exponentials well: they are computed again.
                values = fused_exponential(minus(values, spread(max_logit)))
            write(logits, place, times(values, inv_sum), vocab, size)
        # The gradient of a logit is its probability, less 1 for the target's.
        target_prob = times(fused_exponential(spread(target_logit - max_logit)), inv_sum)
        write(logits, target, minus(target_prob, spread(ONE)), target + 1, size)
    return 0


# --- matrix products of attention's blocks ---------------------------------------------------------------------------

ROWS = 8


@inlined
def check_product(c, c_stride, a, a_stride, a_step, b, b_stride, columns, depth):
    """Look the corners of a product's matrices up, where addresses are checked."""
    if CHECKED:
        for row in (0, ROWS - 1):
            checked(c + c_stride * row, columns)
            checked(a + a_stride * row, FLOAT_BYTES)
            checked(a + a_stride * row + a_step * (depth - 1), FLOAT_BYTES)
        checked(b, columns)
        checked(b + b_stride * (depth - 1), columns)


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
multiply = product_by(product_block(ROWS, 2, False), product_block(ROWS, 1, False))
add_product = product_by(product_block(ROWS, 2, True), product_block(ROWS, 1, True))


# --- causal attention ------------------------------------------------------------------------------------------------


@inlined
def filled_up(count, unit):
    """The next multiple of a unit."""
    return (count + unit - 1) // unit * unit


@kernel
def load_row(target, row, head_dim, size, factor, cos_sin):
    """A head's row of numbers as float32, filled up with zeros: times a factor, rotated unless `cos_sin` is 0."""
    for place in range(0, head_dim, LANES):
        values = times(read(row, place, head_dim, size), spread(factor))
        if cos_sin != 0:
            values = turned(values, read(cos_sin, place, head_dim, FLOAT_BYTES), ONE)
        store_lanes(target + FLOAT_BYTES * place, values)


@kernel
def store_row(row, source, head_dim, size, factor, cos_sin):
    """The other way round: a head's row of gradients, times a factor, turned back."""
    for place in range(0, head_dim, LANES):
        values = times(load_lanes(source + FLOAT_BYTES * place), spread(factor))
        if cos_sin != 0:
            values = turned(values, read(cos_sin, place, head_dim, FLOAT_BYTES), -ONE)
        write(row, place, values, head_dim, size)


@kernel
def clear(address, size):
    """Fill memory with zeros."""
    for offset in range(0, size, LANES_BYTES):
        store_lanes(address + offset, spread(ZERO))


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
                    checked(from_place + row_bytes * corner, LANES_BYTES)
                    checked(to_place + target_stride * corner, LANES_BYTES)
            transpose_block(to_place, target_stride, from_place, row_bytes)


@inlined
def cos_sin_at(cos_sin, position, head_dim):
    """The cosines and sines of a position, 0 where nothing is turned."""
    return cos_sin + FLOAT_BYTES * head_dim * position if cos_sin != 0 else 0


@inlined
def attention_shape(args):
    """Positions of a sequence, heads, and the head_dim of one."""
    return (
        field(args, structs.ATTENTION_SEQ),
        field(args, structs.ATTENTION_NUM_HEADS),
        field(args, structs.ATTENTION_HEAD_DIM),
    )


@kernel
def causal_attention(args, first, last, thread_id):
    """Causal attention, a head of a sequence each: queries, keys and values (seq, 3 d_model) to (seq, d_model)."""
    seq, heads, head_dim = attention_shape(args)
    size, cos_sin = field(args, structs.ATTENTION_ITEMSIZE), field(args, structs.ATTENTION_COS_SIN)
    d_model, factor = heads * head_dim, ONE / square_root(np.float32(head_dim))
    positions, row_bytes = filled_up(seq, BLOCK), FLOAT_BYTES * filled_up(head_dim, LANES)
    score_row, matrix = FLOAT_BYTES * positions, positions * row_bytes
    key_columns = field(args, structs.ATTENTION_SCRATCH) + field(args, structs.ATTENTION_SCRATCH_BYTES) * thread_id
    keys, values = key_columns + matrix, key_columns + 2 * matrix
    queries = values + matrix
    context = queries + BLOCK * row_bytes
    scores = context + BLOCK * row_bytes
    stride, out_stride = 3 * size * d_model, size * d_model
    for unit in range(first, last):
        place = unit // heads * seq * d_model
        qkv = field(args, structs.ATTENTION_QKV) + size * (3 * place + unit % heads * head_dim)
        output = field(args, structs.ATTENTION_OUTPUT) + size * (place + unit % heads * head_dim)
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
                inv_sum = ONE / soften(scores + score_row * row, start + row + 1, FLOAT_BYTES * stop)
                # The query is not needed any more.
                store_float(queries + row_bytes * row, inv_sum)
            multiply(context, row_bytes, scores, score_row, FLOAT_BYTES, values, row_bytes, BLOCK, row_bytes, stop)
            for position in range(start, min(stop, seq)):
                row = row_bytes * (position - start)
                inv_sum = load_float(queries + row)
                store_row(output + out_stride * position, context + row, head_dim, size, inv_sum, 0)
    return 0


@kernel
def causal_attention_backward(args, first, last, thread_id):
    """The gradients of queries, keys and values (seq, 3 d_model), for a head of a sequence each.

    The probs P of the softmax are computed again. With S the scores and G the gradient of the output:
    dV = P' G, dP = G V', dS = P (dP - sum(P dP)), dQ = dS K, dK = dS' Q.
    """
    seq, heads, head_dim = attention_shape(args)
    size, cos_sin = field(args, structs.ATTENTION_ITEMSIZE), field(args, structs.ATTENTION_COS_SIN)
    d_model, factor = heads * head_dim, ONE / square_root(np.float32(head_dim))
    positions, row_bytes = filled_up(seq, BLOCK), FLOAT_BYTES * filled_up(head_dim, LANES)
    score_row, matrix = FLOAT_BYTES * positions, positions * row_bytes
    key_columns = field(args, structs.ATTENTION_SCRATCH) + field(args, structs.ATTENTION_SCRATCH_BYTES) * thread_id
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
        qkv = field(args, structs.ATTENTION_QKV) + size * (3 * place + unit % heads * head_dim)
        outputs = field(args, structs.ATTENTION_GRADS) + size * (3 * place + unit % heads * head_dim)
        output_grads = field(args, structs.ATTENTION_OUTPUT) + size * (place + unit % heads * head_dim)
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
    inv_sum = spread(ONE / soften(scores, count, size))
    weighted = spread(ZERO)
    for offset in range(0, size, LANES_BYTES):
        probs = times(load_lanes(scores + offset), inv_sum)
        store_lanes(scores + offset, probs)
        weighted = plus_product(weighted, probs, load_lanes(grads + offset))
    mean = spread(total(weighted))
    for offset in range(0, size, LANES_BYTES):
        grad = minus(load_lanes(grads + offset), mean)
        store_lanes(grads + offset, times(load_lanes(scores + offset), grad))


KERNELS = (
    rmsnorm,
    rmsnorm_backward,
    swiglu,
    swiglu_backward,
    cross_entropy_fwd_bwd,
    causal_attention,
    causal_attention_backward,
)
