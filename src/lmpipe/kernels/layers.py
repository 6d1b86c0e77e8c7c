"""The layers of the model in training, forwards and backwards: all that lies between the matrix products.

Every kernel takes the address of its arguments (layout.py names them), the first of its units of work and the one after
the last, and the number of the thread that calls it. What a unit gives does not depend on the others, so results are
the same however threads share the units. Rows are float32 (`size` 4) or bfloat16 (`size` 2) numbers, one behind the
other; all are computed in float32.
"""

import numpy as np

from lmpipe.kernels import layout
from lmpipe.kernels.lanes import (
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
    turned,
)
from lmpipe.kernels.simd import CHECKED, checked, field, inlined, kernel, load_int

FLOAT_BYTES = 4
LANES_BYTES, WORD = layout.LANES_BYTES, layout.WORD
BLOCK = layout.ATTENTION_BLOCK
ZERO, ONE = np.float32(0.0), np.float32(1.0)
NORM_EPS = np.float32(1e-5)
soften = soften_by(fused_exponential)


# --- rows of numbers -------------------------------------------------------------------------------------------------


@inlined
def read(row, place, count, size):
    """Sixteen numbers of a row from `place` on; behind the `count` that it has there are zeros."""
    if size == FLOAT_BYTES:
        return load_some(row + FLOAT_BYTES * place, min(count - place, LANES))
    return load_some_halves(row + 2 * place, min(count - place, LANES))


@inlined
def write(row, place, values, count, size):
    """Write sixteen numbers of a row from `place` on, or as many as it has."""
    if size == FLOAT_BYTES:
        store_some(row + FLOAT_BYTES * place, values, min(count - place, LANES))
    else:
        store_some_halves(row + 2 * place, values, min(count - place, LANES))


@inlined
def opening(values):
    """The logistic function."""
    return over(spread(ONE), plus(spread(ONE), fused_exponential(minus(spread(ZERO), values))))


# --- RMSNorm ---------------------------------------------------------------------------------------------------------


@kernel
def normalize_rows(call, first, last, rank):
    """RMSNorm of rows of float32, and the scale of each, which its derivative needs."""
    d_model, size = field(call, layout.NORM_D_MODEL), field(call, layout.NORM_SIZE)
    gain = field(call, layout.NORM_GAIN)
    for row in range(first, last):
        x = field(call, layout.NORM_X) + FLOAT_BYTES * d_model * row
        output = field(call, layout.NORM_OUTPUT) + size * d_model * row
        squares = spread(ZERO)
        for place in range(0, d_model, LANES):
            values = read(x, place, d_model, FLOAT_BYTES)
            squares = plus_product(squares, values, values)
        scale = ONE / square_root(total(squares) / np.float32(d_model) + NORM_EPS)
        store_float(field(call, layout.NORM_SCALES) + FLOAT_BYTES * row, scale)
        for place in range(0, d_model, LANES):
            values = times(read(x, place, d_model, FLOAT_BYTES), spread(scale))
            write(output, place, times(values, read(gain, place, d_model, FLOAT_BYTES)), d_model, size)
    return 0


