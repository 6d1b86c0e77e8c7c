"""Kernels of the model's layers in training, forward and backward: everything but the large matrix products.

Each kernel takes the address of its arguments (structs.py), the first unit of work, the one after the last, and the
number of the calling thread. Units are independent, so results do not depend on how threads share them. Rows are
contiguous float32 (`itemsize` 4) or bfloat16 (`itemsize` 2) numbers; all arithmetic is float32.

Gains are those of benchmarks/kernels.py: the time of torch's eager operations for the layer, forward and backward,
divided by ours, at the laptop study's shape (d_model 64) and at d_model 256, on one thread of a 2-core AMD EPYC.
"""

import numpy as np

from lmpipe.kernels.runtime import simd_float32 as simd
from lmpipe.kernels.runtime.intrinsics import inlined, kernel, load_int, round_up
from lmpipe.kernels.runtime.simd_float32 import ONE, ZERO, broadcast, exp_fma
from lmpipe.kernels.runtime.structs import FLOAT_BYTES, LANES, LANES_BYTES, WORD
from lmpipe.kernels.transformer import structs
from lmpipe.kernels.transformer.structs import ATTENTION, ATTENTION_BLOCK, LOSS, NORM, NORM_GROUP, SWIGLU

NORM_EPS = np.float32(structs.NORM_EPS)
MATMUL_ROWS = 8
softmax_numerators = simd.make_softmax_numerators(exp_fma)


# --- vectors of a row ------------------------------------------------------------------------------------------------


@inlined
def load(row, i, count, itemsize):
    """Load elements i to i + 15 of a row of `count` elements; zeros follow the last one."""
    left = count - i
    if itemsize == FLOAT_BYTES:
        address = row + FLOAT_BYTES * i
        return simd.load_f32x16(address) if left >= LANES else simd.load_f32_masked(address, left)
    return simd.load_bf16_masked(row + simd.BF16_BYTES * i, min(left, LANES))


@inlined
def store(row, i, values, count, itemsize):
    """Store elements i to i + 15 of a row of `count` elements, or as many as it has."""
    left = count - i
    if itemsize != FLOAT_BYTES:
        simd.store_bf16_masked(row + simd.BF16_BYTES * i, values, min(left, LANES))
    elif left >= LANES:
        simd.store_f32x16(row + FLOAT_BYTES * i, values)
    else:
        simd.store_f32_masked(row + FLOAT_BYTES * i, values, left)


@inlined
def sigmoid(x):
    """Logistic function, 1 / (1 + exp(-x))."""
    return broadcast(ONE) / (broadcast(ONE) + exp_fma(broadcast(ZERO) - x))


# --- RMSNorm ---------------------------------------------------------------------------------------------------------


@kernel
def rmsnorm(args, first, last, thread_id):
    """RMSNorm (Zhang and Sennrich 2019, equation 4) of rows (N, d_model); `scales` (N,) is saved for the backward pass.

    A unit is a row. 1.5 and 2.2 times as fast as torch in float32, 2.6 and 2.0 times in bfloat16.
    """
    d_model, itemsize = load_int(args + NORM.d_model), load_int(args + NORM.itemsize)
    weight = load_int(args + NORM.weight)
    for row in range(first, last):
        x = load_int(args + NORM.x) + FLOAT_BYTES * d_model * row
        output = load_int(args + NORM.output) + itemsize * d_model * row
        squares = broadcast(ZERO)
        for i in range(0, d_model, LANES):
            values = load(x, i, d_model, FLOAT_BYTES)
            squares = simd.fmuladd(squares, values, values)
        scale = ONE / simd.sqrt(simd.hsum(squares) / np.float32(d_model) + NORM_EPS)
        simd.store_f32(load_int(args + NORM.scales) + FLOAT_BYTES * row, scale)
        for i in range(0, d_model, LANES):
            normalized = load(x, i, d_model, FLOAT_BYTES) * broadcast(scale)
            store(output, i, normalized * load(weight, i, d_model, FLOAT_BYTES), d_model, itemsize)
    return 0


