"""The forward pass of the model, in float32, over rows: tokens at positions of texts, whose keys and values are kept.

A row's numbers are sums in a fixed order that depends on nothing but the row and what its text holds before it. So the
logits are the same bits whether a text is computed at once or token by token, alone or beside others.

A matrix (d_in, d_out) lies in panels of 64 columns, one after the other: the 64 numbers of input 0, those of input 1,
and so on. Columns beyond d_out are 0. One panel stays in the processor's cache while all rows of a batch use it. The
keys of a head are such a matrix too, (head_dim, positions); its values are rows (positions, head_dim), padded to whole
vectors.
"""

import numpy as np

from lmpipe.kernels.runtime.intrinsics import inlined, kernel, load_int
from lmpipe.kernels.runtime.simd_float32 import (
    add,
    broadcast,
    div,
    exp,
    hsum,
    load_f32,
    load_f32x16,
    make_softmax_numerators,
    mul,
    sqrt,
    store_f32,
    store_f32x16,
    sub,
)
from lmpipe.kernels.runtime.structs import LANES_BYTES
from lmpipe.kernels.transformer import structs
from lmpipe.kernels.transformer.structs import LAYER, MODEL, PANEL, PANEL_BYTES, POST_NORM, PRE_NORM, ROW

FLOAT_BYTES = 4
ZERO, ONE = np.float32(0.0), np.float32(1.0)
NORM_EPS = np.float32(structs.NORM_EPS)


@inlined
def whole_panels(columns):
    """The columns of a matrix, filled up to whole panels, in bytes."""
    return (columns + PANEL - 1) // PANEL * PANEL_BYTES


@inlined
def whole_lanes(columns):
    """A number of columns, filled up to whole vectors, in bytes."""
    return (FLOAT_BYTES * columns + LANES_BYTES - 1) & -LANES_BYTES


@inlined
def row_bytes(model):
    """From one row to the next in the wide scratch memory: queries, keys and values, or the feed-forward's numbers."""
    d_model, d_ff = load_int(model + MODEL.d_model), load_int(model + MODEL.d_ff)
    return whole_panels(max(3 * d_model, (1 + load_int(model + MODEL.has_gate)) * d_ff))


# --- sums of rows of a matrix, in the order of the rows --------------------------------------------------------------


@kernel
def sum_panel(output, factors, count, matrix, stride):
    """64 columns of the sum of `count` rows of a matrix, each times its factor."""
    first = second = third = fourth = broadcast(ZERO)
    for place in range(count):
        factor = broadcast(load_f32(factors + FLOAT_BYTES * place))
        first = add(first, mul(factor, load_f32x16(matrix)))
        second = add(second, mul(factor, load_f32x16(matrix + LANES_BYTES)))
        third = add(third, mul(factor, load_f32x16(matrix + 2 * LANES_BYTES)))
        fourth = add(fourth, mul(factor, load_f32x16(matrix + 3 * LANES_BYTES)))
        matrix += stride
    store_f32x16(output, first)
    store_f32x16(output + LANES_BYTES, second)
    store_f32x16(output + 2 * LANES_BYTES, third)
    store_f32x16(output + 3 * LANES_BYTES, fourth)


@kernel
def sum_lanes(output, factors, count, matrix, stride):
    """As sum_panel, for 16 columns."""
    found = broadcast(ZERO)
    for place in range(count):
        factor = broadcast(load_f32(factors + FLOAT_BYTES * place))
        found = add(found, mul(factor, load_f32x16(matrix)))
        matrix += stride
    store_f32x16(output, found)


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
    scale = broadcast(ONE)
    if weight != 0:
        squares = broadcast(ZERO)
        for offset in range(0, size, LANES_BYTES):
            values = load_f32x16(x + offset)
            squares = add(squares, mul(values, values))
        scale = broadcast(ONE / sqrt(hsum(squares) / np.float32(d_model) + NORM_EPS))
    for offset in range(0, size, LANES_BYTES):
        values = mul(load_f32x16(x + offset), scale)
        if weight != 0:
            values = mul(values, load_f32x16(weight + offset))
        store_f32x16(output + offset, values)


