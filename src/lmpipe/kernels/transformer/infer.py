"""Forward pass of the model in float32 with a KV cache: prefill and decoding alike.

The kernel computes rows: tokens at positions of texts. Each number of a row is a sum in a fixed order that depends only
on the row and the text before it, so logits have the same bits whether a text is computed at once or token by token,
alone or in a batch. That rules out BLAS, whose sums depend on the shapes of the matrices. Greedy generation makes 33
times the tokens per second of transformers' generate at the laptop study's shape (benchmarks/generation.py).

Weight matrices (d_in, d_out) are stored as panels of PANEL columns: for each panel its PANEL numbers of input 0, then
of input 1, and so on; columns beyond d_out are 0. A panel stays in the processor's cache while all rows of a batch use
it. The keys of a head are such a matrix, (head_dim, positions); its values are rows (positions, head_dim), padded to
whole vectors. Rows (d_model) are padded with zeros to whole panels.
"""

import numpy as np

from lmpipe.kernels.runtime import simd_float32 as simd
from lmpipe.kernels.runtime.intrinsics import inlined, kernel, load_int, round_up
from lmpipe.kernels.runtime.simd_float32 import ONE, ZERO, broadcast, load_f32, load_f32x16, store_f32, store_f32x16
from lmpipe.kernels.runtime.structs import FLOAT_BYTES, LANES_BYTES
from lmpipe.kernels.transformer import structs
from lmpipe.kernels.transformer.structs import LAYER, MODEL, PANEL, PANEL_BYTES, POST_NORM, PRE_NORM, ROW

NORM_EPS = np.float32(structs.NORM_EPS)
softmax_numerators = simd.make_softmax_numerators(simd.exp)


@inlined
def padded_bytes(columns):
    """Return the bytes of a row of `columns` numbers, padded to whole panels."""
    return FLOAT_BYTES * round_up(columns, PANEL)


# --- matrix products, whose sums follow the order of the matrix's rows ------------------------------------------------


@kernel
def vecmat_panel(output, factors, count, matrix, stride):
    """Compute PANEL columns of factors (count,) @ matrix (count, PANEL), whose rows are `stride` bytes apart."""
    first = second = third = fourth = broadcast(ZERO)
    for i in range(count):
        factor = broadcast(load_f32(factors + FLOAT_BYTES * i))
        first = first + factor * load_f32x16(matrix)
        second = second + factor * load_f32x16(matrix + LANES_BYTES)
        third = third + factor * load_f32x16(matrix + 2 * LANES_BYTES)
        fourth = fourth + factor * load_f32x16(matrix + 3 * LANES_BYTES)
        matrix += stride
    store_f32x16(output, first)
    store_f32x16(output + LANES_BYTES, second)
    store_f32x16(output + 2 * LANES_BYTES, third)
    store_f32x16(output + 3 * LANES_BYTES, fourth)


@kernel
def vecmat_lanes(output, factors, count, matrix, stride):
    """Compute LANES columns of factors (count,) @ matrix (count, LANES)."""
    sums = broadcast(ZERO)
    for i in range(count):
        factor = broadcast(load_f32(factors + FLOAT_BYTES * i))
        sums = sums + factor * load_f32x16(matrix)
        matrix += stride
    store_f32x16(output, sums)


