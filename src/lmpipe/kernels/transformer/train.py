"""The layers of the model in training, forwards and backwards: all that lies between the matrix products.

Every kernel takes the address of its arguments (layout.py names them), the first of its units of work and the one after
the last, and the number of the thread that calls it. What a unit gives does not depend on the others, so results are
the same however threads share the units. Rows are float32 (`size` 4) or bfloat16 (`size` 2) numbers, one behind the
other; all are computed in float32.
"""

import numpy as np

from lmpipe.kernels.runtime import structs
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

FLOAT_BYTES = 4
LANES_BYTES, WORD = structs.LANES_BYTES, structs.WORD
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
def opening(values):
    """The logistic function."""
    return over(spread(ONE), plus(spread(ONE), fused_exponential(minus(spread(ZERO), values))))


# --- RMSNorm ---------------------------------------------------------------------------------------------------------


@kernel
def normalize_rows(call, first, last, rank):
    """RMSNorm of rows of float32, and the scale of each, which its derivative needs."""
    d_model, size = field(call, structs.NORM_D_MODEL), field(call, structs.NORM_SIZE)
    gain = field(call, structs.NORM_GAIN)
    for row in range(first, last):
        x = field(call, structs.NORM_X) + FLOAT_BYTES * d_model * row
        output = field(call, structs.NORM_OUTPUT) + size * d_model * row
        squares = spread(ZERO)
        for place in range(0, d_model, LANES):
            values = read(x, place, d_model, FLOAT_BYTES)
            squares = plus_product(squares, values, values)
        scale = ONE / square_root(total(squares) / np.float32(d_model) + NORM_EPS)
        store_float(field(call, structs.NORM_SCALES) + FLOAT_BYTES * row, scale)
        for place in range(0, d_model, LANES):
            values = times(read(x, place, d_model, FLOAT_BYTES), spread(scale))
            write(output, place, times(values, read(gain, place, d_model, FLOAT_BYTES)), d_model, size)
    return 0


@kernel
def normalize_rows_back(call, first, last, rank):
    """The gradients of RMSNorm, by groups of rows: of the rows, and of the gain a sum for each group.

    With r the scale and n = r x: dx = r (g w - n mean(g w n)), and dw sums g n.
    """
    d_model, size = field(call, structs.NORM_D_MODEL), field(call, structs.NORM_SIZE)
    gain, rows = field(call, structs.NORM_GAIN), field(call, structs.NORM_ROWS)
    for group in range(first, last):
        sums = field(call, structs.NORM_GAIN_SUMS) + FLOAT_BYTES * d_model * group
        for place in range(0, d_model, LANES):
            write(sums, place, spread(ZERO), d_model, FLOAT_BYTES)
        for row in range(group * structs.NORM_GROUP, min((group + 1) * structs.NORM_GROUP, rows)):
            x = field(call, structs.NORM_X) + FLOAT_BYTES * d_model * row
            grad = field(call, structs.NORM_OUTPUT) + size * d_model * row
            scale = spread(load_float(field(call, structs.NORM_SCALES) + FLOAT_BYTES * row))
            weighted = spread(ZERO)
            for place in range(0, d_model, LANES):
                normal = times(read(x, place, d_model, FLOAT_BYTES), scale)
                product = times(read(grad, place, d_model, size), normal)
                write(sums, place, plus(read(sums, place, d_model, FLOAT_BYTES), product), d_model, FLOAT_BYTES)
                weighted = plus_product(weighted, product, read(gain, place, d_model, FLOAT_BYTES))
            mean = spread(total(weighted) / np.float32(d_model))
            output = field(call, structs.NORM_GRAD_X) + FLOAT_BYTES * d_model * row
            for place in range(0, d_model, LANES):
                normal = times(read(x, place, d_model, FLOAT_BYTES), scale)
                straight = times(read(grad, place, d_model, size), read(gain, place, d_model, FLOAT_BYTES))
                write(output, place, times(minus(straight, times(normal, mean)), scale), d_model, FLOAT_BYTES)
    return 0


# --- SwiGLU ----------------------------------------------------------------------------------------------------------