@kernel
def rmsnorm_backward(args, first, last, thread_id):
    """Gradients of RMSNorm: of x (N, d_model), and sums of the weight's over groups of rows (groups, d_model).

    With scale r and n = r x: dx = r (g w - n mean(g w n)), dw = sum over rows of g n. A unit is a group of NORM_GROUP
    rows.
    """
    d_model, itemsize = load_int(args + NORM.d_model), load_int(args + NORM.itemsize)
    weight, rows = load_int(args + NORM.weight), load_int(args + NORM.rows)
    for group in range(first, last):
        weight_sums = load_int(args + NORM.weight_sums) + FLOAT_BYTES * d_model * group
        for i in range(0, d_model, LANES):
            store(weight_sums, i, broadcast(ZERO), d_model, FLOAT_BYTES)
        for row in range(group * NORM_GROUP, min((group + 1) * NORM_GROUP, rows)):
            x = load_int(args + NORM.x) + FLOAT_BYTES * d_model * row
            grad = load_int(args + NORM.output) + itemsize * d_model * row
            scale = broadcast(simd.load_f32(load_int(args + NORM.scales) + FLOAT_BYTES * row))
            weighted = broadcast(ZERO)
            for i in range(0, d_model, LANES):
                normalized = load(x, i, d_model, FLOAT_BYTES) * scale
                product = load(grad, i, d_model, itemsize) * normalized
                store(weight_sums, i, load(weight_sums, i, d_model, FLOAT_BYTES) + product, d_model, FLOAT_BYTES)
                weighted = simd.fmuladd(weighted, product, load(weight, i, d_model, FLOAT_BYTES))
            mean = broadcast(simd.hsum(weighted) / np.float32(d_model))
            grad_x = load_int(args + NORM.grad_x) + FLOAT_BYTES * d_model * row
            for i in range(0, d_model, LANES):
                normalized = load(x, i, d_model, FLOAT_BYTES) * scale
                grad_normalized = load(grad, i, d_model, itemsize) * load(weight, i, d_model, FLOAT_BYTES)
                store(grad_x, i, (grad_normalized - normalized * mean) * scale, d_model, FLOAT_BYTES)
    return 0


# --- SwiGLU ----------------------------------------------------------------------------------------------------------


@kernel
def swiglu(args, first, last, thread_id):
    """SwiGLU activation (Shazeer 2020), silu(gate) * up: (N, 2 d_ff), gate first, to (N, d_ff). A unit is a row.

    As fast as torch, 0.94 and 1.02 times, because matrix products take most of the layer's time. The gain is memory:
    the layer saves 448 numbers a token for the backward pass instead of 832 at d_model 64 (2 instead of 4 times d_ff).
    """
    d_ff, itemsize = load_int(args + SWIGLU.d_ff), load_int(args + SWIGLU.itemsize)
    for row in range(first, last):
        gate_up = load_int(args + SWIGLU.gate_up) + 2 * itemsize * d_ff * row
        output = load_int(args + SWIGLU.output) + itemsize * d_ff * row
        for i in range(0, d_ff, LANES):
            gate = load(gate_up, i, d_ff, itemsize)
            up = load(gate_up + itemsize * d_ff, i, d_ff, itemsize)
            store(output, i, gate * sigmoid(gate) * up, d_ff, itemsize)
    return 0


@kernel
def swiglu_backward(args, first, last, thread_id):
    """Gradients of gate and up, side by side (N, 2 d_ff); the activation (N, d_ff) replaces its own gradient.

    The matrix behind needs the activation again, and computing it here is nearly free. A unit is a row.
    """
    d_ff, itemsize = load_int(args + SWIGLU.d_ff), load_int(args + SWIGLU.itemsize)
    for row in range(first, last):
        gate_up = load_int(args + SWIGLU.gate_up) + 2 * itemsize * d_ff * row
        grad_output = load_int(args + SWIGLU.output) + itemsize * d_ff * row
        grads = load_int(args + SWIGLU.grads) + 2 * itemsize * d_ff * row
        for i in range(0, d_ff, LANES):
            gate = load(gate_up, i, d_ff, itemsize)
            up = load(gate_up + itemsize * d_ff, i, d_ff, itemsize)
            grad = load(grad_output, i, d_ff, itemsize)
            gate_sigmoid = sigmoid(gate)
            silu = gate * gate_sigmoid
            # silu'(x) = sigmoid(x) + silu(x) (1 - sigmoid(x))
            silu_grad = simd.fmuladd(gate_sigmoid, silu, broadcast(ONE) - gate_sigmoid)
            store(grads, i, grad * up * silu_grad, d_ff, itemsize)
            store(grads + itemsize * d_ff, i, grad * silu, d_ff, itemsize)
            store(grad_output, i, silu * up, d_ff, itemsize)
    return 0


