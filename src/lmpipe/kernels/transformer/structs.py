"""Field offsets of the structs that the transformer kernels share with their callers; nothing here imports Numba.

A struct is an array of 8-byte words. Addresses are words, too; 0 stands for an absent array.
"""

NORM_EPS = 1e-5  # of every RMSNorm
PANEL = 64  # columns of a weight matrix that inference computes, and stores, together
PANEL_BYTES = 4 * PANEL

# --- inference (infer.py) ---

# The model: its shape and variant, then the addresses of its weights and of scratch memory.
MODEL_D_MODEL, MODEL_D_FF, MODEL_NUM_LAYERS, MODEL_NUM_HEADS, MODEL_VOCAB_SIZE, MODEL_NORM, MODEL_HAS_GATE = range(7)
MODEL_EMBEDDINGS, MODEL_COS_SIN, MODEL_FINAL_NORM, MODEL_HEAD, MODEL_LAYERS = range(7, 12)
MODEL_X, MODEL_NORMED, MODEL_WIDE, MODEL_SCORES, MODEL_KEYS_BYTES, MODEL_VALUES_BYTES = range(12, 18)
MODEL_FIELDS = 18
PRE_NORM, POST_NORM = range(2)
# A layer: the addresses of its weights.
LAYER_NORM_1, LAYER_QKV, LAYER_OUTPUT, LAYER_NORM_2, LAYER_UP, LAYER_DOWN = range(6)
LAYER_FIELDS = 6
# A row of a batch: a token, its position, the KV cache of its text, and the address for its logits (0: not wanted).
ROW_TOKEN, ROW_POSITION, ROW_CACHE, ROW_LOGITS = range(4)
ROW_FIELDS = 4

# --- training (train.py): arguments of each kernel; ITEMSIZE is the bytes of an element, 4 or 2 ---

NORM_X, NORM_WEIGHT, NORM_OUTPUT, NORM_SCALES, NORM_GRAD_X, NORM_WEIGHT_SUMS = range(6)
NORM_ROWS, NORM_D_MODEL, NORM_ITEMSIZE = range(6, 9)
NORM_GROUP = 64  # rows whose gradients of the weight are summed together
SWIGLU_GATE_UP, SWIGLU_OUTPUT, SWIGLU_GRADS, SWIGLU_D_FF, SWIGLU_ITEMSIZE = range(5)
LOSS_LOGITS, LOSS_TARGETS, LOSS_TERMS, LOSS_VOCAB_SIZE, LOSS_ITEMSIZE = range(5)
ATTENTION_QKV, ATTENTION_OUTPUT, ATTENTION_GRADS, ATTENTION_COS_SIN, ATTENTION_SCRATCH = range(5)
ATTENTION_SCRATCH_BYTES, ATTENTION_SEQ, ATTENTION_NUM_HEADS, ATTENTION_HEAD_DIM, ATTENTION_ITEMSIZE = range(5, 10)
ATTENTION_BLOCK = 16  # query positions whose scores are in memory at once
