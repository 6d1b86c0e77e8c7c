"""Inference: the trained model of a run as a compiled forward pass on the CPU with a KV cache.

It computes what lmpipe.model.transformer.TransformerLM does in float32, to rounding, and needs no torch, whose import
takes most of the time of a short command. The kernel is lmpipe.kernels.transformer.infer.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lmpipe.errors import InputError
from lmpipe.io.tensor_files import read_weights
from lmpipe.kernels.runtime.buffers import Buffer, StructBuffer
from lmpipe.kernels.runtime.loader import load
from lmpipe.kernels.runtime.structs import LANES, LANES_BYTES, WORD, round_up
from lmpipe.kernels.transformer.structs import LAYER, MODEL, PANEL, POST_NORM, PRE_NORM, ROW
from lmpipe.model.architecture import has_gate, has_rope, norm_placement, rope_cos_sin, weight_shapes
from lmpipe.study.paths import CONFIG, WEIGHTS
from lmpipe.study.settings import ModelConfig
from lmpipe.tokenizer.tokenizer import Tokenizer
from lmpipe.training.run_documents import RunConfig

KERNEL_MODULE = "lmpipe.kernels.transformer.infer"
ROWS = 64  # tokens that are computed together
FLOAT_BYTES = 4


def to_panels(matrix: np.ndarray) -> np.ndarray:
    """Return a matrix (d_out, d_in) in the kernel's layout, (panels, d_in, PANEL), padded with zeros."""
    d_out, d_in = matrix.shape
    rows = np.zeros((round_up(d_out, PANEL), d_in), np.float32)
    rows[:d_out] = matrix
    return rows.reshape(-1, PANEL, d_in).transpose(0, 2, 1)