@kernel
def matmul(output, output_stride, inputs, input_stride, rows, d_in, matrix, d_out):
    """Multiply rows (rows, d_in) by a matrix (d_in, d_out) in panels."""
    for _ in range(padded_bytes(d_out) // PANEL_BYTES):
        for row in range(rows):
            vecmat_panel(output + row * output_stride, inputs + row * input_stride, d_in, matrix, PANEL_BYTES)
        output += PANEL_BYTES
        matrix += d_in * PANEL_BYTES


# --- element-wise layers ---------------------------------------------------------------------------------------------


@kernel
def rmsnorm(output, x, d_model, weight):
    """RMSNorm of one row; without a weight (0), a copy of it."""
    size = padded_bytes(d_model)
    scale = broadcast(ONE)
    if weight != 0:
        squares = broadcast(ZERO)
        for offset in range(0, size, LANES_BYTES):
            values = load_f32x16(x + offset)
            squares = squares + values * values
        scale = broadcast(ONE / simd.sqrt(simd.hsum(squares) / np.float32(d_model) + NORM_EPS))
    for offset in range(0, size, LANES_BYTES):
        values = load_f32x16(x + offset) * scale
        if weight != 0:
            values = values * load_f32x16(weight + offset)
        store_f32x16(output + offset, values)


@kernel
def feed_forward_activation(values, d_ff, has_gate):
    """SiLU of a row's first d_ff numbers, in place; with a gate, times the next d_ff numbers (SwiGLU).

    Whole vectors are computed: what is written beyond d_ff is not read again.
    """
    for offset in range(0, FLOAT_BYTES * d_ff, LANES_BYTES):
        x = load_f32x16(values + offset)
        silu = x / (broadcast(ONE) + simd.exp(broadcast(ZERO) - x))
        if has_gate:
            silu = silu * load_f32x16(values + FLOAT_BYTES * d_ff + offset)
        store_f32x16(values + offset, silu)


@kernel
def apply_rope(values, head_dim, cos_sin):
    """Rotate the channel pairs (2k, 2k + 1) of a head's row by the (cos, sin) of its position, in place."""
    for offset in range(0, FLOAT_BYTES * head_dim, 2 * FLOAT_BYTES):
        even, odd = load_f32(values + offset), load_f32(values + offset + FLOAT_BYTES)
        cos, sin = load_f32(cos_sin + offset), load_f32(cos_sin + offset + FLOAT_BYTES)
        store_f32(values + offset, even * cos - odd * sin)
        store_f32(values + offset + FLOAT_BYTES, even * sin + odd * cos)


# --- attention -------------------------------------------------------------------------------------------------------


@kernel
def attention_head(output, query, position, head_dim, keys, values, scores):
    """Attend from `position` to itself and the positions before it; the query is scaled in place."""
    scale = ONE / simd.sqrt(np.float32(head_dim))
    for offset in range(0, FLOAT_BYTES * head_dim, FLOAT_BYTES):
        store_f32(query + offset, load_f32(query + offset) * scale)
    for panel in range(position // PANEL + 1):
        vecmat_panel(scores + panel * PANEL_BYTES, query, head_dim, keys + panel * head_dim * PANEL_BYTES, PANEL_BYTES)
    inverse = ONE / softmax_numerators(scores, position + 1, padded_bytes(position + 1))
    stride = round_up(FLOAT_BYTES * head_dim, LANES_BYTES)
    # After the scores, because whole vectors may be longer than the head's part of the output.
    context = scores + padded_bytes(position + 1)
    for offset in range(0, stride, LANES_BYTES):
        vecmat_lanes(context + offset, scores, position + 1, values + offset, stride)
    for offset in range(0, FLOAT_BYTES * head_dim, FLOAT_BYTES):
        store_f32(output + offset, load_f32(context + offset) * inverse)


@kernel
def append_kv(key, value, position, head_dim, keys, values):
    """Append a position's key and value of one head to the KV cache."""
    keys += position // PANEL * head_dim * PANEL_BYTES + FLOAT_BYTES * (position % PANEL)
    values += position * round_up(FLOAT_BYTES * head_dim, LANES_BYTES)
    for channel in range(head_dim):
        store_f32(keys + PANEL_BYTES * channel, load_f32(key + FLOAT_BYTES * channel))
        store_f32(values + FLOAT_BYTES * channel, load_f32(value + FLOAT_BYTES * channel))


@kernel
def attention(model, output, qkv, layer, row):
    """Attend with all heads of one row: queries, keys and values (3 d_model) to (d_model)."""
    d_model, num_heads = load_int(model + MODEL.d_model), load_int(model + MODEL.num_heads)
    keys_bytes, values_bytes = load_int(model + MODEL.keys_bytes), load_int(model + MODEL.values_bytes)
    head_dim = d_model // num_heads
    head_bytes = FLOAT_BYTES * head_dim
    position, cos_sin = load_int(row + ROW.position), load_int(model + MODEL.cos_sin)
    keys = load_int(row + ROW.cache) + layer * num_heads * (keys_bytes + values_bytes)
    for head in range(num_heads):
        query = qkv + head_bytes * head
        key, value = query + FLOAT_BYTES * d_model, query + 2 * FLOAT_BYTES * d_model
        if cos_sin != 0:
            apply_rope(query, head_dim, cos_sin + head_bytes * position)
            apply_rope(key, head_dim, cos_sin + head_bytes * position)
        values = keys + keys_bytes
        append_kv(key, value, position, head_dim, keys, values)
        scores = load_int(model + MODEL.scores)
        attention_head(output + head_bytes * head, query, position, head_dim, keys, values, scores)
        keys += keys_bytes + values_bytes


# --- the whole model -------------------------------------------------------------------------------------------------


@kernel
def residual_add(model, sublayer, rows, norm, stride):
    """Add a sublayer's output to the rows, and normalize the sum in a post-norm model."""
    d_model, x = load_int(model + MODEL.d_model), load_int(model + MODEL.x)
    for _ in range(rows):
        for offset in range(0, padded_bytes(d_model), LANES_BYTES):
            store_f32x16(x + offset, load_f32x16(x + offset) + load_f32x16(sublayer + offset))
        if load_int(model + MODEL.norm) == POST_NORM:
            rmsnorm(x, x, d_model, norm)
        x += padded_bytes(d_model)
        sublayer += stride


@kernel
def sublayer_input(model, rows, norm):
    """Copy the rows to the input of a sublayer, normalized in a pre-norm model."""
    d_model = load_int(model + MODEL.d_model)
    weight = norm if load_int(model + MODEL.norm) == PRE_NORM else 0
    x, normed = load_int(model + MODEL.x), load_int(model + MODEL.normed)
    for row in range(rows):
        offset = row * padded_bytes(d_model)
        rmsnorm(normed + offset, x + offset, d_model, weight)


@kernel
def block(model, layer, first, rows):
    """Compute one layer for all rows."""
    d_model, d_ff = load_int(model + MODEL.d_model), load_int(model + MODEL.d_ff)
    weights, has_gate = load_int(model + MODEL.layers) + LAYER.nbytes * layer, load_int(model + MODEL.has_gate)
    normed, wide = load_int(model + MODEL.normed), load_int(model + MODEL.wide)
    d_up = (1 + has_gate) * d_ff
    # The wide scratch memory holds queries, keys and values, or the up projections of the feed-forward.
    size, stride = padded_bytes(d_model), padded_bytes(max(3 * d_model, d_up))
    norm = load_int(weights + LAYER.norm_1)
    sublayer_input(model, rows, norm)
    matmul(wide, stride, normed, size, rows, d_model, load_int(weights + LAYER.qkv), 3 * d_model)
    for row in range(rows):
        attention(model, normed + row * size, wide + row * stride, layer, first + ROW.nbytes * row)
    matmul(wide, stride, normed, size, rows, d_model, load_int(weights + LAYER.output), d_model)
    residual_add(model, wide, rows, norm, stride)

    norm = load_int(weights + LAYER.norm_2)
    sublayer_input(model, rows, norm)
    matmul(wide, stride, normed, size, rows, d_model, load_int(weights + LAYER.up), d_up)
    for row in range(rows):
        feed_forward_activation(wide + row * stride, d_ff, has_gate)
    matmul(normed, size, wide, stride, rows, d_ff, load_int(weights + LAYER.down), d_model)
    residual_add(model, normed, rows, norm, size)


@kernel
def forward(model, first, rows):
    """Compute a batch of rows, and the logits of those that have an address for them.

    `first` is the address of the first of `rows` ROW structs; rows of one text are in the order of their positions.
    """
    d_model = load_int(model + MODEL.d_model)
    x, size = load_int(model + MODEL.x), padded_bytes(d_model)
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
            matmul(logits, 0, normed, size, 1, d_model, head, vocab_size)
    return 0


KERNELS = (forward,)
