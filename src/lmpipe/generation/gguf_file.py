"""GGUF file of a run: model and tokenizer in one file, for llama.cpp and transformers (`gguf_file=`)."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from lmpipe.errors import import_extra
from lmpipe.generation.huggingface import llama_weights
from lmpipe.generation.sampling import end_of_text_id
from lmpipe.kernels.transformer.structs import NORM_EPS
from lmpipe.study.settings import ModelConfig
from lmpipe.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gguf import GGUFWriter

GGUF_FILE = "model.gguf"


def gguf_files(
    config: ModelConfig, weights: Mapping[str, np.ndarray], tokenizer: Tokenizer, title: str
) -> dict[str, bytes]:
    """Return the GGUF file by name, with the title of the model in it; raise InputError if the package gguf is missing.

    Weights are float32: nothing is lost, and llama.cpp's `llama-quantize` makes any smaller type from them.
    """
    gguf = import_extra("gguf", "--format gguf")
    with TemporaryDirectory() as folder:
        path = Path(folder) / GGUF_FILE
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_name(title)
        add_model(writer, config)
        add_tokenizer(writer, tokenizer)
        # RoPE in GGUF rotates neighbouring channels, as lmpipe does.
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_layers)
        for name, weight in llama_weights(weights).items():
            writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), weight)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return {GGUF_FILE: path.read_bytes()}


def add_model(writer: "GGUFWriter", config: ModelConfig) -> None:
    """Add the model's shape."""
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_block_count(config.num_layers)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_heads)
    writer.add_layer_norm_rms_eps(NORM_EPS)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)


def add_tokenizer(writer: "GGUFWriter", tokenizer: Tokenizer) -> None:
    """Add the tokenizer: GPT-2's pre-tokenizer, tokens and merges in its byte-to-unicode format, special tokens."""
    from gguf import TokenType

    model = tokenizer.to_huggingface()["model"]
    names = {token_id: name for name, token_id in model["vocab"].items()}
    types = dict.fromkeys(names, TokenType.NORMAL)
    types |= {model["vocab"][token]: TokenType.CONTROL for token in tokenizer.special_tokens}
    ids = range(tokenizer.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([names.get(index, f"[PAD{index}]") for index in ids])
    writer.add_token_types([types.get(index, TokenType.UNUSED) for index in ids])
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    if (eos_id := end_of_text_id(tokenizer)) is not None:
        writer.add_bos_token_id(eos_id)
        writer.add_eos_token_id(eos_id)
        writer.add_pad_token_id(eos_id)
