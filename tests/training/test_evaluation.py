import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import ModelConfig
from lmpipe.training.evaluation import (
    DocumentLosses,
    eval_batch_tokens,
    evaluate,
    mean_loss,
    next_token_losses,
    window_batches,
)
from tests.support.tiny_study import tiny_tokenizer


@pytest.fixture(scope="module")
def model():
    config = ModelConfig(context_length=8, d_model=16, d_ff=24, num_layers=1, num_heads=2, vocab_size=50)
    model = TransformerLM(config, seed=0)
    with torch.no_grad():
        model.lm_head.weight *= 20
    return model


def test_every_token_has_the_same_weight_in_the_mean(model):
    tokens = np.random.default_rng(0).integers(0, 50, 8 * 3 + 2).astype(np.uint16)
    batches = list(window_batches(tokens, 8))
    assert [tuple(inputs.shape) for inputs, _ in batches] == [(3, 8), (1, 1)], "a shorter last window"
    with torch.no_grad():
        losses = torch.cat([next_token_losses(model, inputs, targets, "float32") for inputs, targets in batches])
    assert mean_loss(model, batches, "float32") == pytest.approx(losses.double().mean().item(), rel=1e-9)


def test_bfloat16_rounds_the_products_and_float32_does_not(model):
    inputs, targets = next(window_batches(np.arange(30, dtype=np.uint16), 8))
    with torch.no_grad():
        exact = next_token_losses(model, inputs, targets, "float32")
        rounded = next_token_losses(model, inputs, targets, "bfloat16")
    assert rounded.dtype == exact.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, atol=0.1, rtol=0.05)


def test_bits_per_byte_by_hand():
    config = ModelConfig(context_length=4, d_model=4, d_ff=4, num_layers=1, num_heads=1, vocab_size=263)
    model = TransformerLM(config, seed=0)
    torch.nn.init.zeros_(model.lm_head.weight)
    # All 263 ids are equally likely; targets: "th" (2 bytes), end of text, " a" (2 bytes), "b" (1 byte).
    tokens = torch.tensor([97, 257, 256, 258, 98]).numpy()
    result = evaluate(model, tokens, tiny_tokenizer().byte_lengths, "float32", lambda targets: None)
    assert (result.validation_tokens, result.validation_bytes) == (4, 5)
    assert result.loss == pytest.approx(math.log(263))
    assert result.bits_per_byte == pytest.approx(3 * math.log2(263) / 5)
    assert math.isnan(evaluate(model, tokens[3:], tiny_tokenizer().byte_lengths, "float32", print).loss_se)


@pytest.mark.parametrize("ends", [[7, 8, 30, 59], [7, 8, 30], [0, 1], []])
def test_standard_error_is_that_of_the_ratio_over_documents(ends):
    losses, is_end = np.random.default_rng(3).exponential(2.0, 60), np.zeros(60, bool)
    is_end[ends] = True
    documents = DocumentLosses()
    for start, stop in pairwise([0, 5, 8, 31, 60]):
        documents.add(losses[start:stop], is_end[start:stop])
    bounds = [0, *(end + 1 for end in ends), 60]
    parts = [losses[start:stop] for start, stop in pairwise(bounds) if stop > start]
    assert documents.mean == pytest.approx(losses.mean(), rel=1e-12)
    assert documents.targets == 60
    if len(parts) == 1:
        assert math.isnan(documents.standard_error)
        return
    # The residuals sum to 0, so this is the naive formula with their sample variance.
    residuals = [part.sum() - losses.mean() * len(part) for part in parts]
    expected = math.sqrt(len(parts) * np.var(residuals, ddof=1)) / 60
    assert documents.standard_error == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("device", "vocab_size", "tokens"), [("cpu", 10_000, 2048), ("cuda", 1 << 15, 4096), ("cuda", 1 << 20, 2048)]
)
def test_a_gpu_validates_more_tokens_at_once(device, vocab_size, tokens):
    with FakeTensorMode():
        model = SimpleNamespace(lm_head=SimpleNamespace(weight=torch.empty(vocab_size, 8, device=device)))
    assert eval_batch_tokens(model) == tokens
