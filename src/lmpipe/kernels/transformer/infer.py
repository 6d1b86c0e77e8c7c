"""The forward pass of the model, in float32, over rows: tokens at positions of texts, whose keys and values are kept.

A row's numbers are sums in a fixed order that depends on nothing but the row and what its text holds before it. So the
logits are the same bits whether a text is computed at once or token by token, alone or beside others.

A matrix (d_in, d_out) lies in panels of 64 columns, one after the other: the 64 numbers of input 0, those of input 1,
and so on. Columns beyond d_out are 0. One panel stays in the processor's cache while all rows of a batch use it. The
keys of a head are such a matrix too, (head_dim, positions); its values are rows (positions, head_dim), padded to whole
vectors.
"""

import numpy as np

from lmpipe.kernels.runtime.intrinsics import field, inlined, kernel
from lmpipe.kernels.runtime.simd_float32 import (
    exponential,
    load_float,
    load_lanes,
    minus,
    over,
    plus,
    soften_by,
    spread,
    square_root,
    store_float,
    store_lanes,
    times,
    total,
)
from lmpipe.kernels.runtime.structs import LANES_BYTES, WORD
from lmpipe.kernels.transformer import structs

PANEL_BYTES = structs.PANEL_BYTES
FLOAT_BYTES = 4
ZERO, ONE = np.float32(0.0), np.float32(1.0)
NORM_EPS = np.float32(structs.NORM_EPS)


@inlined
def whole_panels(columns):
    """The columns of a matrix, filled up to whole panels, in bytes."""
    return (columns + structs.PANEL - 1) // structs.PANEL * PANEL_BYTES


@inlined
def whole_lanes(columns):
    """A number of columns, filled up to whole vectors, in bytes."""
    return (FLOAT_BYTES * columns + LANES_BYTES - 1) & -LANES_BYTES


@inlined
def row_bytes(model):
    """From one row to the next in the wide scratch memory: queries, keys and values, or the feed-forward's numbers."""
    d_model, d_ff = field(model, structs.MODEL_D_MODEL), field(model, structs.MODEL_D_FF)
    return whole_panels(max(3 * d_model, (1 + field(model, structs.MODEL_HAS_GATE)) * d_ff))


# --- sums of rows of a matrix, in the order of the rows --------------------------------------------------------------


@kernel
def sum_panel(output, factors, count, matrix, stride):
    """64 columns of the sum of `count` rows of a matrix, each times its factor."""
    first = second = third = fourth = spread(ZERO)
    for place in range(count):
        factor = spread(load_float(factors + FLOAT_BYTES * place))
        first = plus(first, times(factor, load_lanes(matrix)))
        second = plus(second, times(factor, load_lanes(matrix + LANES_BYTES)))
        third = plus(third, times(factor, load_lanes(matrix + 2 * LANES_BYTES)))
        fourth = plus(fourth, times(factor, load_lanes(matrix + 3 * LANES_BYTES)))
        matrix += stride
    store_lanes(output, first)
    store_lanes(output + LANES_BYTES, second)
    store_lanes(output + 2 * LANES_BYTES, third)
    store_lanes(output + 3 * LANES_BYTES, fourth)


@kernel
def sum_lanes(output, factors, count, matrix, stride):
    """As sum_panel, for 16 columns."""
    found = spread(ZERO)
    for place in range(count):
        factor = spread(load_float(factors + FLOAT_BYTES * place))
        found = plus(found, times(factor, load_lanes(matrix)))
        matrix += stride
    store_lanes(output, found)


