"""Structs that the transformer kernels share with their callers; nothing here imports Numba.

The address of an absent array is 0.
"""

from lmpipe.kernels.runtime.structs import struct

NORM_EPS = 1e-5  # of every RMSNorm
PANEL = 64  # columns of a weight matrix that inference computes, and stores, together
PANEL_BYTES = 4 * PANEL

# --- inference (infer.py) ---

# The model: its shape and variant, then the addresses of its weights and of scratch memory.
MODEL = struct(
    "d_model d_ff num_layers num_heads vocab_size norm has_gate "
    "embeddings cos_sin final_norm head layers "
    "x normed wide scores keys_bytes values_bytes"
)
PRE_NORM, POST_NORM = range(2)
# A layer: the addresses of its weights.
LAYER = struct("norm_1 qkv output norm_2 up down")
# A row of a batch: a token, its position, the KV cache of its text, and the address for its logits (0: none).
ROW = struct("token position cache logits")

# --- training (train.py): arguments of each kernel; `itemsize` is the bytes of an element, 4 or 2 ---

NORM = struct("x weight output scales grad_x weight_sums rows d_model itemsize")
NORM_GROUP = 64  # rows whose gradients of the weight are summed together
SWIGLU = struct("gate_up output grads d_ff itemsize")
LOSS = struct("logits targets terms vocab_size itemsize")
ATTENTION = struct("qkv output grads cos_sin scratch scratch_bytes seq num_heads head_dim itemsize")
ATTENTION_BLOCK = 16  # query positions whose scores are in memory at once
