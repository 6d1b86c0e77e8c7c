"""The trained model as a compiled forward pass on the CPU that keeps keys and values: what generation runs on.

It computes what `lmpipe.model.transformer.TransformerLM` does in float32, within rounding, and needs no torch: of a
small model's
step that is nearly all of the time, and loading it is most of a command's. The kernel is
`lmpipe.kernels.transformer.infer`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lmpipe.kernels.bpe.count_host import State
from lmpipe.kernels.runtime import structs
from lmpipe.kernels.runtime.buffers import Buffer
from lmpipe.kernels.runtime.loader import model_kernels
from lmpipe.kernels.runtime.structs import filled_up
from lmpipe.study.settings import ModelConfig

if TYPE_CHECKING:  # loaded by name: so that it counts as code that this module runs (provenance.code_digest)
    from lmpipe.kernels.transformer import infer  # noqa: F401

ROWS = 64  # tokens that are computed together
FLOAT_BYTES = 4
NORM_PLACES = {"pre": structs.NORM_BEFORE, "post": structs.NORM_AFTER, "none": structs.NORM_BEFORE}


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a model's weights, as TransformerLM has them."""
    d_model, d_ff = config.d_model, config.d_ff
    norm = {} if config.norm == "none" else {"weight": (d_model,)}
    up = {"w13": (2 * d_ff, d_model)} if config.feed_forward == "swiglu" else {"w1": (d_ff, d_model)}
    layer = {
        **{f"ln1.{name}": shape for name, shape in norm.items()},
        "attn.qkv_proj.weight": (3 * d_model, d_model),
        "attn.output_proj.weight": (d_model, d_model),
        **{f"ln2.{name}": shape for name, shape in norm.items()},
        **{f"ffn.{name}.weight": shape for name, shape in up.items()},
        "ffn.w2.weight": (d_model, d_ff),
    }
    return {
        "token_embeddings.weight": (config.vocab_size, d_model),
        **{f"layers.{index}.{name}": shape for index in range(config.num_layers) for name, shape in layer.items()},
        **({"ln_final.weight": (d_model,)} if config.norm == "pre" else {}),
        "lm_head.weight": (config.vocab_size, d_model),
    }


def in_panels(matrix: np.ndarray) -> np.ndarray:
    """A matrix (d_out, d_in) as the kernel multiplies by it: (panels, d_in, 64), filled up with zeros."""
    d_out, d_in = matrix.shape
    rows = np.zeros((filled_up(d_out, structs.PANEL), d_in), np.float32)
    rows[:d_out] = matrix
    return rows.reshape(-1, structs.PANEL, d_in).transpose(0, 2, 1)