@kernel
def multiply(output, output_stride, inputs, input_stride, rows, d_in, matrix, d_out):
    """The product of rows (rows, d_in) and a matrix (d_in, d_out)."""
    for _ in range(whole_panels(d_out) // PANEL_BYTES):
        for row in range(rows):
            sum_panel(output + row * output_stride, inputs + row * input_stride, d_in, matrix, PANEL_BYTES)
        output += PANEL_BYTES
        matrix += d_in * PANEL_BYTES


# --- what lies between the products ----------------------------------------------------------------------------------


@kernel
def rmsnorm(output, x, d_model, weight):
    """RMSNorm of one row, or a copy of it where there is no weight (0)."""
    size = whole_panels(d_model)
    scale = spread(ONE)
    if weight != 0:
        squares = spread(ZERO)
        for offset in range(0, size, LANES_BYTES):
            values = load_lanes(x + offset)
            squares = plus(squares, times(values, values))
        scale = spread(ONE / square_root(total(squares) / np.float32(d_model) + NORM_EPS))
    for offset in range(0, size, LANES_BYTES):
        values = times(load_lanes(x + offset), scale)
        if weight != 0:
            values = times(values, load_lanes(weight + offset))
        store_lanes(output + offset, values)


@kernel
def add(x, change, d_model):
    """Add to one row."""
    for offset in range(0, whole_panels(d_model), LANES_BYTES):
        store_lanes(x + offset, plus(load_lanes(x + offset), load_lanes(change + offset)))


@kernel
def silu_gate(values, d_ff, has_gate):
    """SiLU of d_ff numbers, in place; gated: times the d_ff numbers behind them.

    What is computed beyond d_ff falls on numbers that are not needed any more.
    """
    for offset in range(0, FLOAT_BYTES * d_ff, LANES_BYTES):
        x = load_lanes(values + offset)
        silu = over(x, plus(spread(ONE), exponential(minus(spread(ZERO), x))))
        if has_gate:
            silu = times(silu, load_lanes(values + FLOAT_BYTES * d_ff + offset))
        store_lanes(values + offset, silu)


@kernel
def apply_rope(values, head_dim, cos_sin):
    """RoPE of one head: apply_rope each pair of channels by the (cosine, sine) that `cos_sin` has for it, in place."""
    for offset in range(0, FLOAT_BYTES * head_dim, 2 * FLOAT_BYTES):
        even, odd = load_float(values + offset), load_float(values + offset + FLOAT_BYTES)
        cosine, sine = load_float(cos_sin + offset), load_float(cos_sin + offset + FLOAT_BYTES)
        store_float(values + offset, even * cosine - odd * sine)
        store_float(values + offset + FLOAT_BYTES, even * sine + odd * cosine)


soften = soften_by(exponential)


# --- attention -------------------------------------------------------------------------------------------------------


@kernel
def attention_head(output, queries, position, head_dim, keys, values, scores):
    """What one head takes from positions 0 to `position`; `queries` may be changed."""
    scale = ONE / square_root(np.float32(head_dim))
    for offset in range(0, FLOAT_BYTES * head_dim, FLOAT_BYTES):
        store_float(queries + offset, load_float(queries + offset) * scale)
    for panel in range(position // structs.PANEL + 1):
        sum_panel(scores + panel * PANEL_BYTES, queries, head_dim, keys + panel * head_dim * PANEL_BYTES, PANEL_BYTES)
    inv_sum = ONE / soften(scores, position + 1, whole_panels(position + 1))
    stride = whole_lanes(head_dim)
    # Behind the scores, since whole vectors may be longer than what a head has in the output.
    context = scores + whole_panels(position + 1)
    for offset in range(0, stride, LANES_BYTES):
        sum_lanes(context + offset, scores, position + 1, values + offset, stride)
    for offset in range(0, FLOAT_BYTES * head_dim, FLOAT_BYTES):
        store_float(output + offset, load_float(context + offset) * inv_sum)


@kernel
def append_kv(key, value, position, head_dim, keys, values):
    """Put a position's key and value of one head into the cache."""
    keys += position // structs.PANEL * head_dim * PANEL_BYTES + FLOAT_BYTES * (position % structs.PANEL)
    values += position * whole_lanes(head_dim)
    for channel in range(head_dim):
        store_float(keys + PANEL_BYTES * channel, load_float(key + FLOAT_BYTES * channel))
        store_float(values + FLOAT_BYTES * channel, load_float(value + FLOAT_BYTES * channel))


@kernel
def attention(model, output, qkv, layer, row):
    """All heads of one row: (d_model) from its queries, keys and values, which follow each other, (3 * d_model)."""
    d_model, num_heads = field(model, structs.MODEL_D_MODEL), field(model, structs.MODEL_NUM_HEADS)
    keys_bytes, values_bytes = field(model, structs.MODEL_KEYS_BYTES), field(model, structs.MODEL_VALUES_BYTES)
    head_dim = d_model // num_heads
    position, cos_sin = field(row, structs.ROW_POSITION), field(model, structs.MODEL_COS_SIN)
    keys = field(row, structs.ROW_CACHE) + layer * num_heads * (keys_bytes + values_bytes)
    for head in range(num_heads):
        query = qkv + FLOAT_BYTES * head_dim * head
        key, value = query + FLOAT_BYTES * d_model, query + 2 * FLOAT_BYTES * d_model
        if cos_sin != 0:
            apply_rope(query, head_dim, cos_sin + FLOAT_BYTES * head_dim * position)
            apply_rope(key, head_dim, cos_sin + FLOAT_BYTES * head_dim * position)
        append_kv(key, value, position, head_dim, keys, keys + keys_bytes)
        scores = field(model, structs.MODEL_SCORES)
        attention_head(
            output + FLOAT_BYTES * head_dim * head, query, position, head_dim, keys, keys + keys_bytes, scores
        )
        keys += keys_bytes + values_bytes


# --- the whole model -------------------------------------------------------------------------------------------------


@kernel
def residual_add(model, change, rows, norm, change_stride):
    """Add to the rows what a sublayer made of them, and normalise them where norms stand behind the sum."""
    d_model, x = field(model, structs.MODEL_D_MODEL), field(model, structs.MODEL_X)
    for _ in range(rows):
        add(x, change, d_model)
        if field(model, structs.MODEL_NORM) == structs.POST_NORM:
            rmsnorm(x, x, d_model, norm)
        x += whole_panels(d_model)
        change += change_stride


@kernel
def pre_norm(model, rows, norm):
    """Put into the memory for it what a sublayer sees: the rows, normalised where norms stand before it."""
    d_model = field(model, structs.MODEL_D_MODEL)
    weight = norm if field(model, structs.MODEL_NORM) == structs.PRE_NORM else 0
    size = whole_panels(d_model)
    for row in range(rows):
        rmsnorm(
            field(model, structs.MODEL_NORMED) + row * size, field(model, structs.MODEL_X) + row * size, d_model, weight
        )


@kernel
def block(model, layer, first, rows):
    """One layer, for all rows."""
    d_model, d_ff = field(model, structs.MODEL_D_MODEL), field(model, structs.MODEL_D_FF)
    weights = field(model, structs.MODEL_LAYERS) + WORD * structs.LAYER_FIELDS * layer
    normed, wide = field(model, structs.MODEL_NORMED), field(model, structs.MODEL_WIDE)
    size, stride = whole_panels(d_model), row_bytes(model)
    norm = field(weights, structs.LAYER_NORM_1)
    pre_norm(model, rows, norm)
    multiply(wide, stride, normed, size, rows, d_model, field(weights, structs.LAYER_QKV), 3 * d_model)
    for row in range(rows):
        attention(model, normed + row * size, wide + row * stride, layer, first + WORD * structs.ROW_FIELDS * row)
    multiply(wide, stride, normed, size, rows, d_model, field(weights, structs.LAYER_OUTPUT), d_model)
    residual_add(model, wide, rows, norm, stride)

    norm, has_gate = field(weights, structs.LAYER_NORM_2), field(model, structs.MODEL_HAS_GATE)
    pre_norm(model, rows, norm)
    multiply(wide, stride, normed, size, rows, d_model, field(weights, structs.LAYER_UP), (1 + has_gate) * d_ff)
    for row in range(rows):
        silu_gate(wide + row * stride, d_ff, has_gate)
    multiply(normed, size, wide, stride, rows, d_ff, field(weights, structs.LAYER_DOWN), d_model)
    residual_add(model, normed, rows, norm, size)


@kernel
def forward(model, first, rows):
    """Compute a batch of rows, those of one text in the order of their positions, and the logits that are wanted."""
    d_model = field(model, structs.MODEL_D_MODEL)
    x, size = field(model, structs.MODEL_X), whole_panels(d_model)
    for row in range(rows):
        token = field(first + WORD * structs.ROW_FIELDS * row, structs.ROW_TOKEN)
        rmsnorm(x + row * size, field(model, structs.MODEL_EMBEDDINGS) + token * size, d_model, 0)
    for layer in range(field(model, structs.MODEL_NUM_LAYERS)):
        block(model, layer, first, rows)
    normed = field(model, structs.MODEL_NORMED)
    for row in range(rows):
        logits = field(first + WORD * structs.ROW_FIELDS * row, structs.ROW_LOGITS)
        if logits != 0:
            rmsnorm(normed, x + row * size, d_model, field(model, structs.MODEL_FINAL_NORM))
            head, vocab_size = field(model, structs.MODEL_HEAD), field(model, structs.MODEL_VOCAB_SIZE)
            multiply(logits, 0, normed, size, 1, d_model, head, vocab_size)
    return 0


KERNELS = (forward,)
