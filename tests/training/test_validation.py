import numpy as np
import pytest
import torch

from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import ModelConfig
from lmpipe.training.evaluation import mean_loss, next_token_losses, window_batches


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
