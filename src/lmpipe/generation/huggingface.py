"""A trained run as a folder that Hugging Face transformers loads as it is: a Llama model and its tokenizer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from lmpipe.errors import InputError
from lmpipe.generation.sampling import end_of_text_id, read_run
from lmpipe.io.files import atomic_write_dir, json_bytes
from lmpipe.kernels.transformer.structs import NORM_EPS
from lmpipe.study.settings import ModelConfig
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT
from lmpipe.tokenizer.tokenizer import Tokenizer

# What each setting would have to be for Llama (Touvron et al. 2023, section 2.2) to compute the same, and why.
LLAMA = {
    "norm": ("pre", "Llama has an RMSNorm before each sublayer and at the end"),
    "position_embedding": ("rope", "Llama turns queries and keys by their positions"),
    "feed_forward": ("swiglu", "Llama's feed-forward has a gate"),
}


def export(run_folder: str | Path, target: str | Path) -> None:
    """Write a run as a folder for transformers' AutoModelForCausalLM and AutoTokenizer, whole or not at all.

    Raises InputError for a model that Llama cannot express, before anything is written, and where `read_run` does.
    """
    config, weights, tokenizer = read_run(run_folder)
    check_llama(run_folder, config)
    atomic_write_dir(target, llama_files(config, weights, tokenizer))


def llama_files(config: ModelConfig, weights: Mapping[str, np.ndarray], tokenizer: Tokenizer) -> dict[str, bytes]:
    """The files of the folder, by name."""
    end_id = end_of_text_id(tokenizer)
    return {
        "config.json": json_bytes(llama_config(config, end_id)),
        "generation_config.json": json_bytes(generation_config(end_id)),
        "model.safetensors": save(llama_weights(config, weights), {"format": "pt"}),
        "tokenizer.json": json_bytes(tokenizer.hugging_face()),
        "tokenizer_config.json": json_bytes(tokenizer_config(config, tokenizer)),
    }


def check_llama(run_folder: str | Path, config: ModelConfig) -> None:
    """Raise InputError where Llama would compute something else."""
    for key, (expected, reason) in LLAMA.items():
        if (found := getattr(config, key)) != expected:
            raise InputError(
                f"{run_folder}: model.{key}: expected {expected}, found {found}: {reason}, "
                "so transformers could not compute this model; export another run"
            )


def llama_config(config: ModelConfig, end_id: int | None) -> dict[str, Any]:
    """The model's shape in the words of LlamaConfig."""
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
        **special_ids(end_id),
    }


def special_ids(end_id: int | None) -> dict[str, int | None]:
    """The end of text ends a document and begins the next one; where generation needs padding, it pads."""
    return {"bos_token_id": end_id, "eos_token_id": end_id, "pad_token_id": end_id}


def generation_config(end_id: int | None) -> dict[str, Any]:
    """What `generate` does where nothing is asked for: as `lmpipe generate` does, it draws from all tokens."""
    return {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0, **special_ids(end_id)}


def tokenizer_config(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """How AutoTokenizer wraps tokenizer.json: it adds no token, and decodes the bytes as they are."""
    special = END_OF_TEXT if END_OF_TEXT in tokenizer.special_tokens else None
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": special,
        "eos_token": special,
        "pad_token": special,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.context_length,
    }


def llama_weights(config: ModelConfig, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights under Llama's names, fused matrices apart."""
    renamed = {
        "model.embed_tokens.weight": weights["token_embeddings.weight"],
        "model.norm.weight": weights["ln_final.weight"],
        "lm_head.weight": weights["lm_head.weight"],
    }
    for index in range(config.num_layers):
        ours, theirs = f"layers.{index}", f"model.layers.{index}"
        queries, keys, values = np.split(weights[f"{ours}.attn.qkv_proj.weight"], 3)
        gate, up = np.split(weights[f"{ours}.ffn.w13.weight"], 2)
        renamed |= {
            f"{theirs}.input_layernorm.weight": weights[f"{ours}.ln1.weight"],
            f"{theirs}.self_attn.q_proj.weight": halves_apart(queries, config),
            f"{theirs}.self_attn.k_proj.weight": halves_apart(keys, config),
            f"{theirs}.self_attn.v_proj.weight": values,
            f"{theirs}.self_attn.o_proj.weight": weights[f"{ours}.attn.output_proj.weight"],
            f"{theirs}.post_attention_layernorm.weight": weights[f"{ours}.ln2.weight"],
            f"{theirs}.mlp.gate_proj.weight": gate,
            f"{theirs}.mlp.up_proj.weight": up,
            f"{theirs}.mlp.down_proj.weight": weights[f"{ours}.ffn.w2.weight"],
        }
    return {name: np.ascontiguousarray(weight) for name, weight in renamed.items()}


def halves_apart(matrix: np.ndarray, config: ModelConfig) -> np.ndarray:
    """The rows of queries or keys (d_model, d_model) in the order in which Llama turns them.

    lmpipe turns the neighbours (2k, 2k + 1) of a head, transformers channel k with k + width / 2.
    """
    pairs = matrix.reshape(config.num_heads, config.head_dim // 2, 2, config.d_model)
    return pairs.swapaxes(1, 2).reshape(matrix.shape)