@kernel
def open_gates(call, first, last, rank):
    """silu(gate) * up of rows that hold both, d_ff numbers each."""
    d_ff, size = field(call, structs.GATE_D_FF), field(call, structs.GATE_SIZE)
    for row in range(first, last):
        gates = field(call, structs.GATE_UP) + 2 * size * d_ff * row
        output = field(call, structs.GATE_OUTPUT) + size * d_ff * row
        for place in range(0, d_ff, LANES):
            gate = read(gates, place, d_ff, size)
            up = read(gates + size * d_ff, place, d_ff, size)
            write(output, place, times(times(gate, opening(gate)), up), d_ff, size)
    return 0


@kernel
def open_gates_back(call, first, last, rank):
    """The gradients of both halves, side by side, too; those of the product are replaced by the product itself."""
    d_ff, size = field(call, structs.GATE_D_FF), field(call, structs.GATE_SIZE)
    for row in range(first, last):
        gates = field(call, structs.GATE_UP) + 2 * size * d_ff * row
        grads = field(call, structs.GATE_OUTPUT) + size * d_ff * row
        outputs = field(call, structs.GATE_GRADS) + 2 * size * d_ff * row
        for place in range(0, d_ff, LANES):
            gate = read(gates, place, d_ff, size)
            up = read(gates + size * d_ff, place, d_ff, size)
            grad = read(grads, place, d_ff, size)
            opened = opening(gate)
            bent = times(gate, opened)
            # silu'(x) = s + silu(x) (1 - s), s being the logistic function.
            slope = plus_product(opened, bent, minus(spread(ONE), opened))
            write(outputs, place, times(times(grad, up), slope), d_ff, size)
            write(outputs + size * d_ff, place, times(grad, bent), d_ff, size)
            write(grads, place, times(bent, up), d_ff, size)
    return 0


# --- cross-entropy ---------------------------------------------------------------------------------------------------


@kernel
def lose(call, first, last, rank):
    """Turn rows of logits into the gradients of their losses, in place.

    A loss is what is told of a row, (the largest logit - the target's) and the sum of exp(logit - largest), as
    difference + log(sum).
    """
    vocab, size = field(call, structs.LOSS_VOCAB), field(call, structs.LOSS_SIZE)
    for row in range(first, last):
        logits = field(call, structs.LOSS_LOGITS) + size * vocab * row
        target = load_int(field(call, structs.LOSS_TARGETS) + WORD * row)
        told = field(call, structs.LOSS_TOLD) + 2 * FLOAT_BYTES * row
        highest = spread(MASKED)
        for place in range(0, vocab, LANES):
            highest = larger(filled(read(logits, place, vocab, size), vocab - place, MASKED), highest)
        greatest = largest(highest)
        wanted = total(read(logits, target, target + 1, size))
        found = spread(ZERO)
        for place in range(0, vocab, LANES):
            values = filled(read(logits, place, vocab, size), vocab - place, MASKED)
            values = fused_exponential(minus(values, spread(greatest)))
            if size == FLOAT_BYTES:
                write(logits, place, values, vocab, size)
            found = plus(found, values)
        sum_of_all = total(found)
        store_float(told, greatest - wanted)
        store_float(told + FLOAT_BYTES, sum_of_all)
        share = spread(ONE / sum_of_all)
        for place in range(0, vocab, LANES):
            values = read(logits, place, vocab, size)
            if size != FLOAT_BYTES:
                # bfloat16 would not keep the exponentials well: they are computed again.
                values = fused_exponential(minus(values, spread(greatest)))
            write(logits, place, times(values, share), vocab, size)
        # The gradient of a logit is its chance, less 1 for the target's.
        chance = times(fused_exponential(spread(wanted - greatest)), share)
        write(logits, target, minus(chance, spread(ONE)), target + 1, size)
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
def take_row(target, row, width, size, factor, turns):
    """A head's row of numbers as float32, filled up with zeros: times a factor, turned by RoPE unless `turns` is 0."""
    for place in range(0, width, LANES):
        values = times(read(row, place, width, size), spread(factor))
        if turns != 0:
            values = turned(values, read(turns, place, width, FLOAT_BYTES), ONE)
        store_lanes(target + FLOAT_BYTES * place, values)