@kernel
def normalize_rows_back(call, first, last, rank):
    """The gradients of RMSNorm, by groups of rows: of the rows, and of the gain a sum for each group.

    With r the scale and n = r x: dx = r (g w - n mean(g w n)), and dw sums g n.
    """
    d_model, size = field(call, layout.NORM_D_MODEL), field(call, layout.NORM_SIZE)
    gain, rows = field(call, layout.NORM_GAIN), field(call, layout.NORM_ROWS)
    for group in range(first, last):
        sums = field(call, layout.NORM_GAIN_SUMS) + FLOAT_BYTES * d_model * group
        for place in range(0, d_model, LANES):
            write(sums, place, spread(ZERO), d_model, FLOAT_BYTES)
        for row in range(group * layout.NORM_GROUP, min((group + 1) * layout.NORM_GROUP, rows)):
            x = field(call, layout.NORM_X) + FLOAT_BYTES * d_model * row
            grad = field(call, layout.NORM_OUTPUT) + size * d_model * row
            scale = spread(load_float(field(call, layout.NORM_SCALES) + FLOAT_BYTES * row))
            weighted = spread(ZERO)
            for place in range(0, d_model, LANES):
                normal = times(read(x, place, d_model, FLOAT_BYTES), scale)
                product = times(read(grad, place, d_model, size), normal)
                write(sums, place, plus(read(sums, place, d_model, FLOAT_BYTES), product), d_model, FLOAT_BYTES)
                weighted = plus_product(weighted, product, read(gain, place, d_model, FLOAT_BYTES))
            mean = spread(total(weighted) / np.float32(d_model))
            output = field(call, layout.NORM_GRAD_X) + FLOAT_BYTES * d_model * row
            for place in range(0, d_model, LANES):
                normal = times(read(x, place, d_model, FLOAT_BYTES), scale)
                straight = times(read(grad, place, d_model, size), read(gain, place, d_model, FLOAT_BYTES))
                write(output, place, times(minus(straight, times(normal, mean)), scale), d_model, FLOAT_BYTES)
    return 0


# --- SwiGLU ----------------------------------------------------------------------------------------------------------


@kernel
def open_gates(call, first, last, rank):
    """silu(gate) * up of rows that hold both, d_ff numbers each."""
    d_ff, size = field(call, layout.GATE_D_FF), field(call, layout.GATE_SIZE)
    for row in range(first, last):
        gates = field(call, layout.GATE_UP) + 2 * size * d_ff * row
        output = field(call, layout.GATE_OUTPUT) + size * d_ff * row
        for place in range(0, d_ff, LANES):
            gate = read(gates, place, d_ff, size)
            up = read(gates + size * d_ff, place, d_ff, size)
            write(output, place, times(times(gate, opening(gate)), up), d_ff, size)
    return 0


@kernel
def open_gates_back(call, first, last, rank):
    """The gradients of both halves, side by side, too."""
    d_ff, size = field(call, layout.GATE_D_FF), field(call, layout.GATE_SIZE)
    for row in range(first, last):
        gates = field(call, layout.GATE_UP) + 2 * size * d_ff * row
        grads = field(call, layout.GATE_OUTPUT) + size * d_ff * row
        outputs = field(call, layout.GATE_GRADS) + 2 * size * d_ff * row
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
    return 0


# --- cross-entropy ---------------------------------------------------------------------------------------------------


@kernel
def lose(call, first, last, rank):
    """Turn rows of logits into the gradients of their losses, in place.

    A loss is what is told of a row, (the largest logit - the target's) and the sum of exp(logit - largest), as
    difference + log(sum).
    """
    vocab, size = field(call, layout.LOSS_VOCAB), field(call, layout.LOSS_SIZE)
    for row in range(first, last):
        logits = field(call, layout.LOSS_LOGITS) + size * vocab * row
        target = load_int(field(call, layout.LOSS_TARGETS) + WORD * row)
        told = field(call, layout.LOSS_TOLD) + 2 * FLOAT_BYTES * row
        highest = spread(MASKED)
        for place in range(0, vocab, LANES):
            highest = larger(filled(read(logits, place, vocab, size), vocab - place, MASKED), highest)
        greatest = largest(highest)
        found = spread(ZERO)
        for place in range(0, vocab, LANES):
            values = filled(read(logits, place, vocab, size), vocab - place, MASKED)
            found = plus(found, fused_exponential(minus(values, spread(greatest))))
        sum_of_all = total(found)
        wanted = total(read(logits, target, target + 1, size))
        store_float(told, greatest - wanted)
        store_float(told + FLOAT_BYTES, sum_of_all)
        share = spread(ONE / sum_of_all)
        for place in range(0, vocab, LANES):
            chances = times(fused_exponential(minus(read(logits, place, vocab, size), spread(greatest))), share)
            write(logits, place, chances, vocab, size)
        # The gradient of a logit is its chance, less 1 for the target's.
        chance = read(logits, target, target + 1, size)
        write(logits, target, minus(chance, spread(ONE)), target + 1, size)
    return 0


