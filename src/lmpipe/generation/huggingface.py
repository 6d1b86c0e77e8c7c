"""Files of a run for Hugging Face transformers: a Llama model and its tokenizer."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save

from lmpipe.generation.sampling import end_of_text_id
from lmpipe.io.files import json_bytes
from lmpipe.kernels.transformer.structs import NORM_EPS
from lmpipe.model.architecture import split_fused
from lmpipe.study.settings import ModelConfig
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT
from lmpipe.tokenizer.tokenizer import Tokenizer

LAYER = re.compile(r"(layers\.\d+\.)?(.+)\.weight")
LLAMA_NAMES = {
    "token_embeddings": "embed_tokens",
    "ln1": "input_layernorm",
    **{f"attn.{name}_proj": f"self_attn.{name}_proj" for name in "qkv"},
    "attn.output_proj": "self_attn.o_proj",
    "ln2": "post_attention_layernorm",
    "ffn.w1": "mlp.gate_proj",
    "ffn.w3": "mlp.up_proj",
    "ffn.w2": "mlp.down_proj",
    "ln_final": "norm",
}


def llama_files(config: ModelConfig, weights: Mapping[str, np.ndarray], tokenizer: Tokenizer) -> dict[str, bytes]:
    """Return the files for AutoModelForCausalLM and AutoTokenizer by name."""
    eos_id = end_of_text_id(tokenizer)
    return {
        "config.json": json_bytes(llama_config(config, eos_id)),
        # The defaults of `generate`: sampling from all tokens, as `lmpipe generate` does.
        "generation_config.json": json_bytes(
            {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0, **special_ids(eos_id)}
        ),
        "model.safetensors": save(transformers_weights(config, weights), {"format": "pt"}),
        "tokenizer.json": json_bytes(tokenizer.to_huggingface()),
        "tokenizer_config.json": json_bytes(tokenizer_config(config, tokenizer)),
    }


def llama_config(config: ModelConfig, eos_id: int | None) -> dict[str, Any]:
    """Return the model's shape as a LlamaConfig."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": NORM_EPS,
        # The first is read by transformers up to 4, the second since 5.
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "dtype": "float32",
        "torch_dtype": "float32",
        **special_ids(eos_id),
    }


def special_ids(eos_id: int | None) -> dict[str, int | None]:
    """Return the special tokens: the end of text ends a document, begins the next one, and pads."""
    return {"bos_token_id": eos_id, "eos_token_id": eos_id, "pad_token_id": eos_id}


def tokenizer_config(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the settings with which AutoTokenizer wraps tokenizer.json: no token is added, no space cleaned up."""
    special = END_OF_TEXT if END_OF_TEXT in tokenizer.special_tokens else None
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": special,
        "eos_token": special,
        "pad_token": special,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.context_length,
    }


def llama_weights(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the weights under the names of transformers' Llama, fused matrices split."""
    llama = {}
    for name, weight in split_fused(weights).items():
        layer, part = LAYER.fullmatch(name).groups("")
        llama_name = f"model.{layer}{LLAMA_NAMES[part]}.weight" if part in LLAMA_NAMES else name
        llama[llama_name] = np.ascontiguousarray(weight)
    return llama


def transformers_weights(config: ModelConfig, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the weights under Llama's names, with the rows of queries and keys in the order of transformers' RoPE.

    lmpipe rotates the neighbouring channels (2k, 2k + 1) of a head, transformers k with k + head_dim / 2.
    """
    llama = llama_weights(weights)
    for name, matrix in llama.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            pairs = matrix.reshape(config.num_heads, config.head_dim // 2, 2, config.d_model)
            llama[name] = np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(matrix.shape))
    return llama