@kernel
def give_row(row, source, width, size, factor, turns):
    """The other way round: a head's row of gradients, times a factor, turned back."""
    for place in range(0, width, LANES):
        values = times(load_lanes(source + FLOAT_BYTES * place), spread(factor))
        if turns != 0:
            values = turned(values, read(turns, place, width, FLOAT_BYTES), -ONE)
        write(row, place, values, width, size)


@kernel
def clear(address, size):
    """Fill memory with zeros."""
    for offset in range(0, size, LANES_BYTES):
        store_lanes(address + offset, spread(ZERO))


@kernel
def take_rows(target, row_bytes, rows, stride, first, last, seq, width, size, factor, turns):
    """A head's rows of some positions, those behind the last one of the sequence being zeros."""
    for position in range(first, last):
        if position < seq:
            take_row(target, rows + stride * position, width, size, factor, turns_of(turns, position, width))
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
def turns_of(turns, position, width):
    """The cosines and sines of a position, 0 where nothing is turned."""
    return turns + FLOAT_BYTES * width * position if turns != 0 else 0


@inlined
def shape_of(call):
    """Positions of a sequence, heads, and the width of one."""
    return field(call, structs.ATTEND_SEQ), field(call, structs.ATTEND_HEADS), field(call, structs.ATTEND_WIDTH)


@kernel
def attend_heads(call, first, last, rank):
    """Causal attention, a head of a sequence each: queries, keys and values (seq, 3 d_model) to (seq, d_model)."""
    seq, heads, width = shape_of(call)
    size, turns = field(call, structs.ATTEND_SIZE), field(call, structs.ATTEND_TURNS)
    d_model, factor = heads * width, ONE / square_root(np.float32(width))
    positions, row_bytes = filled_up(seq, BLOCK), FLOAT_BYTES * filled_up(width, LANES)
    line, matrix = FLOAT_BYTES * positions, positions * row_bytes
    key_columns = field(call, structs.ATTEND_SCRATCH) + field(call, structs.ATTEND_SCRATCH_BYTES) * rank
    keys, values = key_columns + matrix, key_columns + 2 * matrix
    queries = values + matrix
    mixed = queries + BLOCK * row_bytes
    scores = mixed + BLOCK * row_bytes
    stride, out_stride = 3 * size * d_model, size * d_model
    for unit in range(first, last):
        place = unit // heads * seq * d_model
        qkv = field(call, structs.ATTEND_QKV) + size * (3 * place + unit % heads * width)
        output = field(call, structs.ATTEND_OUTPUT) + size * (place + unit % heads * width)
        take_rows(keys, row_bytes, qkv + out_stride, stride, 0, positions, seq, width, size, ONE, turns)
        take_rows(values, row_bytes, qkv + 2 * out_stride, stride, 0, positions, seq, width, size, ONE, 0)
        transpose(key_columns, line, keys, row_bytes, positions)
        for start in range(0, seq, BLOCK):
            stop = start + BLOCK
            take_rows(queries, row_bytes, qkv, stride, start, stop, seq, width, size, factor, turns)
            multiply(scores, line, queries, row_bytes, FLOAT_BYTES, key_columns, line, BLOCK, FLOAT_BYTES * stop, width)
            for row in range(BLOCK):
                share = ONE / soften(scores + line * row, start + row + 1, FLOAT_BYTES * stop)
                # The query is not needed any more.
                store_float(queries + row_bytes * row, share)
            multiply(mixed, row_bytes, scores, line, FLOAT_BYTES, values, row_bytes, BLOCK, row_bytes, stop)
            for position in range(start, min(stop, seq)):
                row = row_bytes * (position - start)
                share = load_float(queries + row)
                give_row(output + out_stride * position, mixed + row, width, size, share, 0)
    return 0


