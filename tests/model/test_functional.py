import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch._subclasses.fake_tensor import FakeTensorMode

from lmpipe.model import functional
from lmpipe.model.functional import RMSNorm, chunk_rows, linear_cross_entropy, swiglu


def randn(*shape, seed=0):
    values = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return values.requires_grad_()


def assert_same_gradients(output, expected, inputs):
    """Values and gradients, for some gradient of the result, agree in float64."""
    torch.testing.assert_close(output, expected)
    grad = torch.randn_like(output)
    pairs = zip(torch.autograd.grad(output, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True)
    for mine, other in pairs:
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-13)


def test_rmsnorm_equals_torchs():
    norm, x = RMSNorm(8, eps=1e-5).double(), randn(3, 5, 8)
    torch.nn.init.normal_(norm.weight)
    assert_same_gradients(norm(x), F.rms_norm(x, (8,), norm.weight, 1e-5), (x, norm.weight))


def test_swiglu_equals_its_formula():
    x = randn(3, 5, 12)
    gate, up = x.chunk(2, dim=-1)
    assert_same_gradients(swiglu(x), F.silu(gate) * up, (x,))


@pytest.mark.parametrize("rows", [1, 4, 7, 100])
def test_linear_cross_entropy_is_the_same_in_any_chunks(monkeypatch, rows):
    monkeypatch.setattr(functional, "CPU_CHUNK_LOGITS", rows * 11)
    monkeypatch.setattr(functional, "MIN_CHUNK_ROWS", 1)
    hidden, weight = randn(2, 7, 6), randn(11, 6, seed=1)
    targets = torch.randint(11, (2, 7), generator=torch.Generator().manual_seed(2))
    expected = F.cross_entropy((hidden @ weight.t()).flatten(0, 1), targets.flatten(), reduction="sum")
    assert_same_gradients(linear_cross_entropy(hidden, weight, targets), expected, (hidden, weight))


def test_chunks_of_a_large_vocabulary_have_enough_rows():
    chunk_rows = []

    def counted(inputs, *others):
        chunk_rows.append(len(inputs))
        return functional.cross_entropy_chunk(inputs, *others)

    hidden, weight = torch.zeros(2, 150, 4), torch.zeros(functional.CPU_CHUNK_LOGITS // 8, 4)
    linear_cross_entropy(hidden, weight, torch.zeros(2, 150, dtype=torch.long), None, counted)
    assert chunk_rows == [128, 128, 44]


def test_the_loss_of_a_hopeless_target_is_finite():
    hidden = torch.tensor([[[1000.0]]], requires_grad=True)
    loss = linear_cross_entropy(hidden, torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True), torch.tensor([[1]]))
    assert loss.item() == 2000
    assert math.isfinite(torch.autograd.grad(loss, hidden)[0].item())


def test_a_loss_of_nan_is_nan():
    hidden = torch.full((1, 2, 1), math.nan)
    assert math.isnan(linear_cross_entropy(hidden, torch.ones(3, 1), torch.tensor([[1, 2]])))


@pytest.mark.parametrize(("vocab_size", "rows"), [(10_000, 6656), (32_000, 2048), (1 << 20, 128)])
def test_chunks_on_a_gpu_fill_its_tiles(vocab_size, rows):
    assert chunk_rows(vocab_size, torch.device("cuda")) == rows


def test_rmsnorm_on_a_gpu_is_torchs_kernel(monkeypatch):
    """Without gradients, which fake tensors do not have on a GPU that is not there."""
    monkeypatch.setattr(functional.RMSNormFn, "apply", None)
    with FakeTensorMode(), torch.no_grad():
        norm, x = RMSNorm(8, eps=1e-5, device="cuda"), torch.empty(3, 5, 8, device="cuda")
        assert norm(x).shape == x.shape