def in_rows(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., d_model), each filled up with zeros to whole panels."""
    missing = filled_up(vectors.shape[-1], structs.PANEL) - vectors.shape[-1]
    return np.pad(vectors, [(0, 0)] * (vectors.ndim - 1) + [(0, missing)])


def rope_turns(config: ModelConfig) -> np.ndarray:
    """Cosine and sine of position / theta^(2k / width) for each pair of channels: (context_length, width / 2, 2)."""
    pairs = np.arange(config.head_width // 2, dtype=np.float64)
    angles = np.arange(config.context_length)[:, None] * config.rope_theta ** (-2 * pairs / config.head_width)
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)


class CompiledLM:
    """A model's weights, laid out for the kernel, and the memory that it works in. One thread at a time may use it.

    Logits of a text are the same bits however it is read: at once or token by token, alone or beside other texts.
    """

    def __init__(self, config: ModelConfig, weights: Mapping[str, np.ndarray]):
        self.config = config
        self.forward = model_kernels().forward
        self.memory: list[Buffer] = []
        self.state = State(structs.MODEL_FIELDS)
        self._set_shape()
        self._place_weights(weights)
        self._place_scratch()
        self.rows = Buffer(structs.WORD * structs.ROW_FIELDS * ROWS)
        self.table = self.rows.array("i8", structs.ROW_FIELDS * ROWS).reshape(ROWS, structs.ROW_FIELDS)
        self.logits = Buffer(0)

    def _set_shape(self) -> None:
        config = self.config
        self.state[structs.MODEL_D_MODEL] = config.d_model
        self.state[structs.MODEL_D_FF] = config.d_ff
        self.state[structs.MODEL_NUM_LAYERS] = config.num_layers
        self.state[structs.MODEL_NUM_HEADS] = config.num_heads
        self.state[structs.MODEL_VOCAB_SIZE] = config.vocab_size
        self.state[structs.MODEL_NORM] = NORM_PLACES[config.norm]
        self.state[structs.MODEL_IS_GATED] = config.feed_forward == "swiglu"

    def _place(self, *arrays: np.ndarray | None) -> list[int]:
        """Copy arrays of float32 to memory that stays; returns their addresses, 0 for None."""
        sizes = [0 if array is None else filled_up(FLOAT_BYTES * array.size, structs.LANES_BYTES) for array in arrays]
        memory = Buffer(sum(sizes), huge=True)
        self.memory.append(memory)
        addresses, offset = [], 0
        for array, size in zip(arrays, sizes, strict=True):
            if array is not None:
                memory.array("f4", array.size, offset).reshape(array.shape)[...] = array
            addresses.append(memory.address + offset if array is not None else 0)
            offset += size
        return addresses

    def _place_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        def norm(name: str) -> np.ndarray | None:
            return in_rows(weights[name]) if name in weights else None

        up = "w13" if self.config.feed_forward == "swiglu" else "w1"
        turns = rope_turns(self.config) if self.config.position_embedding == "rope" else None
        embeddings, head = in_rows(weights["token_embeddings.weight"]), in_panels(weights["lm_head.weight"])
        fields = (structs.MODEL_EMBEDDINGS, structs.MODEL_TURNS, structs.MODEL_FINAL_NORM, structs.MODEL_HEAD)
        places = self._place(embeddings, turns, norm("ln_final.weight"), head)
        for field, address in zip(fields, places, strict=True):
            self.state[field] = address
        self.layers = State(structs.LAYER_FIELDS * self.config.num_layers)
        self.state[structs.MODEL_LAYERS] = self.layers.address
        for index in range(self.config.num_layers):
            layer = f"layers.{index}"
            names = ("attn.qkv_proj.weight", "attn.output_proj.weight", f"ffn.{up}.weight", "ffn.w2.weight")
            qkv, output, wide, down = (in_panels(weights[f"{layer}.{name}"]) for name in names)
            places = self._place(norm(f"{layer}.ln1.weight"), qkv, output, norm(f"{layer}.ln2.weight"), wide, down)
            for field, address in enumerate(places):
                self.layers[structs.LAYER_FIELDS * index + field] = address

    def _place_scratch(self) -> None:
        config = self.config
        d_model = filled_up(config.d_model, structs.PANEL)
        parts = 2 if config.feed_forward == "swiglu" else 1
        wide = filled_up(max(3 * config.d_model, parts * config.d_ff), structs.PANEL)
        positions, width = (
            filled_up(config.context_length, structs.PANEL),
            filled_up(config.head_width, structs.LANES),
        )
        sizes = {
            structs.MODEL_X: ROWS * d_model,
            structs.MODEL_NORMED: ROWS * d_model,
            structs.MODEL_WIDE: ROWS * wide,
            structs.MODEL_SCORES: positions + width,
        }
        for field, size in sizes.items():
            (self.state[field],) = self._place(np.zeros(size, np.float32))
        self.state[structs.MODEL_KEYS_BYTES] = FLOAT_BYTES * positions * config.head_width
        self.state[structs.MODEL_VALUES_BYTES] = FLOAT_BYTES * config.context_length * width

    def new_cache(self) -> Buffer:
        """Memory for the keys and values of one text of up to context_length tokens."""
        head_bytes = self.state[structs.MODEL_KEYS_BYTES] + self.state[structs.MODEL_VALUES_BYTES]
        return Buffer(self.config.num_layers * self.config.num_heads * head_bytes, huge=True)

    def read(self, caches: Sequence[Buffer], starts: Sequence[int], texts: Sequence[Sequence[int]]) -> np.ndarray:
        """Read texts on from some positions; the logits of the token after each: (texts, vocab), float32.

        A text's cache holds what was read before its position. Texts may have any lengths from 1, and positions below
        context_length; nothing is padded.
        """
        columns = filled_up(self.config.vocab_size, structs.PANEL)
        if self.logits.size < FLOAT_BYTES * columns * len(texts):
            self.logits = Buffer(FLOAT_BYTES * columns * len(texts))
        rows = []
        for number, (cache, start, token_ids) in enumerate(zip(caches, starts, texts, strict=True)):
            rows += [(token_id, position, cache.address, 0) for position, token_id in enumerate(token_ids, start)]
            rows[-1] = (*rows[-1][:-1], self.logits.address + FLOAT_BYTES * columns * number)
        for first in range(0, len(rows), ROWS):
            part = rows[first : first + ROWS]
            self.table[: len(part)] = part
            self.forward(self.state.address, self.rows.address, len(part))
        logits = self.logits.array("f4", columns * len(texts))
        return logits.reshape(-1, columns)[:, : self.config.vocab_size].copy()
