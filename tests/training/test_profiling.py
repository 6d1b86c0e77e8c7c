"""What is measured of a training step, against counts by hand."""

import pytest
import torch
from torch import nn

from lmpipe.model.accounting import count_parameters, forward_flops
from lmpipe.study.settings import ModelConfig, TrainingSettings
from lmpipe.training import profiling
from lmpipe.training.measurements import StepCost
from lmpipe.training.profiling import (
    SavedTensors,
    matmul_flops_per_second,
    part_of,
    profile_step,
    storage_bytes,
)

CONFIG = ModelConfig(context_length=16, d_model=16, d_ff=32, num_layers=2, num_heads=2, vocab_size=263)
TRAINING = TrainingSettings(total_tokens=1000, batch_size=4, max_lr=0.01)


@pytest.fixture
def _few_products(monkeypatch):
    monkeypatch.setattr(profiling, "MATMUL_SECONDS", 0)
    monkeypatch.setattr(profiling, "MATMUL_SIDE", {"cpu": 64})


@pytest.mark.usefixtures("_few_products")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_measured_step_is_what_the_accounting_predicts(precision):
    training = TRAINING.model_copy(update={"precision": precision})
    profile = profile_step(CONFIG, training, device="cpu")
    predicted, measured = profile.predicted, profile.measured
    assert measured.model_dump(include=set(StepCost.model_fields)) == predicted.model_dump(exclude={"activations"})
    assert measured.saved_bytes == pytest.approx(predicted.activations.saved_bytes, rel=0.05)
    assert measured.moment_bytes == 8 * count_parameters(CONFIG).total
    assert measured.step_flops == 3 * measured.forward_flops == 12 * forward_flops(CONFIG)
    assert measured.process_bytes > 10e6
    assert profile.threads == 1


class Twice(nn.Module):
    """Two products of the same input, which each of them saves."""

    def __init__(self):
        super().__init__()
        self.attn = nn.Linear(8, 6, bias=False)
        self.ffn = nn.Linear(8, 6, bias=False)

    def forward(self, x):
        return self.attn(x) + self.ffn(x)


def test_memory_is_counted_once_and_parameters_not_at_all():
    model, x = Twice(), torch.ones(5, 8)
    saved = SavedTensors(model)
    with saved.recording():
        (model(x) ** 2).sum()
    # The input is saved by both products and counts where it came first; the square saves the sum of both.
    assert saved.bytes_by_part == {"attention": 4 * 5 * 8, "loss": 4 * 5 * 6}
    with SavedTensors(model).recording():
        pass
    assert not model.attn._forward_hooks, "no hook stays behind"


def test_a_part_of_a_tensor_keeps_all_of_it():
    assert storage_bytes(torch.ones(100)[:3]) == 400


@pytest.mark.parametrize(
    ("module", "part"),
    [
        ("layers.1.ln2", "norms"),
        ("layers.1.ffn.w2", "feed_forward"),
        ("ln_final", "norms"),
        ("", None),
        ("layers", None),
    ],
)
def test_modules_belong_to_parts(module, part):
    assert part_of(module) == part


def test_the_ceiling_is_the_fastest_of_all_but_the_first_product(monkeypatch):
    # A first product that takes 9 s, then others of 3, 2 and 4 s, of 64 x 64 matrices.
    clock = iter([0, 9, 10, 13, 20, 22, 30, 34])
    monkeypatch.setattr(profiling, "MATMUL_SECONDS", 0)
    monkeypatch.setattr(profiling, "MATMUL_SIDE", {"cpu": 64})
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: next(clock))
    assert matmul_flops_per_second(torch.device("cpu"), "float32") == 2 * 64**3 / 2