# --- cross-entropy ---------------------------------------------------------------------------------------------------


@kernel
def cross_entropy_fwd_bwd(args, first, last, thread_id):
    """Softmax cross-entropy, forward and backward: logits (N, vocab) become d loss / d logits in place.

    `terms` (N, 2) receives max - target logit and the sum of exp(logit - max): the loss is the first plus the log of
    the second. A unit is a row. The layer is 1.3 and 1.0 times as fast as torch in float32, 1.6 and 1.3 times in
    bfloat16, and keeps no logits: 128 numbers a token instead of 1,090 at d_model 64 and a vocabulary of 1,024.
    """
    vocab_size, itemsize = load_int(args + LOSS.vocab_size), load_int(args + LOSS.itemsize)
    for row in range(first, last):
        logits = load_int(args + LOSS.logits) + itemsize * vocab_size * row
        target = load_int(load_int(args + LOSS.targets) + WORD * row)
        terms = load_int(args + LOSS.terms) + 2 * FLOAT_BYTES * row
        maxima = broadcast(simd.MASKED)
        for i in range(0, vocab_size, LANES):
            maxima = simd.maximum(
                simd.select_tail(load(logits, i, vocab_size, itemsize), vocab_size - i, simd.MASKED), maxima
            )
        max_logit = simd.hmax(maxima)
        target_logit = simd.hsum(load(logits, target, target + 1, itemsize))
        sums = broadcast(ZERO)
        for i in range(0, vocab_size, LANES):
            values = simd.select_tail(load(logits, i, vocab_size, itemsize), vocab_size - i, simd.MASKED)
            values = exp_fma(values - broadcast(max_logit))
            if itemsize == FLOAT_BYTES:
                store(logits, i, values, vocab_size, itemsize)
            sums = sums + values
        sum_exp = simd.hsum(sums)
        simd.store_f32(terms, max_logit - target_logit)
        simd.store_f32(terms + FLOAT_BYTES, sum_exp)
        inverse = broadcast(ONE / sum_exp)
        for i in range(0, vocab_size, LANES):
            values = load(logits, i, vocab_size, itemsize)
            if itemsize != FLOAT_BYTES:
                # bfloat16 would round the exponentials: they are recomputed from the logits.
                values = exp_fma(values - broadcast(max_logit))
            store(logits, i, values * inverse, vocab_size, itemsize)
        # The gradient of a logit is its probability, less 1 for the target's.
        target_prob = exp_fma(broadcast(target_logit - max_logit)) * inverse
        store(logits, target, target_prob - broadcast(ONE), target + 1, itemsize)
    return 0


# --- small float32 matrices of attention, given as (address, bytes from row to row) ----------------------------------


def make_matmul(transpose_a, accumulate):
    """Return a kernel for C = A B, with A transposed or not, or C += A B.

    C has `rows` rows, a multiple of MATMUL_ROWS, and `columns` columns, a multiple of LANES; `depth` is the number of
    B's rows.
    """
    two_vectors = simd.make_matmul_block(MATMUL_ROWS, 2, accumulate)
    one_vector = simd.make_matmul_block(MATMUL_ROWS, 1, accumulate)

    @kernel
    def matmul(c, a, b, rows, columns, depth):
        (c_address, c_stride), (a_address, a_stride), (b_address, b_stride) = c, a, b
        # Bytes from an element of A to the next one in its column and in its row.
        row_step, depth_step = (FLOAT_BYTES, a_stride) if transpose_a else (a_stride, FLOAT_BYTES)
        row_bytes = FLOAT_BYTES * columns
        for row in range(0, rows, MATMUL_ROWS):
            c_row, a_row = c_address + c_stride * row, a_address + row_step * row
            for offset in range(0, row_bytes - LANES_BYTES, 2 * LANES_BYTES):
                two_vectors(c_row + offset, c_stride, a_row, row_step, depth_step, b_address + offset, b_stride, depth)
            if row_bytes % (2 * LANES_BYTES):
                offset = row_bytes - LANES_BYTES
                one_vector(c_row + offset, c_stride, a_row, row_step, depth_step, b_address + offset, b_stride, depth)

    return matmul


