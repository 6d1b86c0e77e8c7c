"""The transformer of the handout as a student writes it: a module for each section, and the names of its adapters."""

import math

import torch
from torch import nn


class Linear(nn.Module):
    def __init__(self, d_in, d_out):
        super().__init__()
        std = math.sqrt(2 / (d_in + d_out))
        self.weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(d_out, d_in), 0, std, -3 * std, 3 * std))

    def forward(self, x):
        return torch.einsum("...i,oi->...o", x, self.weight)


class RMSNorm(nn.Module):
    def __init__(self, d_model, eps=1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.rand(d_model) + 0.5)

    def forward(self, x):
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Embedding(nn.Module):
    def __init__(self, vocab_size, d_model):
        super().__init__()
        self.weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(vocab_size, d_model), 0, 1, -3, 3))

    def forward(self, token_ids):
        return self.weight[token_ids]


class SwiGLU(nn.Module):
    def __init__(self, d_model, d_ff):
        super().__init__()
        self.w1, self.w2, self.w3 = Linear(d_model, d_ff), Linear(d_ff, d_model), Linear(d_model, d_ff)

    def forward(self, x):
        gate = self.w1(x)
        return self.w2(gate * torch.sigmoid(gate) * self.w3(x))


def rope(x, theta):
    """Rotate each pair (2k, 2k + 1) of x (..., seq, d_k) by position / theta^(2k / d_k), with the handout's matrix."""
    seq, d_k = x.shape[-2:]
    out = torch.empty_like(x)
    for position in range(seq):
        for k in range(d_k // 2):
            angle = position / theta ** (2 * k / d_k)
            first, second = x[..., position, 2 * k], x[..., position, 2 * k + 1]
            out[..., position, 2 * k] = first * math.cos(angle) - second * math.sin(angle)
            out[..., position, 2 * k + 1] = first * math.sin(angle) + second * math.cos(angle)
    return out


class Attention(nn.Module):
    def __init__(self, d_model, num_heads, theta):
        super().__init__()
        self.num_heads, self.theta = num_heads, theta
        self.q_proj, self.k_proj, self.v_proj, self.output_proj = (Linear(d_model, d_model) for _ in range(4))

    def forward(self, x):
        batch, seq, d_model = x.shape
        shape = (batch, seq, self.num_heads, d_model // self.num_heads)
        q, k, v = (proj(x).view(shape).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rope(q, self.theta), rope(k, self.theta)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        mask = torch.tril(torch.ones(seq, seq, dtype=torch.bool))
        scores = scores.masked_fill(~mask, -math.inf)
        scores = torch.exp(scores - scores.max(-1, keepdim=True).values)
        probs = scores / scores.sum(-1, keepdim=True)
        return self.output_proj((probs @ v).transpose(1, 2).reshape(batch, seq, d_model))


class TransformerBlock(nn.Module):
    def __init__(self, d_model, num_heads, d_ff, theta):
        super().__init__()
        self.ln1, self.ln2 = RMSNorm(d_model), RMSNorm(d_model)
        self.attn = Attention(d_model, num_heads, theta)
        self.ffn = SwiGLU(d_model, d_ff)

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        return x + self.ffn(self.ln2(x))


class TransformerLM(nn.Module):
    def __init__(self, vocab_size, context_length, d_model, num_layers, num_heads, d_ff, rope_theta):
        super().__init__()
        self.token_embeddings = Embedding(vocab_size, d_model)
        blocks = (TransformerBlock(d_model, num_heads, d_ff, rope_theta) for _ in range(num_layers))
        self.layers = nn.ModuleList(blocks)
        self.ln_final = RMSNorm(d_model)
        self.lm_head = Linear(d_model, vocab_size)

    def forward(self, token_ids):
        x = self.token_embeddings(token_ids)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.ln_final(x))
