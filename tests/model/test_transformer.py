import math

import pytest
import torch
from torch import nn

from lmpipe.errors import InputError
from lmpipe.model.architecture import rope_cos_sin
from lmpipe.model.functional import RMSNorm, apply_rope
from lmpipe.model.transformer import Attention, Embedding, Linear, SwiGLU, TransformerLM
from lmpipe.study.settings import ModelConfig
from tests.support.variants import MODEL_VARIANTS, variant_ids


def config_of(**changes):
    settings = {"context_length": 24, "d_model": 32, "d_ff": 48, "num_layers": 3, "num_heads": 4, "vocab_size": 61}
    return ModelConfig(**(settings | changes))


def double(model):
    """Return the model in float64, its RoPE table included."""
    model.double()
    if model.config.position_embedding == "rope":
        model.cos_sin = torch.from_numpy(rope_cos_sin(model.config))[:, None]
    return model


def ids(config, batch=3, seq=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocab_size, (batch, seq or config.context_length), generator=generator)


class PlainBlock(nn.Module):
    """One layer written out from the handout's formulas, without fusing anything."""

    def __init__(self, layer, config):
        super().__init__()
        self.layer, self.config = layer, config

    def attention(self, x):
        config = self.config
        head_dim = config.head_dim
        query_weight, key_weight, value_weight = self.layer.attn.qkv_proj.weight.chunk(3)
        heads = []
        for head in range(config.num_heads):
            rows = slice(head * head_dim, (head + 1) * head_dim)
            queries, keys, values = (x @ weight[rows].T for weight in (query_weight, key_weight, value_weight))
            if config.position_embedding == "rope":
                queries, keys = rotate(queries, config), rotate(keys, config)
            scores = queries @ keys.transpose(-1, -2) / math.sqrt(head_dim)
            is_future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            heads.append(scores.masked_fill(is_future, -math.inf).softmax(-1) @ values)
        return torch.cat(heads, -1) @ self.layer.attn.output_proj.weight.T

    def feed_forward(self, x):
        if self.config.feed_forward == "silu":
            hidden = x @ self.layer.ffn.w1.weight.T
            return (hidden * hidden.sigmoid()) @ self.layer.ffn.w2.weight.T
        w1, w3 = self.layer.ffn.w13.weight.chunk(2)
        gate = x @ w1.T
        return (gate * gate.sigmoid() * (x @ w3.T)) @ self.layer.ffn.w2.weight.T

    def forward(self, x):
        if self.config.norm == "post":
            x = normed(x + self.attention(x), self.layer.ln1)
            return normed(x + self.feed_forward(x), self.layer.ln2)
        x = x + self.attention(normed(x, self.layer.ln1))
        return x + self.feed_forward(normed(x, self.layer.ln2))


def normed(x, layer):
    if isinstance(layer, nn.Identity):
        return x
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-5) * layer.weight


def rotate(x, config):
    """Rotation of (..., seq, head_dim) by explicit 2 x 2 matrices, position by position and pair by pair."""
    out = torch.empty_like(x)
    for position in range(x.shape[-2]):
        for pair in range(config.head_dim // 2):
            angle = position / config.rope_theta ** (2 * pair / config.head_dim)
            matrix = x.new_tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
            channels = slice(2 * pair, 2 * pair + 2)
            out[..., position, channels] = x[..., position, channels] @ matrix.T
    return out


@pytest.mark.parametrize("words", MODEL_VARIANTS, ids=variant_ids)
def test_every_word_of_the_study_equals_its_formulas(words):
    config = config_of(**words, num_layers=2)
    model = double(TransformerLM(config, seed=2))
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.dim() == 1):
            parameter.copy_(torch.linspace(0.5, 1.5, len(parameter)))
        tokens = ids(config, batch=2, seq=9)
        x = model.token_embeddings.weight[tokens]
        for layer in model.layers:
            x = PlainBlock(layer, config)(x)
        if config.norm == "pre":
            x = normed(x, model.ln_final)
        torch.testing.assert_close(model(tokens), x @ model.lm_head.weight.T, atol=1e-11, rtol=1e-11)


def test_norms_are_where_the_word_says():
    def names(norm):
        return [
            name for name, _ in TransformerLM(config_of(norm=norm, num_layers=1)).named_parameters() if "ln" in name
        ]

    assert names("pre") == ["layers.0.ln1.weight", "layers.0.ln2.weight", "ln_final.weight"]
    assert names("post") == ["layers.0.ln1.weight", "layers.0.ln2.weight"]
    assert names("none") == []


def test_rope_keeps_lengths_and_depends_on_the_distance_alone():
    cos_sin = torch.from_numpy(rope_cos_sin(config_of(context_length=64)))
    query, key = torch.randn(2, 8, dtype=torch.float64)
    rotated_query, rotated_key = (apply_rope(x.expand(64, 8), cos_sin) for x in (query, key))
    torch.testing.assert_close(rotated_query.norm(dim=-1), query.norm().expand(64))
    scores = rotated_query @ rotated_key.T
    torch.testing.assert_close(scores.diagonal(3), scores[0, 3].expand(61))
    torch.testing.assert_close(rotated_query[0], query)


def test_later_tokens_do_not_change_earlier_logits():
    model = TransformerLM(config_of(), seed=0)
    tokens = ids(model.config)
    changed = tokens.clone()
    changed[:, 10:] = (changed[:, 10:] + 1) % 61
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :10], after[:, :10])
    assert not torch.allclose(before[:, 10], after[:, 10])