matmul = make_matmul(transpose_a=False, accumulate=False)
add_matmul_transposed = make_matmul(transpose_a=True, accumulate=True)


@kernel
def transpose(target, source, rows, columns):
    """Transpose a matrix (rows, columns), both multiples of LANES."""
    (target_address, target_stride), (source_address, source_stride) = target, source
    for column in range(0, columns, LANES):
        for row in range(0, rows, LANES):
            source_block = source_address + source_stride * row + FLOAT_BYTES * column
            target_block = target_address + target_stride * column + FLOAT_BYTES * row
            simd.transpose_16x16(target_block, target_stride, source_block, source_stride)


@kernel
def clear(address, size):
    """Fill `size` bytes with zeros."""
    for offset in range(0, size, LANES_BYTES):
        simd.store_f32x16(address + offset, broadcast(ZERO))


# --- causal attention ------------------------------------------------------------------------------------------------


@inlined
def cos_sin_at(cos_sin, position, head_dim):
    """Return the address of a position's cosines and sines, 0 without RoPE."""
    return cos_sin + FLOAT_BYTES * head_dim * position if cos_sin != 0 else 0


@kernel
def load_rows(target, rows, first, last, seq, head_dim, itemsize, factor, cos_sin):
    """Copy a head's rows of positions `first` to `last` as float32, times a factor, rotated by RoPE if it is there.

    Rows are padded with zeros to whole vectors, and positions from `seq` on are zeros.
    """
    (target_row, target_stride), (rows_address, rows_stride) = target, rows
    for position in range(first, last):
        if position < seq:
            row, rotation = rows_address + rows_stride * position, cos_sin_at(cos_sin, position, head_dim)
            for i in range(0, head_dim, LANES):
                values = load(row, i, head_dim, itemsize) * broadcast(factor)
                if rotation != 0:
                    values = simd.rotate_pairs(values, load(rotation, i, head_dim, FLOAT_BYTES), ONE)
                simd.store_f32x16(target_row + FLOAT_BYTES * i, values)
        else:
            clear(target_row, target_stride)
        target_row += target_stride


@kernel
def store_row(row, source, head_dim, itemsize, factor, cos_sin):
    """Store a head's row of gradients, times a factor, rotated back by RoPE if it is there."""
    for i in range(0, head_dim, LANES):
        values = simd.load_f32x16(source + FLOAT_BYTES * i) * broadcast(factor)
        if cos_sin != 0:
            values = simd.rotate_pairs(values, load(cos_sin, i, head_dim, FLOAT_BYTES), -ONE)
        store(row, i, values, head_dim, itemsize)


@kernel
def softmax_backward(scores, grads, count, size):
    """Turn a row of `count` scores into probabilities, and the probabilities' gradients into the scores', in place."""
    inverse = broadcast(ONE / softmax_numerators(scores, count, size))
    weighted = broadcast(ZERO)
    for offset in range(0, size, LANES_BYTES):
        probs = simd.load_f32x16(scores + offset) * inverse
        simd.store_f32x16(scores + offset, probs)
        weighted = simd.fmuladd(weighted, probs, simd.load_f32x16(grads + offset))
    mean = broadcast(simd.hsum(weighted))
    for offset in range(0, size, LANES_BYTES):
        grad = simd.load_f32x16(grads + offset) - mean
        simd.store_f32x16(grads + offset, simd.load_f32x16(scores + offset) * grad)