@kernel
def add_row(x, change, d_model):
    """Add to one row."""
    for offset in range(0, whole_panels(d_model), LANES_BYTES):
        store_f32x16(x + offset, add(load_f32x16(x + offset), load_f32x16(change + offset)))


@kernel
def silu_gate(values, d_ff, has_gate):
    """SiLU of d_ff numbers, in place; gated: times the d_ff numbers behind them.

    What is computed beyond d_ff falls on numbers that are not needed any more.
    """
    for offset in range(0, FLOAT_BYTES * d_ff, LANES_BYTES):
        x = load_f32x16(values + offset)
        silu = div(x, add(broadcast(ONE), exp(sub(broadcast(ZERO), x))))
        if has_gate:
            silu = mul(silu, load_f32x16(values + FLOAT_BYTES * d_ff + offset))
        store_f32x16(values + offset, silu)


@kernel
def apply_rope(values, head_dim, cos_sin):
    """RoPE of one head: apply_rope each pair of channels by the (cosine, sine) that `cos_sin` has for it, in place."""
    for offset in range(0, FLOAT_BYTES * head_dim, 2 * FLOAT_BYTES):
        even, odd = load_f32(values + offset), load_f32(values + offset + FLOAT_BYTES)
        cosine, sine = load_f32(cos_sin + offset), load_f32(cos_sin + offset + FLOAT_BYTES)
        store_f32(values + offset, even * cosine - odd * sine)
        store_f32(values + offset + FLOAT_BYTES, even * sine + odd * cosine)


softmax_numerators = make_softmax_numerators(exp)


# --- attention -------------------------------------------------------------------------------------------------------