@kernel
def attend_heads_back(call, first, last, rank):
    """The gradients of queries, keys and values (seq, 3 d_model), for a head of a sequence each.

    The shares P of the softmax are computed again. With S the scores and G the gradient of the output:
    dV = P' G, dP = G V', dS = P (dP - sum(P dP)), dQ = dS K, dK = dS' Q.
    """
    seq, heads, width = shape_of(call)
    size, turns = field(call, structs.ATTEND_SIZE), field(call, structs.ATTEND_TURNS)
    d_model, factor = heads * width, ONE / square_root(np.float32(width))
    positions, row_bytes = filled_up(seq, BLOCK), FLOAT_BYTES * filled_up(width, LANES)
    line, matrix = FLOAT_BYTES * positions, positions * row_bytes
    key_columns = field(call, structs.ATTEND_SCRATCH) + field(call, structs.ATTEND_SCRATCH_BYTES) * rank
    value_columns, keys = key_columns + matrix, key_columns + 2 * matrix
    key_grads, value_grads = keys + matrix, keys + 2 * matrix
    queries = keys + 3 * matrix
    grads = queries + BLOCK * row_bytes
    query_grads = grads + BLOCK * row_bytes
    scores = query_grads + BLOCK * row_bytes
    changes = scores + BLOCK * line  # the gradients of the scores
    stride, out_stride = 3 * size * d_model, size * d_model
    for unit in range(first, last):
        place = unit // heads * seq * d_model
        qkv = field(call, structs.ATTEND_QKV) + size * (3 * place + unit % heads * width)
        outputs = field(call, structs.ATTEND_GRADS) + size * (3 * place + unit % heads * width)
        output_grads = field(call, structs.ATTEND_OUTPUT) + size * (place + unit % heads * width)
        take_rows(keys, row_bytes, qkv + 2 * out_stride, stride, 0, positions, seq, width, size, ONE, 0)
        transpose(value_columns, line, keys, row_bytes, positions)
        take_rows(keys, row_bytes, qkv + out_stride, stride, 0, positions, seq, width, size, ONE, turns)
        transpose(key_columns, line, keys, row_bytes, positions)
        clear(key_grads, 2 * matrix)
        for start in range(0, seq, BLOCK):
            stop = start + BLOCK
            columns = FLOAT_BYTES * stop
            take_rows(queries, row_bytes, qkv, stride, start, stop, seq, width, size, factor, turns)
            take_rows(grads, row_bytes, output_grads, out_stride, start, stop, seq, width, size, ONE, 0)
            multiply(scores, line, queries, row_bytes, FLOAT_BYTES, key_columns, line, BLOCK, columns, width)
            multiply(changes, line, grads, row_bytes, FLOAT_BYTES, value_columns, line, BLOCK, columns, width)
            for row in range(BLOCK):
                soften_back(scores + line * row, changes + line * row, start + row + 1, columns)
            add_product(value_grads, row_bytes, scores, FLOAT_BYTES, line, grads, row_bytes, stop, row_bytes, BLOCK)
            add_product(key_grads, row_bytes, changes, FLOAT_BYTES, line, queries, row_bytes, stop, row_bytes, BLOCK)
            multiply(query_grads, row_bytes, changes, line, FLOAT_BYTES, keys, row_bytes, BLOCK, row_bytes, stop)
            for position in range(start, min(stop, seq)):
                row = query_grads + row_bytes * (position - start)
                give_row(outputs + stride * position, row, width, size, factor, turns_of(turns, position, width))
        for position in range(seq):
            row, offset = outputs + stride * position, row_bytes * position
            give_row(row + out_stride, key_grads + offset, width, size, ONE, turns_of(turns, position, width))
            give_row(row + 2 * out_stride, value_grads + offset, width, size, ONE, 0)
    return 0


@kernel
def soften_back(scores, grads, count, size):
    """Turn a row of scores into shares, and the gradients of the shares into those of the scores."""
    share = spread(ONE / soften(scores, count, size))
    weighted = spread(ZERO)
    for offset in range(0, size, LANES_BYTES):
        shares = times(load_lanes(scores + offset), share)
        store_lanes(scores + offset, shares)
        weighted = plus_product(weighted, shares, load_lanes(grads + offset))
    mean = spread(total(weighted))
    for offset in range(0, size, LANES_BYTES):
        grad = minus(load_lanes(grads + offset), mean)
        store_lanes(grads + offset, times(load_lanes(scores + offset), grad))


KERNELS = (
    normalize_rows,
    normalize_rows_back,
    open_gates,
    open_gates_back,
    lose,
    attend_heads,
    attend_heads_back,
)