@inlined
def attention_shape(args):
    """Return seq, num_heads, head_dim and the bytes of an element."""
    seq, num_heads = load_int(args + ATTENTION.seq), load_int(args + ATTENTION.num_heads)
    return seq, num_heads, load_int(args + ATTENTION.head_dim), load_int(args + ATTENTION.itemsize)


@kernel
def causal_attention(args, first, last, thread_id):
    """Causal attention with RoPE: queries, keys and values (batch, seq, 3 d_model) to (batch, seq, d_model).

    A unit is a head of a sequence. Scores are computed for ATTENTION_BLOCK queries at a time, against the keys up to
    the last of them, so that most of the masked scores cost nothing. With RoPE, 1.8 and 1.6 times as fast as torch in
    float32, 4.6 and 5.1 times in bfloat16.
    """
    seq, num_heads, head_dim, itemsize = attention_shape(args)
    cos_sin, scale = load_int(args + ATTENTION.cos_sin), ONE / simd.sqrt(np.float32(head_dim))
    padded_seq, padded_dim = round_up(seq, ATTENTION_BLOCK), round_up(head_dim, LANES)
    head_row, score_row, out_row = FLOAT_BYTES * padded_dim, FLOAT_BYTES * padded_seq, itemsize * num_heads * head_dim
    matrix, block = padded_seq * head_row, ATTENTION_BLOCK * head_row
    scratch = load_int(args + ATTENTION.scratch) + load_int(args + ATTENTION.scratch_bytes) * thread_id
    keys_t = (scratch, score_row)  # (head_dim, seq)
    keys, values = (scratch + matrix, head_row), (scratch + 2 * matrix, head_row)
    queries = (scratch + 3 * matrix, head_row)
    context = (scratch + 3 * matrix + block, head_row)
    scores = (scratch + 3 * matrix + 2 * block, score_row)
    for unit in range(first, last):
        sequence, head = unit // num_heads, unit % num_heads
        qkv = load_int(args + ATTENTION.qkv) + 3 * out_row * seq * sequence + itemsize * head_dim * head
        output = load_int(args + ATTENTION.output) + out_row * seq * sequence + itemsize * head_dim * head
        q, k, v = (qkv, 3 * out_row), (qkv + out_row, 3 * out_row), (qkv + 2 * out_row, 3 * out_row)
        load_rows(keys, k, 0, padded_seq, seq, head_dim, itemsize, ONE, cos_sin)
        load_rows(values, v, 0, padded_seq, seq, head_dim, itemsize, ONE, 0)
        transpose(keys_t, keys, padded_seq, padded_dim)
        for start in range(0, seq, ATTENTION_BLOCK):
            stop = start + ATTENTION_BLOCK
            load_rows(queries, q, start, stop, seq, head_dim, itemsize, scale, cos_sin)
            matmul(scores, queries, keys_t, ATTENTION_BLOCK, stop, head_dim)
            for i in range(ATTENTION_BLOCK):
                sum_exp = softmax_numerators(scores[0] + score_row * i, start + i + 1, FLOAT_BYTES * stop)
                # The query is not needed any more.
                simd.store_f32(queries[0] + head_row * i, ONE / sum_exp)
            matmul(context, scores, values, ATTENTION_BLOCK, padded_dim, stop)
            for position in range(start, min(stop, seq)):
                row = head_row * (position - start)
                inverse = simd.load_f32(queries[0] + row)
                store_row(output + out_row * position, context[0] + row, head_dim, itemsize, inverse, 0)
    return 0