def pad_rows(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (..., d_model), each padded with zeros to whole panels."""
    missing = round_up(vectors.shape[-1], PANEL) - vectors.shape[-1]
    return np.pad(vectors, [(0, 0)] * (vectors.ndim - 1) + [(0, missing)])


class CompiledLM:
    """A model's weights in the kernel's layout, and its scratch memory; one thread at a time may use it.

    Logits of a text have the same bits whether it is computed at once or token by token, alone or in a batch.
    """

    def __init__(self, config: ModelConfig, weights: Mapping[str, np.ndarray]):
        """Copy `weights` (lmpipe.model.architecture.weight_shapes) to memory that the kernel reads."""
        self.config = config
        self.has_gate = has_gate(config)  # refuses any activation but SiLU
        self.kernel = load(KERNEL_MODULE).forward
        self.memory: list[Buffer] = []
        self.state = StructBuffer(MODEL.nbytes)
        for name in ("d_model", "d_ff", "num_layers", "num_heads", "vocab_size"):
            self.state[getattr(MODEL, name)] = getattr(config, name)
        # Without norms their addresses are 0, and the kernel skips them wherever they are.
        self.state[MODEL.norm] = POST_NORM if norm_placement(config).post else PRE_NORM
        self.state[MODEL.has_gate] = self.has_gate
        self._copy_weights(weights)
        self._allocate_scratch()
        self.rows = Buffer(ROW.nbytes * ROWS)
        self.row_table = self.rows.array("i8", ROW.nbytes // WORD * ROWS).reshape(ROWS, -1)
        self.logits = Buffer(0)

    def _allocate(self, *arrays: np.ndarray | None) -> list[int]:
        """Copy float32 arrays to memory that lives as long as the model; return their addresses, 0 for None."""
        sizes = [0 if array is None else round_up(FLOAT_BYTES * array.size, LANES_BYTES) for array in arrays]
        memory = Buffer(sum(sizes), huge=True)
        self.memory.append(memory)
        addresses, offset = [], 0
        for array, size in zip(arrays, sizes, strict=True):
            if array is not None:
                memory.array("f4", array.size, offset).reshape(array.shape)[...] = array
            addresses.append(memory.address + offset if array is not None else 0)
            offset += size
        return addresses

    def _copy_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        def norm(name: str) -> np.ndarray | None:
            return pad_rows(weights[name]) if name in weights else None

        cos_sin = rope_cos_sin(self.config).astype(np.float32) if has_rope(self.config) else None
        embeddings, head = pad_rows(weights["token_embeddings.weight"]), to_panels(weights["lm_head.weight"])
        fields = (MODEL.embeddings, MODEL.cos_sin, MODEL.final_norm, MODEL.head)
        addresses = self._allocate(embeddings, cos_sin, norm("ln_final.weight"), head)
        for field, address in zip(fields, addresses, strict=True):
            self.state[field] = address
        self.layers = StructBuffer(LAYER.nbytes * self.config.num_layers)
        self.state[MODEL.layers] = self.layers.address
        names = ("attn.qkv_proj", "attn.output_proj", "ffn.w13" if self.has_gate else "ffn.w1", "ffn.w2")
        for index in range(self.config.num_layers):
            layer = f"layers.{index}"
            qkv, output, up, down = (to_panels(weights[f"{layer}.{name}.weight"]) for name in names)
            addresses = self._allocate(norm(f"{layer}.ln1.weight"), qkv, output, norm(f"{layer}.ln2.weight"), up, down)
            for offset, address in zip(LAYER[:-1], addresses, strict=True):
                self.layers[LAYER.nbytes * index + offset] = address

    def _allocate_scratch(self) -> None:
        config = self.config
        padded_d_model = round_up(config.d_model, PANEL)
        widest = round_up(max(3 * config.d_model, (1 + self.has_gate) * config.d_ff), PANEL)
        positions, head_dim = round_up(config.context_length, PANEL), round_up(config.head_dim, LANES)
        sizes = {
            MODEL.x: ROWS * padded_d_model,
            MODEL.normed: ROWS * padded_d_model,
            MODEL.wide: ROWS * widest,
            MODEL.scores: positions + head_dim,
        }
        for field, size in sizes.items():
            (self.state[field],) = self._allocate(np.zeros(size, np.float32))
        self.state[MODEL.keys_bytes] = FLOAT_BYTES * positions * config.head_dim
        self.state[MODEL.values_bytes] = FLOAT_BYTES * config.context_length * head_dim

    def new_cache(self) -> Buffer:
        """Return a KV cache for one text of up to context_length tokens."""
        head_bytes = self.state[MODEL.keys_bytes] + self.state[MODEL.values_bytes]
        return Buffer(self.config.num_layers * self.config.num_heads * head_bytes, huge=True)

    def forward(self, caches: Sequence[Buffer], starts: Sequence[int], texts: Sequence[Sequence[int]]) -> np.ndarray:
        """Compute the logits after the last token of each text: (texts, vocab_size), float32.

        `texts` are the token ids from position `starts` on; `caches` hold keys and values of the positions before, and
        receive the new ones (prefill and decoding alike). Texts have any lengths from 1, up to context_length
        positions; nothing is padded.
        """
        columns = round_up(self.config.vocab_size, PANEL)
        if self.logits.size < FLOAT_BYTES * columns * len(texts):
            self.logits = Buffer(FLOAT_BYTES * columns * len(texts))
        rows = []
        for index, (cache, start, token_ids) in enumerate(zip(caches, starts, texts, strict=True)):
            rows += [(token_id, position, cache.address, 0) for position, token_id in enumerate(token_ids, start)]
            rows[-1] = (*rows[-1][:-1], self.logits.address + FLOAT_BYTES * columns * index)
        for first in range(0, len(rows), ROWS):
            batch = rows[first : first + ROWS]
            self.row_table[: len(batch)] = batch
            self.kernel(self.state.address, self.rows.address, len(batch))
        logits = self.logits.array("f4", columns * len(texts))
        return logits.reshape(-1, columns)[:, : self.config.vocab_size].copy()


def load_run(run_folder: str | Path) -> tuple[CompiledLM, Tokenizer]:
    """Return the trained model of a run, ready to generate, and its tokenizer; raise InputError as `read_run` does."""
    config, weights, tokenizer = read_run(run_folder)
    return CompiledLM(config, weights), tokenizer


def read_run(run_folder: str | Path) -> tuple[ModelConfig, dict[str, np.ndarray], Tokenizer]:
    """Return the model of a run, its trained weights and its tokenizer.

    Raises InputError if files are missing or damaged, or the tokenizer is not the one that the run was trained with.
    """
    folder = Path(run_folder)
    config = RunConfig.read(folder / CONFIG)
    tokenizer = read_tokenizer(folder, config)
    if config.model.vocab_size != tokenizer.vocab_size:
        problem = f"model.vocab_size is {config.model.vocab_size}, but the tokenizer has {tokenizer.vocab_size} ids"
        raise InputError(folder / CONFIG, problem, "train the run again")
    return config.model, read_weights(folder / WEIGHTS, weight_shapes(config.model)), tokenizer


def read_tokenizer(run_folder: str | Path, config: RunConfig) -> Tokenizer:
    """Return the tokenizer of a run with its config.json; raise InputError if it is not the one of the training."""
    tokenizer_folder = os.path.normpath(Path(run_folder) / config.tokenizer.path)
    tokenizer = Tokenizer.from_folder(tokenizer_folder)
    if tokenizer.sha256 != config.tokenizer.sha256:
        problem = f"is not the tokenizer that {run_folder} was trained with (another checksum)"
        raise InputError(tokenizer_folder, problem, "train the run again")
    return tokenizer


def open_tokenizer(folder: str | Path) -> Tokenizer:
    """Return the tokenizer of a tokenizer's folder or of a run's; raise InputError for another folder."""
    config = Path(folder) / CONFIG
    return read_tokenizer(folder, RunConfig.read(config)) if config.exists() else Tokenizer.from_folder(folder)