def test_equal_seeds_give_equal_weights_and_ablations_share_them():
    base = TransformerLM(config_of(), seed=5).state_dict()
    assert not torch.equal(TransformerLM(config_of(), seed=6).lm_head.weight, base["lm_head.weight"])
    ablations = ({}, {"norm": "none"}, {"position_embedding": "none"}, {"num_layers": 2}, {"context_length": 8})
    for changes in ablations:
        for name, weight in TransformerLM(config_of(**changes), seed=5).state_dict().items():
            assert torch.equal(weight, base[name]), (changes, name)
    silu = TransformerLM(config_of(feed_forward="silu"), seed=5).layers[1].ffn
    assert torch.equal(silu.w1.weight, base["layers.1.ffn.w13.weight"][:48])
    assert torch.equal(silu.w2.weight, base["layers.1.ffn.w2.weight"])


def test_initial_weights_have_the_handouts_deviation_and_are_truncated_at_three():
    config = config_of(d_model=128, d_ff=320, vocab_size=500, num_layers=1)
    model = TransformerLM(config, seed=0)
    queries, keys, _ = model.layers[0].attn.qkv_proj.weight.chunk(3)
    gate, _ = model.layers[0].ffn.w13.weight.chunk(2)
    expected = [
        (model.token_embeddings.weight, 1.0),
        (queries, math.sqrt(2 / 256)),
        (gate, math.sqrt(2 / 448)),
        (model.layers[0].ffn.w2.weight, math.sqrt(2 / 448)),
        (model.lm_head.weight, math.sqrt(2 / 628)),
    ]
    # A normal cut at three deviations keeps 0.9866 of its deviation.
    for weight, deviation in expected:
        assert weight.std().item() == pytest.approx(0.9866 * deviation, rel=0.02)
        assert weight.abs().max().item() <= 3 * deviation
        assert weight.abs().max().item() > 2.8 * deviation
    assert not torch.equal(queries, keys)
    assert torch.equal(model.ln_final.weight, torch.ones(128))


def test_bfloat16_autocast_gives_nearly_the_same_logits():
    model = TransformerLM(config_of(), seed=0)
    tokens = ids(model.config)
    with torch.no_grad():
        expected = model(tokens)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(tokens)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("make", "std"),
    [
        (lambda: Linear(300, 500), math.sqrt(2 / 800)),
        (lambda: Linear(300, {"first": 200, "second": 100}), None),
        (lambda: Embedding(500, 300), 1.0),
        (lambda: TransformerLM(config_of(vocab_size=500)).lm_head, math.sqrt(2 / 532)),
    ],
)
def test_layers_without_a_seed_are_drawn_by_torchs_generator(make, std):
    first, second, other = (draw(make, seed) for seed in (0, 0, 1))
    assert torch.equal(first, second) and not torch.equal(first, other)
    if std is None:
        assert first[:200].std().item() == pytest.approx(math.sqrt(2 / 500), rel=0.03)
        assert first[200:].std().item() == pytest.approx(math.sqrt(2 / 400), rel=0.03)
    else:
        assert first.std().item() == pytest.approx(std, rel=0.03)
        assert first.abs().max() <= 3 * std


def draw(make, seed):
    torch.manual_seed(seed)
    return make().weight.detach()


def test_a_seed_leaves_torchs_generator_as_it_is():
    state = torch.get_rng_state()
    TransformerLM(config_of(), seed=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_layers_alone_compute_what_torchs_do():
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    linear = Linear(16, 6)
    torch.testing.assert_close(linear(x), x @ linear.weight.T)
    torch.testing.assert_close(RMSNorm(16)(x), nn.functional.rms_norm(x, (16,), eps=1e-5))
    assert Embedding(9, 16)(torch.tensor([[3]])).shape == (1, 1, 16)
    assert SwiGLU(16, 24)(x).shape == Attention(16, 2)(x).shape == x.shape
    assert Linear(4, 3, dtype=torch.float64)(torch.ones(4, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize(
    "make",
    [
        lambda: Linear("16", 6),
        lambda: Linear(16, 6.0),
        lambda: Linear(16, -1),
        lambda: Embedding(None, 16),
        lambda: Attention("16", 2),
        lambda: Attention(16, "2"),
        lambda: TransformerLM(10000, 256),
        lambda: TransformerLM(),
        lambda: TransformerLM(**dict(config_of()) | {"num_heads": "four"}),
        lambda: TransformerLM(**dict(config_of()), heads=4),
    ],
)
def test_wrong_sizes_are_one_clear_line(make):
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value).isprintable()


def test_wrong_shapes_are_one_line():
    model = TransformerLM(vocab_size=300, context_length=8, d_model=8, d_ff=16, num_layers=1, num_heads=2)
    for ids in ([[1, 2]], torch.tensor([1, 2])):
        with pytest.raises(InputError, match="batch, seq"):
            model(ids)
    with pytest.raises(InputError, match="d_model"):
        TransformerLM(model.config, d_model=16)
    for num_heads in (0, 3, 16):
        with pytest.raises(InputError, match="divisor"):
            Attention(8, num_heads)
    for width in (4, 7, 16):  # the kernel would read beyond the gains
        with pytest.raises(RuntimeError, match="must match the size"):
            RMSNorm(8)(torch.ones(2, width))
    with pytest.raises(ValueError, match="autocast"):
        model.bfloat16()(torch.tensor([[1, 2]]))