@kernel
def causal_attention_backward(args, first, last, thread_id):
    """Gradients of queries, keys and values (batch, seq, 3 d_model); `output` holds the gradient of the output.

    The probabilities P of the softmax are recomputed. With scores S and the output's gradient G:
    dV = P' G, dP = G V', dS = P (dP - sum(P dP)), dQ = dS K, dK = dS' Q. A unit is a head of a sequence.
    """
    seq, num_heads, head_dim, itemsize = attention_shape(args)
    cos_sin, scale = load_int(args + ATTENTION.cos_sin), ONE / simd.sqrt(np.float32(head_dim))
    padded_seq, padded_dim = round_up(seq, ATTENTION_BLOCK), round_up(head_dim, LANES)
    head_row, score_row, out_row = FLOAT_BYTES * padded_dim, FLOAT_BYTES * padded_seq, itemsize * num_heads * head_dim
    matrix, block = padded_seq * head_row, ATTENTION_BLOCK * head_row
    scratch = load_int(args + ATTENTION.scratch) + load_int(args + ATTENTION.scratch_bytes) * thread_id
    keys_t, values_t = (scratch, score_row), (scratch + matrix, score_row)  # (head_dim, seq)
    keys = (scratch + 2 * matrix, head_row)
    grad_keys, grad_values = (scratch + 3 * matrix, head_row), (scratch + 4 * matrix, head_row)
    blocks = scratch + 5 * matrix
    queries, grads, grad_queries = (blocks, head_row), (blocks + block, head_row), (blocks + 2 * block, head_row)
    scores = (blocks + 3 * block, score_row)
    grad_scores = (scores[0] + ATTENTION_BLOCK * score_row, score_row)
    for unit in range(first, last):
        sequence, head = unit // num_heads, unit % num_heads
        offset = out_row * seq * sequence + itemsize * head_dim * head
        qkv_offset = 3 * out_row * seq * sequence + itemsize * head_dim * head
        qkv, grad_qkv = load_int(args + ATTENTION.qkv) + qkv_offset, load_int(args + ATTENTION.grads) + qkv_offset
        grad_output = (load_int(args + ATTENTION.output) + offset, out_row)
        q, k, v = (qkv, 3 * out_row), (qkv + out_row, 3 * out_row), (qkv + 2 * out_row, 3 * out_row)
        load_rows(keys, v, 0, padded_seq, seq, head_dim, itemsize, ONE, 0)
        transpose(values_t, keys, padded_seq, padded_dim)
        load_rows(keys, k, 0, padded_seq, seq, head_dim, itemsize, ONE, cos_sin)
        transpose(keys_t, keys, padded_seq, padded_dim)
        clear(grad_keys[0], 2 * matrix)  # grad_values follows
        for start in range(0, seq, ATTENTION_BLOCK):
            stop = start + ATTENTION_BLOCK
            load_rows(queries, q, start, stop, seq, head_dim, itemsize, scale, cos_sin)
            load_rows(grads, grad_output, start, stop, seq, head_dim, itemsize, ONE, 0)
            matmul(scores, queries, keys_t, ATTENTION_BLOCK, stop, head_dim)
            matmul(grad_scores, grads, values_t, ATTENTION_BLOCK, stop, head_dim)
            for i in range(ATTENTION_BLOCK):
                row = score_row * i
                softmax_backward(scores[0] + row, grad_scores[0] + row, start + i + 1, FLOAT_BYTES * stop)
            add_matmul_transposed(grad_values, scores, grads, stop, padded_dim, ATTENTION_BLOCK)
            add_matmul_transposed(grad_keys, grad_scores, queries, stop, padded_dim, ATTENTION_BLOCK)
            matmul(grad_queries, grad_scores, keys, ATTENTION_BLOCK, padded_dim, stop)
            for position in range(start, min(stop, seq)):
                row, rotation = head_row * (position - start), cos_sin_at(cos_sin, position, head_dim)
                target = grad_qkv + 3 * out_row * position
                store_row(target, grad_queries[0] + row, head_dim, itemsize, scale, rotation)
        for position in range(seq):
            row, rotation = head_row * position, cos_sin_at(cos_sin, position, head_dim)
            target = grad_qkv + 3 * out_row * position
            store_row(target + out_row, grad_keys[0] + row, head_dim, itemsize, ONE, rotation)
            store_row(target + 2 * out_row, grad_values[0] + row, head_dim, itemsize, ONE, 0)
    return 0


KERNELS = (
    rmsnorm,
    rmsnorm_backward,
    swiglu,
    swiglu_backward,
    cross_entropy_fwd_bwd,
    causal_attention,
    causal_attention_backward,
)
