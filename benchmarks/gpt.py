"""A GPT of nanoGPT's shape, as a peer: learned positions, LayerNorm, GELU, untied embeddings.

Its feed-forward has two matrices of 1.5 times SwiGLU's width, so that both models have as many weights.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lmpipe.study.settings import ModelConfig


class Block(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        d_model, d_ff = config.d_model, config.d_ff * 3 // 2
        self.num_heads = config.num_heads
        self.norms = nn.ModuleList(nn.LayerNorm(d_model, bias=False) for _ in range(2))
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.output = nn.Linear(d_model, d_model, bias=False)
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (batch, seq, d_model)."""
        batch, seq, d_model = x.shape
        qkv = self.qkv(self.norms[0](x)).split(d_model, dim=2)
        queries, keys, values = (projection.view(batch, seq, self.num_heads, -1).transpose(1, 2) for projection in qkv)
        output = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.output(output.transpose(1, 2).reshape(batch, seq, d_model))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


class GPT(nn.Module):
    """GPT: token ids (batch, seq) to logits (batch, seq, vocab)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = nn.Embedding(config.context_length, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.d_model, bias=False)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Return the logits of the next token at each position."""
        x = self.tokens(token_ids) + self.positions(torch.arange(token_ids.shape[1], device=token_ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
