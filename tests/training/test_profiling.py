"""Measurements of a training step, against counts by hand."""

from itertools import count

import pytest
import torch
from torch import nn

from lmpipe.model.accounting import MemoryLine, batch_memory, count_parameters, forward_flops
from lmpipe.model.activation_memory import step_memory
from lmpipe.study.settings import ModelConfig, TrainingSettings
from lmpipe.training import profiling
from lmpipe.training.measurements import StepCost
from lmpipe.training.optimizer import AdamW
from lmpipe.training.profiling import (
    SavedTensors,
    StepTimer,
    benchmark_batch_sizes,
    matmul_flops_per_second,
    profile_step,
)
from tests.support.tiny_study import MODEL
from tests.support.tiny_study import TRAINING as TINY_TRAINING

CONFIG = ModelConfig(vocab_size=263, **MODEL)
TRAINING = TrainingSettings(total_tokens=1000, batch_size=4, max_lr=0.01)


@pytest.fixture(autouse=True)
def _few_repetitions(monkeypatch):
    monkeypatch.setattr(profiling, "MATMUL_SECONDS", 0)
    monkeypatch.setattr(profiling, "MATMUL_SIDE", {"cpu": 64})
    monkeypatch.setattr(profiling, "MIN_TIMED_SECONDS", 0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_measured_step_is_what_the_accounting_predicts(precision):
    profile = profile_step(CONFIG, TRAINING.model_copy(update={"precision": precision}), device="cpu")
    predicted, measured = profile.predicted, profile.measured
    assert measured.model_dump(include=set(StepCost.model_fields)) == predicted.model_dump(exclude={"activations"})
    assert measured.saved_bytes == pytest.approx(predicted.activations.saved_bytes, rel=0.05)
    assert measured.moment_bytes == 8 * count_parameters(CONFIG).total
    assert measured.step_flops == 3 * measured.forward_flops == 12 * forward_flops(CONFIG)
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
    assert saved.bytes_by_component == {"attention": 4 * 5 * 8, "loss": 4 * 5 * 6}
    with SavedTensors(model).recording():
        pass
    assert not model.attn._forward_hooks, "no hook stays behind"


def test_the_ceiling_is_the_fastest_of_all_but_the_first_product(monkeypatch):
    # A first product that takes 9 s, then others of 3, 2 and 4 s, of 64 x 64 matrices.
    clock = iter([0, 9, 10, 13, 20, 22, 30, 34])
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: next(clock))
    assert matmul_flops_per_second(torch.device("cpu"), "float32") == 2 * 64**3 / 2


# --- batch sizes ---

FIXED, PER_SEQUENCE = step_memory(CONFIG, "float32")


def run_benchmark():
    training = TrainingSettings.model_validate(TINY_TRAINING | {"total_tokens": 20 * 16})
    return benchmark_batch_sizes(CONFIG, training, device="cpu")


def sizes_in(benchmark):
    return [row.batch_size for row in benchmark.sizes]


def test_every_doubling_up_to_a_whole_run_is_timed():
    benchmark = run_benchmark()
    assert sizes_in(benchmark) == [1, 2, 4, 8, 16]
    assert (benchmark.largest_batch_size, benchmark.stop_reason) == (16, "run")
    for row in benchmark.sizes:
        tokens = row.batch_size * 16
        assert row.tokens_per_second == pytest.approx(tokens / row.step_seconds)
    limit = benchmark.memory_limit_bytes
    largest = (limit - FIXED) // PER_SEQUENCE
    line = MemoryLine(fixed_bytes=FIXED, bytes_per_sequence=PER_SEQUENCE, largest_batch_size=largest)
    assert benchmark.predicted == line
    assert benchmark.handout.largest_batch_size == batch_memory(CONFIG, limit).largest_batch_size
    assert (benchmark.threads, benchmark.precision) == (1, "float32")


def with_memory(monkeypatch, free, of_batch):
    """Let the process have so much free memory, and each size need what `of_batch` says of it."""
    number = count()
    monkeypatch.setattr(profiling, "free_memory_bytes", lambda device: free)
    monkeypatch.setattr(profiling, "allocated_memory_bytes", lambda device: 0)
    monkeypatch.setattr(profiling, "peak_memory_bytes", lambda device: of_batch(2 ** next(number)))


def test_no_batch_is_tried_that_would_not_fit(monkeypatch):
    with_memory(monkeypatch, 10 * FIXED, lambda batch_size: FIXED + batch_size * FIXED)
    benchmark = run_benchmark()
    assert benchmark.memory_limit_bytes == 8 * FIXED
    # 1 + 4 fixed sizes fit into 8, and 1 + 8 do not; in between, 7 sequences do.
    assert (sizes_in(benchmark), benchmark.stop_reason) == ([1, 2, 4], "memory")
    assert (benchmark.largest_batch_size, benchmark.estimated_largest_batch_size) == (4, 7)


def test_a_model_that_does_not_fit_is_not_built(monkeypatch):
    with_memory(monkeypatch, FIXED, lambda batch_size: 0)
    benchmark = run_benchmark()
    assert (benchmark.sizes, benchmark.largest_batch_size, benchmark.estimated_largest_batch_size) == ([], 0, 0)
    assert benchmark.stop_reason == "memory"


def test_a_device_that_runs_out_of_memory_ends_the_doublings(monkeypatch):
    step = StepTimer.run_step

    def small(self, inputs, targets):
        if len(inputs) > 4:
            raise torch.OutOfMemoryError
        step(self, inputs, targets)

    monkeypatch.setattr(StepTimer, "run_step", small)
    benchmark = run_benchmark()
    assert (sizes_in(benchmark), benchmark.stop_reason) == ([1, 2, 4], "memory")


def test_the_measurement_ends_in_time(monkeypatch):
    monkeypatch.setattr(profiling, "MAX_BENCHMARK_SECONDS", 0)
    benchmark = run_benchmark()
    assert (sizes_in(benchmark), benchmark.stop_reason) == ([1], "time")


def test_nothing_is_trained(monkeypatch):
    rates = []
    monkeypatch.setattr(AdamW, "step", lambda self, lr, grad_scale: rates.append(lr))
    run_benchmark()
    assert set(rates) == {0.0}