@kernel
def attention_head(output, queries, position, head_dim, keys, values, scores):
    """What one head takes from positions 0 to `position`; `queries` may be changed."""
    scale = ONE / sqrt(np.float32(head_dim))
    for offset in range(0, FLOAT_BYTES * head_dim, FLOAT_BYTES):
        store_f32(queries + offset, load_f32(queries + offset) * scale)
    for panel in range(position // PANEL + 1):
        sum_panel(scores + panel * PANEL_BYTES, queries, head_dim, keys + panel * head_dim * PANEL_BYTES, PANEL_BYTES)
    inv_sum = ONE / softmax_numerators(scores, position + 1, whole_panels(position + 1))
    stride = whole_lanes(head_dim)
    # Behind the scores, since whole vectors may be longer than what a head has in the output.
    context = scores + whole_panels(position + 1)
    for offset in range(0, stride, LANES_BYTES):
        sum_lanes(context + offset, scores, position + 1, values + offset, stride)
    for offset in range(0, FLOAT_BYTES * head_dim, FLOAT_BYTES):
        store_f32(output + offset, load_f32(context + offset) * inv_sum)


@kernel
def append_kv(key, value, position, head_dim, keys, values):
    """Put a position's key and value of one head into the cache."""
    keys += position // PANEL * head_dim * PANEL_BYTES + FLOAT_BYTES * (position % PANEL)
    values += position * whole_lanes(head_dim)
    for channel in range(head_dim):
        store_f32(keys + PANEL_BYTES * channel, load_f32(key + FLOAT_BYTES * channel))
        store_f32(values + FLOAT_BYTES * channel, load_f32(value + FLOAT_BYTES * channel))


@kernel
def attention(model, output, qkv, layer, row):
    """All heads of one row: (d_model) from its queries, keys and values, which follow each other, (3 * d_model)."""
    d_model, num_heads = load_int(model + MODEL.d_model), load_int(model + MODEL.num_heads)
    keys_bytes, values_bytes = load_int(model + MODEL.keys_bytes), load_int(model + MODEL.values_bytes)
    head_dim = d_model // num_heads
    position, cos_sin = load_int(row + ROW.position), load_int(model + MODEL.cos_sin)
    keys = load_int(row + ROW.cache) + layer * num_heads * (keys_bytes + values_bytes)
    for head in range(num_heads):
        query = qkv + FLOAT_BYTES * head_dim * head
        key, value = query + FLOAT_BYTES * d_model, query + 2 * FLOAT_BYTES * d_model
        if cos_sin != 0:
            apply_rope(query, head_dim, cos_sin + FLOAT_BYTES * head_dim * position)
            apply_rope(key, head_dim, cos_sin + FLOAT_BYTES * head_dim * position)
        append_kv(key, value, position, head_dim, keys, keys + keys_bytes)
        scores = load_int(model + MODEL.scores)
        attention_head(
            output + FLOAT_BYTES * head_dim * head, query, position, head_dim, keys, keys + keys_bytes, scores
        )
        keys += keys_bytes + values_bytes


# --- the whole model -------------------------------------------------------------------------------------------------


@kernel
def residual_add(model, change, rows, norm, change_stride):
    """Add to the rows what a sublayer made of them, and normalise them where norms stand behind the sum."""
    d_model, x = load_int(model + MODEL.d_model), load_int(model + MODEL.x)
    for _ in range(rows):
        add_row(x, change, d_model)
        if load_int(model + MODEL.norm) == POST_NORM:
            rmsnorm(x, x, d_model, norm)
        x += whole_panels(d_model)
        change += change_stride


@kernel
def pre_norm(model, rows, norm):
    """Put into the memory for it what a sublayer sees: the rows, normalised where norms stand before it."""
    d_model = load_int(model + MODEL.d_model)
    weight = norm if load_int(model + MODEL.norm) == PRE_NORM else 0
    size = whole_panels(d_model)
    for row in range(rows):
        rmsnorm(load_int(model + MODEL.normed) + row * size, load_int(model + MODEL.x) + row * size, d_model, weight)


@kernel
def block(model, layer, first, rows):
    """One layer, for all rows."""
    d_model, d_ff = load_int(model + MODEL.d_model), load_int(model + MODEL.d_ff)
    weights = load_int(model + MODEL.layers) + LAYER.nbytes * layer
    normed, wide = load_int(model + MODEL.normed), load_int(model + MODEL.wide)
    size, stride = whole_panels(d_model), row_bytes(model)
    norm = load_int(weights + LAYER.norm_1)
    pre_norm(model, rows, norm)
    multiply(wide, stride, normed, size, rows, d_model, load_int(weights + LAYER.qkv), 3 * d_model)
    for row in range(rows):
        attention(model, normed + row * size, wide + row * stride, layer, first + ROW.nbytes * row)
    multiply(wide, stride, normed, size, rows, d_model, load_int(weights + LAYER.output), d_model)
    residual_add(model, wide, rows, norm, stride)

    norm, has_gate = load_int(weights + LAYER.norm_2), load_int(model + MODEL.has_gate)
    pre_norm(model, rows, norm)
    multiply(wide, stride, normed, size, rows, d_model, load_int(weights + LAYER.up), (1 + has_gate) * d_ff)
    for row in range(rows):
        silu_gate(wide + row * stride, d_ff, has_gate)
    multiply(normed, size, wide, stride, rows, d_ff, load_int(weights + LAYER.down), d_model)
    residual_add(model, normed, rows, norm, size)


@kernel
def forward(model, first, rows):
    """Compute a batch of rows, those of one text in the order of their positions, and the logits that are wanted."""
    d_model = load_int(model + MODEL.d_model)
    x, size = load_int(model + MODEL.x), whole_panels(d_model)
    for row in range(rows):
        token = load_int(first + ROW.nbytes * row + ROW.token)
        rmsnorm(x + row * size, load_int(model + MODEL.embeddings) + token * size, d_model, 0)
    for layer in range(load_int(model + MODEL.num_layers)):
        block(model, layer, first, rows)
    normed = load_int(model + MODEL.normed)
    for row in range(rows):
        logits = load_int(first + ROW.nbytes * row + ROW.logits)
        if logits != 0:
            rmsnorm(normed, x + row * size, d_model, load_int(model + MODEL.final_norm))
            head, vocab_size = load_int(model + MODEL.head), load_int(model + MODEL.vocab_size)
            multiply(logits, 0, normed, size, 1, d_model, head, vocab_size)
    return 0


KERNELS = (forward,)
