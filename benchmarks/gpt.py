"""A GPT of nanoGPT's shape, as a peer to measure against: learned positions, LayerNorm, GELU.

Its feed-forward has two matrices of one and a half times SwiGLU's width, so that both models have the same number of
weights; the output matrix is a matrix of its own, as there.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lmpipe.study.settings import ModelConfig


class Block(nn.Module):
    """Attention and feed-forward, each normalised before."""

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
        parts = self.qkv(self.norms[0](x)).split(d_model, dim=2)
        queries, keys, values = (part.view(batch, seq, self.num_heads, -1).transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.output(attended.transpose(1, 2).reshape(batch, seq, d_model))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


class GPT(nn.Module):
    """(batch, seq) token ids -> (batch, seq, vocab) logits."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = nn.Embedding(config.context_length, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.d_model, bias=False)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Logits of the next token at each position."""
        x = self.tokens(token_ids) + self.positions(torch.arange(token_ids.shape[1], device=token_ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
