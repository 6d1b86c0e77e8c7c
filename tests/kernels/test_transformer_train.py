"""The training kernels, as lmpipe.model.functional calls them, against formulas in float64."""

import math
import sys

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from lmpipe.kernels.runtime.openmp import openmp
from lmpipe.model import functional
from lmpipe.model.architecture import rope_cos_sin
from lmpipe.model.functional import CausalAttentionFn, RMSNormFn, SwiGLUFeedForwardFn, apply_rope, linear_cross_entropy
from lmpipe.study.settings import ModelConfig

# How far a float32 and a bfloat16 result may lie from the exact one, relative to the largest number of it.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}
dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
# Batch, positions, heads, width: those of the laptop study, whole blocks and vectors, and neither.
ATTENTION = [(2, 128, 4, 16), (2, 64, 2, 32), (3, 7, 2, 8), (1, 101, 3, 10), (1, 33, 1, 72), (2, 1, 1, 2)]


def drawn(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype)


def cos_sin_for(seq, heads, width):
    shape = {"context_length": seq, "d_model": heads * width, "num_heads": heads}
    config = ModelConfig(**shape, d_ff=1, num_layers=1, vocab_size=2)
    return torch.from_numpy(rope_cos_sin(config))[:, None]


def with_gradients(function, inputs, grad):
    """What a function gives, and the gradients of its inputs."""
    leaves = [one.detach().requires_grad_() for one in inputs]
    result = function(*leaves)
    return [result.detach(), *torch.autograd.grad(result, leaves, grad.to(result.dtype))]


def assert_close(ours, exact, dtype):
    for mine, other in zip(ours, exact, strict=True):
        assert (mine.double() - other).abs().max() <= TOLERANCE[dtype] * other.abs().max()


def plain_attention(qkv, cos_sin, heads):
    parts = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    queries, keys, values = parts
    if cos_sin is not None:
        queries, keys = (apply_rope(part.transpose(1, 2), cos_sin).transpose(1, 2) for part in (queries, keys))
    scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
    ahead = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return (scores.masked_fill(ahead, -math.inf).softmax(-1) @ values).transpose(1, 2).flatten(-2)


@dtypes
@pytest.mark.parametrize("has_rope", [True, False])
@pytest.mark.parametrize(("batch", "seq", "heads", "width"), ATTENTION)
def test_attention_and_its_gradients_equal_the_formula(batch, seq, heads, width, has_rope, dtype):
    qkv, grad = drawn(batch, seq, 3 * heads * width, dtype=dtype), drawn(batch, seq, heads * width, dtype=dtype, seed=1)
    cos_sin = cos_sin_for(seq, heads, width) if has_rope else None
    ours = with_gradients(
        lambda x: CausalAttentionFn.apply(x, cos_sin if cos_sin is None else cos_sin.float(), heads), [qkv], grad
    )
    exact = with_gradients(lambda x: plain_attention(x, cos_sin, heads), [qkv.double()], grad)
    assert ours[0].dtype == dtype
    assert_close(ours, exact, dtype)


@dtypes
@pytest.mark.parametrize(("rows", "d_model"), [(1, 3), (3, 16), (64, 64), (130, 50), (65, 200)])
def test_rmsnorm_and_its_gradients_equal_the_formula(rows, d_model, dtype):
    x, gain, grad = drawn(rows, d_model), drawn(d_model, seed=1), drawn(rows, d_model, dtype=dtype, seed=2)
    ours = with_gradients(lambda x, gain: RMSNormFn.apply(x, gain, 1e-5, dtype), [x, gain], grad)
    formula = with_gradients(lambda x, gain: F.rms_norm(x, (d_model,), gain, 1e-5), [x.double(), gain.double()], grad)
    assert ours[0].dtype == dtype and ours[1].dtype == torch.float32
    assert_close(ours, formula, dtype)


def plain_feed_forward(x, w13, w2):
    gate, up = (x @ w13.t()).chunk(2, dim=-1)
    return (F.silu(gate) * up) @ w2.t()


@dtypes
@pytest.mark.parametrize(("rows", "d_model", "d_ff"), [(1, 2, 1), (3, 16, 16), (150, 24, 37), (300, 64, 192)])
def test_the_feed_forward_and_its_gradients_equal_the_formula(rows, d_model, d_ff, dtype):
    x, grad = drawn(2, rows, d_model, dtype=dtype), drawn(2, rows, d_model, dtype=dtype, seed=1)
    weights = [drawn(2 * d_ff, d_model, seed=2) / d_model**0.5, drawn(d_model, d_ff, seed=3) / d_ff**0.5]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        ours = with_gradients(SwiGLUFeedForwardFn.apply, [x, *weights], grad)
    exact = with_gradients(plain_feed_forward, [x.double(), *(weight.double() for weight in weights)], grad)
    assert ours[0].dtype == dtype and ours[2].dtype == torch.float32
    assert_close(ours, exact, dtype)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("vocab_size", "seq"), [(2, 3), (16, 1), (61, 40), (1024, 200)])