# --- matrix products of attention's blocks ---------------------------------------------------------------------------

ROWS = 8
pair_block, single_block = product_block(ROWS, 2, False), product_block(ROWS, 1, False)
add_pair_block, add_single_block = product_block(ROWS, 2, True), product_block(ROWS, 1, True)


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


@kernel
def multiply(c, c_stride, a, a_stride, a_step, b, b_stride, rows, columns, depth):
    """C = A B: `rows` a multiple of 8, `columns` bytes of whole vectors."""
    for row in range(0, rows, ROWS):
        c_row, a_row = c + c_stride * row, a + a_stride * row
        check_product(c_row, c_stride, a_row, a_stride, a_step, b, b_stride, columns, depth)
        for offset in range(0, columns - LANES_BYTES, 2 * LANES_BYTES):
            pair_block(c_row + offset, c_stride, a_row, a_stride, a_step, b + offset, b_stride, depth)
        if columns % (2 * LANES_BYTES):
            offset = columns - LANES_BYTES
            single_block(c_row + offset, c_stride, a_row, a_stride, a_step, b + offset, b_stride, depth)


@kernel
def add_product(c, c_stride, a, a_stride, a_step, b, b_stride, rows, columns, depth):
    """C += A B."""
    for row in range(0, rows, ROWS):
        c_row, a_row = c + c_stride * row, a + a_stride * row
        check_product(c_row, c_stride, a_row, a_stride, a_step, b, b_stride, columns, depth)
        for offset in range(0, columns - LANES_BYTES, 2 * LANES_BYTES):
            add_pair_block(c_row + offset, c_stride, a_row, a_stride, a_step, b + offset, b_stride, depth)
        if columns % (2 * LANES_BYTES):
            offset = columns - LANES_BYTES
            add_single_block(c_row + offset, c_stride, a_row, a_stride, a_step, b + offset, b_stride, depth)


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
def take_columns(target, stride, row, source_stride, positions, width, size, turns, scratch):
    """A head's rows as columns of a matrix (width, positions), turned by RoPE unless `turns` is 0."""
    for position in range(positions):
        take_row(scratch, row + source_stride * position, width, size, ONE, turns_of(turns, position, width))
        for channel in range(width):
            place = target + stride * channel + FLOAT_BYTES * position
            store_float(place, load_float(scratch + FLOAT_BYTES * channel))


@inlined
def turns_of(turns, position, width):
    """The cosines and sines of a position, 0 where nothing is turned."""
    return turns + FLOAT_BYTES * width * position if turns != 0 else 0


@inlined
def shape_of(call):
    """Positions of a sequence, heads, and the width of one."""
    return field(call, layout.ATTEND_SEQ), field(call, layout.ATTEND_HEADS), field(call, layout.ATTEND_WIDTH)


