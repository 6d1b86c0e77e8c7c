"""Training kernels, as lmpipe.model.functional calls them, against formulas in float64.

Each test runs between fences, too: a kernel never accesses memory outside its tensors.
"""

import math
import sys

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from lmpipe.kernels.runtime.openmp import openmp
from lmpipe.model import functional
from lmpipe.model.architecture import rope_cos_sin
from lmpipe.model.functional import (
    CausalAttentionFn,
    RMSNormFn,
    SwiGLUFeedForwardFn,
    apply_rope,
    linear_cross_entropy,
    use_cpu_kernels,
)
from lmpipe.study.settings import ModelConfig
from tests.support.fenced_memory import FencedAtStart, FencedBuffer, run_fenced

# Largest error of a result, relative to its largest number.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}
dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
# Batch, positions, heads, head_dim: those of the laptop study, whole blocks and vectors, and neither.
ATTENTION = [(2, 128, 4, 16), (2, 64, 2, 32), (3, 7, 2, 8), (1, 101, 3, 10), (1, 33, 1, 72), (2, 1, 1, 2)]


@pytest.fixture(autouse=True, params=[None, FencedBuffer, FencedAtStart], ids=["", "fenced", "fenced at start"])
def _fenced(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(functional, "run_kernel", run_fenced(request.param))


def randn(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def cos_sin_table(seq, heads, head_dim):
    shape = {"context_length": seq, "d_model": heads * head_dim, "num_heads": heads}
    config = ModelConfig(**shape, d_ff=1, num_layers=1, vocab_size=2)
    return torch.from_numpy(rope_cos_sin(config))[:, None]


def with_gradients(function, inputs, grad):
    """Return the result of a function, and the gradients of its inputs."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    result = function(*leaves)
    return [result.detach(), *torch.autograd.grad(result, leaves, grad.to(result.dtype))]


def assert_close(results, exact, dtype):
    for result, expected in zip(results, exact, strict=True):
        assert (result.double() - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()


def naive_attention(qkv, cos_sin, heads):
    queries, keys, values = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    if cos_sin is not None:
        queries, keys = (apply_rope(x.transpose(1, 2), cos_sin).transpose(1, 2) for x in (queries, keys))
    scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
    is_future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return (scores.masked_fill(is_future, -math.inf).softmax(-1) @ values).transpose(1, 2).flatten(-2)


def naive_feed_forward(x, w13, w2):
    gate, up = (x @ w13.t()).chunk(2, dim=-1)
    return (F.silu(gate) * up) @ w2.t()


def naive_loss(hidden, weight, targets):
    return F.cross_entropy((hidden @ weight.t()).flatten(0, 1), targets.flatten(), reduction="sum")


@dtypes
@pytest.mark.parametrize("has_rope", [True, False])
@pytest.mark.parametrize(("batch", "seq", "heads", "head_dim"), ATTENTION)
def test_attention_equals_the_formula(batch, seq, heads, head_dim, has_rope, dtype):
    qkv = randn(batch, seq, 3 * heads * head_dim, dtype=dtype)
    grad = randn(batch, seq, heads * head_dim, dtype=dtype, seed=1)
    cos_sin = cos_sin_table(seq, heads, head_dim) if has_rope else None
    table = None if cos_sin is None else cos_sin.float()
    results = with_gradients(lambda x: CausalAttentionFn.apply(x, table, heads), [qkv], grad)
    exact = with_gradients(lambda x: naive_attention(x, cos_sin, heads), [qkv.double()], grad)
    assert results[0].dtype == dtype
    assert_close(results, exact, dtype)


@dtypes
@pytest.mark.parametrize(("rows", "d_model"), [(1, 3), (3, 16), (64, 64), (130, 50), (65, 200)])
def test_rmsnorm_equals_the_formula(rows, d_model, dtype):
    x, weight, grad = randn(rows, d_model), randn(d_model, seed=1), randn(rows, d_model, dtype=dtype, seed=2)
    results = with_gradients(lambda x, weight: RMSNormFn.apply(x, weight, 1e-5, dtype), [x, weight], grad)
    exact = with_gradients(lambda x, w: F.rms_norm(x, (d_model,), w, 1e-5), [x.double(), weight.double()], grad)
    assert results[0].dtype == dtype and results[1].dtype == torch.float32
    assert_close(results, exact, dtype)


@dtypes
@pytest.mark.parametrize(("rows", "d_model", "d_ff"), [(1, 2, 1), (3, 16, 16), (150, 24, 37), (300, 64, 192)])
def test_swiglu_feed_forward_equals_the_formula(rows, d_model, d_ff, dtype):
    x, grad = randn(2, rows, d_model, dtype=dtype), randn(2, rows, d_model, dtype=dtype, seed=1)
    weights = [randn(2 * d_ff, d_model, seed=2) / d_model**0.5, randn(d_model, d_ff, seed=3) / d_ff**0.5]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        results = with_gradients(SwiGLUFeedForwardFn.apply, [x, *weights], grad)
    exact = with_gradients(naive_feed_forward, [x.double(), *(weight.double() for weight in weights)], grad)
    assert results[0].dtype == dtype and results[2].dtype == torch.float32
    assert_close(results, exact, dtype)


@dtypes
@pytest.mark.parametrize(("vocab_size", "seq"), [(2, 3), (16, 1), (61, 40), (1024, 200)])
def test_linear_cross_entropy_equals_torchs(vocab_size, seq, dtype):
    hidden, weight = randn(2, seq, 24) / 5, randn(vocab_size, 24, seed=1)
    targets = torch.randint(vocab_size, (2, seq), generator=torch.Generator().manual_seed(2))
    results = with_gradients(lambda h, w: linear_cross_entropy(h, w, targets, dtype), [hidden, weight], torch.ones(()))
    exact = with_gradients(lambda h, w: naive_loss(h, w, targets), [hidden.double(), weight.double()], torch.ones(()))
    assert_close(results, exact, dtype)


def results_of_all_kernels(threads):
    """Results and gradients with `threads` threads, for inputs that are large enough for several."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    qkv, x, cos_sin = randn(4, 128, 96), randn(1000, 64), cos_sin_table(128, 2, 16).float()
    results = [
        *with_gradients(lambda qkv: CausalAttentionFn.apply(qkv, cos_sin, 2), [qkv], randn(4, 128, 32)),
        *with_gradients(lambda x, w: RMSNormFn.apply(x, w, 1e-5, x.dtype), [x, randn(64)], randn(1000, 64)),
        *with_gradients(SwiGLUFeedForwardFn.apply, [randn(1000, 16), randn(128, 16), randn(16, 64)], randn(1000, 16)),
    ]
    torch.set_num_threads(before)
    return results


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere kernels run in one thread")
def test_results_have_the_same_bits_in_any_number_of_threads():
    assert openmp() is not None, "torch's threads were not found"
    single = results_of_all_kernels(1)
    for threads in (2, 3, 5):
        for result, expected in zip(results_of_all_kernels(threads), single, strict=True):
            assert torch.equal(result, expected)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_reaches_the_output(value):
    """Divergence is detected by a loss that is not finite."""
    qkv = randn(1, 40, 48)
    qkv[0, 5, 3] = value
    assert not CausalAttentionFn.apply(qkv, None, 1)[0, 5:].isfinite().all()
    x = randn(3, 40)
    x[1, 7] = value
    assert not SwiGLUFeedForwardFn.apply(x, randn(20, 40), randn(40, 10))[1].isfinite().all()
    hidden = randn(1, 4, 8)
    hidden[0, 2, 1] = value
    targets = torch.zeros(1, 4, dtype=torch.long)
    assert not linear_cross_entropy(hidden, randn(20, 8, seed=1), targets).isfinite()


def test_gradients_that_are_not_contiguous():
    inputs, grad = [randn(30, 64), randn(8, 64), randn(64, 4)], randn(64, 30).t()
    assert not grad.is_contiguous()
    strided, contiguous = (with_gradients(SwiGLUFeedForwardFn.apply, inputs, g) for g in (grad, grad.contiguous()))
    for result, expected in zip(strided, contiguous, strict=True):
        assert torch.equal(result, expected)


def test_targets_that_are_not_contiguous():
    """As in windows of two tokens: input and target."""
    windows = torch.randint(20, (6, 2), generator=torch.Generator().manual_seed(3))
    hidden, weight = randn(6, 1, 8), randn(20, 8, seed=1)
    expected = naive_loss(hidden, weight, windows[:, 1:])
    torch.testing.assert_close(linear_cross_entropy(hidden, weight, windows[:, 1:]), expected)


def test_kernels_take_float32_and_bfloat16_on_a_cpu_alone():
    assert use_cpu_kernels(torch.ones(1)) and use_cpu_kernels(torch.ones(1, dtype=torch.bfloat16))
    assert not use_cpu_kernels(torch.ones(1, dtype=torch.float64))
    assert not use_cpu_kernels(torch.ones(1, device="meta"))
    with torch.autocast("cpu", torch.float16):
        assert not use_cpu_kernels(torch.ones(1))


@pytest.mark.parametrize("target", [-1, 20, 1 << 40])
def test_a_target_beyond_the_vocabulary_is_refused(target):
    with pytest.raises(IndexError):
        linear_cross_entropy(randn(1, 1, 8), randn(20, 8), torch.tensor([[target]]))


@pytest.mark.parametrize("cos_sin", [torch.ones(3, 1, 4, 2), torch.ones(5, 1, 4, 2, dtype=torch.float64)])
def test_a_rope_table_of_another_shape_or_type_is_refused(cos_sin):
    with pytest.raises(ValueError, match="cos_sin"):
        CausalAttentionFn.apply(randn(1, 5, 24), cos_sin, 1)


def test_a_near_certain_target_keeps_its_gradient_in_bfloat16():
    def gradient(dtype):
        hidden, weight = torch.tensor([[[6.0]]], requires_grad=True), torch.tensor([[1.0], [0.0], [0.0]])
        loss = linear_cross_entropy(hidden, weight.requires_grad_(), torch.tensor([[0]]), dtype)
        return torch.autograd.grad(loss, hidden)[0]

    torch.testing.assert_close(gradient(torch.bfloat16), gradient(torch.float32), rtol=0.01, atol=0)


@dtypes
def test_an_empty_batch_gives_an_empty_result(dtype):
    assert SwiGLUFeedForwardFn.apply(randn(0, 4, dtype=dtype), randn(6, 4), randn(4, 3)).shape == (0, 4)