def test_the_loss_and_its_gradients_equal_cross_entropy(vocab_size, seq, precision):
    hidden, weight = drawn(2, seq, 24) / 5, drawn(vocab_size, 24, seed=1)
    targets = torch.randint(vocab_size, (2, seq), generator=torch.Generator().manual_seed(2))
    one = torch.ones(())
    ours = with_gradients(
        lambda hidden, weight: linear_cross_entropy(hidden, weight, targets, precision), [hidden, weight], one
    )
    exact = with_gradients(
        lambda hidden, weight: F.cross_entropy((hidden @ weight.t()).flatten(0, 1), targets.flatten(), reduction="sum"),
        [hidden.double(), weight.double()],
        one,
    )
    assert_close(ours, exact, getattr(torch, precision))


def everything(threads):
    """What all kernels give with so many threads, for inputs that are worth several."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    qkv, x = drawn(4, 128, 96), drawn(1000, 64)
    cos_sin = cos_sin_for(128, 2, 16).float()
    found = [
        *with_gradients(lambda qkv: CausalAttentionFn.apply(qkv, cos_sin, 2), [qkv], drawn(4, 128, 32)),
        *with_gradients(lambda x, gain: RMSNormFn.apply(x, gain, 1e-5, x.dtype), [x, drawn(64)], drawn(1000, 64)),
        *with_gradients(SwiGLUFeedForwardFn.apply, [drawn(1000, 16), drawn(128, 16), drawn(16, 64)], drawn(1000, 16)),
    ]
    torch.set_num_threads(before)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere kernels run in one thread")
def test_results_are_the_same_bits_in_any_number_of_threads():
    assert openmp() is not None, "torch's threads were not found"
    alone = everything(1)
    for threads in (2, 3, 5):
        for mine, other in zip(everything(threads), alone, strict=True):
            assert torch.equal(mine, other)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_broken_stays_broken(broken):
    """Divergence is seen by a loss that is not finite."""
    qkv = drawn(1, 40, 48)
    qkv[0, 5, 3] = broken
    assert not CausalAttentionFn.apply(qkv, None, 1)[0, 5:].isfinite().all()
    x = drawn(3, 40)
    x[1, 7] = broken
    assert not SwiGLUFeedForwardFn.apply(x, drawn(20, 40), drawn(40, 10))[1].isfinite().all()
    hidden = drawn(1, 4, 8)
    hidden[0, 2, 1] = broken
    assert not linear_cross_entropy(
        hidden, drawn(20, 8, seed=1), torch.zeros(1, 4, dtype=torch.long), "float32"
    ).isfinite()


def test_gradients_that_do_not_lie_together_are_read_right():
    inputs, grad = [drawn(30, 64), drawn(8, 64), drawn(64, 4)], drawn(64, 30).t()
    assert not grad.is_contiguous()
    results = [with_gradients(SwiGLUFeedForwardFn.apply, inputs, one) for one in (grad, grad.contiguous())]
    for mine, other in zip(*results, strict=True):
        assert torch.equal(mine, other)


def test_only_float32_and_bfloat16_on_a_cpu_have_kernels():
    assert functional.use_cpu_kernels(torch.ones(1)) and functional.use_cpu_kernels(torch.ones(1, dtype=torch.bfloat16))
    assert not functional.use_cpu_kernels(torch.ones(1, dtype=torch.float64))
    assert not functional.use_cpu_kernels(torch.ones(1, device="meta"))


def test_targets_of_windows_of_one_token_are_read_right():
    """They lie apart in memory: each window of two is input and target."""
    windows = torch.randint(20, (6, 2), generator=torch.Generator().manual_seed(3))
    hidden, weight = drawn(6, 1, 8), drawn(20, 8, seed=1)
    expected = F.cross_entropy((hidden @ weight.t()).flatten(0, 1), windows[:, 1], reduction="sum")
    torch.testing.assert_close(linear_cross_entropy(hidden, weight, windows[:, 1:], "float32"), expected)


@pytest.mark.parametrize("target", [-1, 20, 1 << 40])
def test_a_target_beyond_the_vocabulary_is_refused(target):
    with pytest.raises(IndexError):
        linear_cross_entropy(drawn(1, 1, 8), drawn(20, 8), torch.tensor([[target]]), "float32")


@pytest.mark.parametrize("cos_sin", [torch.ones(3, 1, 4, 2), torch.ones(5, 1, 4, 2, dtype=torch.float64)])
def test_turns_that_do_not_fit_are_refused(cos_sin):
    with pytest.raises(ValueError, match="cos_sin"):
        CausalAttentionFn.apply(drawn(1, 5, 24), cos_sin, 1)


def test_a_near_certain_target_keeps_its_gradient_in_bfloat16():
    def gradient(precision):
        hidden, weight = torch.tensor([[[6.0]]], requires_grad=True), torch.tensor([[1.0], [0.0], [0.0]])
        loss = linear_cross_entropy(hidden, weight.requires_grad_(), torch.tensor([[0]]), precision)
        return torch.autograd.grad(loss, hidden)[0]

    torch.testing.assert_close(gradient("bfloat16"), gradient("float32"), rtol=0.01, atol=0)


def test_other_types_of_autocast_have_no_kernels():
    with torch.autocast("cpu", torch.float16):
        assert not functional.use_cpu_kernels(torch.ones(1))


def test_an_empty_batch_gives_nothing():
    for dtype in (torch.float32, torch.bfloat16):
        assert SwiGLUFeedForwardFn.apply(drawn(0, 4, dtype=dtype), drawn(6, 4), drawn(4, 3)).shape == (0, 4)