@kernel
def attend_heads(call, first, last, rank):
    """Causal attention, a head of a sequence each: queries, keys and values (seq, 3 d_model) to (seq, d_model)."""
    seq, heads, width = shape_of(call)
    size, turns = field(call, layout.ATTEND_SIZE), field(call, layout.ATTEND_TURNS)
    d_model, factor = heads * width, ONE / square_root(np.float32(width))
    line, row_bytes = FLOAT_BYTES * filled_up(seq, BLOCK), FLOAT_BYTES * filled_up(width, LANES)
    keys = field(call, layout.ATTEND_SCRATCH) + field(call, layout.ATTEND_SCRATCH_BYTES) * rank
    values = keys + line * width
    queries = values + line // FLOAT_BYTES * row_bytes
    scores = queries + BLOCK * row_bytes
    mixed = scores + BLOCK * line
    shares = mixed + BLOCK * row_bytes
    for unit in range(first, last):
        qkv = field(call, layout.ATTEND_QKV) + size * (unit // heads * seq * 3 * d_model + unit % heads * width)
        output = field(call, layout.ATTEND_OUTPUT) + size * (unit // heads * seq * d_model + unit % heads * width)
        stride = 3 * size * d_model
        clear(keys, line * width + line // FLOAT_BYTES * row_bytes)
        take_columns(keys, line, qkv + size * d_model, stride, seq, width, size, turns, queries)
        for position in range(seq):
            row = qkv + 2 * size * d_model + stride * position
            take_row(values + row_bytes * position, row, width, size, ONE, 0)
        for start in range(0, seq, BLOCK):
            stop = start + BLOCK
            take_queries(queries, row_bytes, qkv, stride, start, seq, width, size, factor, turns)
            multiply(scores, line, queries, row_bytes, FLOAT_BYTES, keys, line, BLOCK, FLOAT_BYTES * stop, width)
            for row in range(BLOCK):
                share = ONE / soften(scores + line * row, start + row + 1, FLOAT_BYTES * stop)
                store_float(shares + FLOAT_BYTES * row, share)
            multiply(mixed, row_bytes, scores, line, FLOAT_BYTES, values, row_bytes, BLOCK, row_bytes, stop)
            for position in range(start, min(stop, seq)):
                row = position - start
                share = load_float(shares + FLOAT_BYTES * row)
                give_row(output + size * d_model * position, mixed + row_bytes * row, width, size, share, 0)
    return 0


@kernel
def take_queries(target, row_bytes, rows, stride, start, seq, width, size, factor, turns):
    """A block of rows, those behind the last position being zeros."""
    for position in range(start, start + BLOCK):
        place = target + row_bytes * (position - start)
        if position < seq:
            take_row(place, rows + stride * position, width, size, factor, turns_of(turns, position, width))
        else:
            clear(place, row_bytes)


@kernel
def attend_heads_back(call, first, last, rank):
    """The gradients of queries, keys and values (seq, 3 d_model), for a head of a sequence each.

    The shares P of the softmax are computed again. With S the scores and G the gradient of the output:
    dV = P' G, dP = G V', dS = P (dP - sum(P dP)), dQ = dS K, dK = dS' Q.
    """
    seq, heads, width = shape_of(call)
    size, turns = field(call, layout.ATTEND_SIZE), field(call, layout.ATTEND_TURNS)
    d_model, factor = heads * width, ONE / square_root(np.float32(width))
    line, row_bytes = FLOAT_BYTES * filled_up(seq, BLOCK), FLOAT_BYTES * filled_up(width, LANES)
    square = line // FLOAT_BYTES * row_bytes
    key_columns = field(call, layout.ATTEND_SCRATCH) + field(call, layout.ATTEND_SCRATCH_BYTES) * rank
    value_columns = key_columns + line * width
    keys = value_columns + line * width
    key_grads, value_grads = keys + square, keys + 2 * square
    queries = keys + 3 * square
    grads = queries + BLOCK * row_bytes
    query_grads = grads + BLOCK * row_bytes
    scores = query_grads + BLOCK * row_bytes
    changes = scores + BLOCK * line  # the gradients of the scores
    stride, out_stride = 3 * size * d_model, size * d_model
    for unit in range(first, last):
        place = unit // heads * seq * d_model
        qkv = field(call, layout.ATTEND_QKV) + size * (3 * place + unit % heads * width)
        outputs = field(call, layout.ATTEND_GRADS) + size * (3 * place + unit % heads * width)
        output_grads = field(call, layout.ATTEND_OUTPUT) + size * (place + unit % heads * width)
        clear(key_columns, 2 * line * width + 3 * square)
        take_columns(key_columns, line, qkv + out_stride, stride, seq, width, size, turns, queries)
        take_columns(value_columns, line, qkv + 2 * out_stride, stride, seq, width, size, 0, queries)
        for position in range(seq):
            row = qkv + out_stride + stride * position
            take_row(keys + row_bytes * position, row, width, size, ONE, turns_of(turns, position, width))
        for start in range(0, seq, BLOCK):
            stop = start + BLOCK
            columns = FLOAT_BYTES * stop
            take_queries(queries, row_bytes, qkv, stride, start, seq, width, size, factor, turns)
            take_queries(grads, row_bytes, output_grads, out_stride, start, seq, width, size, ONE, 0)
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
