from itertools import count

import pytest
import torch

from lmpipe.model.accounting import account_adamw
from lmpipe.model.activation_memory import step_memory
from lmpipe.study.settings import ModelConfig, TrainingSettings
from lmpipe.training import batch_size_benchmark
from lmpipe.training.batch_size_benchmark import StepTimer, benchmark_batch_sizes
from lmpipe.training.measurements import MemoryLine
from lmpipe.training.optimizer import AdamW
from tests.support.tiny_study import MODEL, TRAINING

CONFIG = ModelConfig(vocab_size=263, **MODEL)
FIXED, PER_SEQUENCE = step_memory(CONFIG, "float32")


@pytest.fixture(autouse=True)
def _timed_once(monkeypatch):
    monkeypatch.setattr(batch_size_benchmark, "MIN_TIMED_SECONDS", 0)


def measured(sequences_of_a_run=20, **options):
    training = TrainingSettings.model_validate(TRAINING | {"total_tokens": sequences_of_a_run * CONFIG.context_length})
    return benchmark_batch_sizes(CONFIG, training, device="cpu", **options)


def sizes_in(found):
    return [row.batch_size for row in found.sizes]


def test_every_doubling_up_to_a_whole_run_is_timed():
    found = measured()
    assert sizes_in(found) == [1, 2, 4, 8, 16]
    assert (found.largest_batch_size, found.stop_reason) == (16, "run")
    for row in found.sizes:
        tokens = row.batch_size * CONFIG.context_length
        assert row.tokens_per_second == pytest.approx(tokens / row.step_seconds)
    limit = found.memory_limit_bytes
    largest = (limit - FIXED) // PER_SEQUENCE
    line = MemoryLine(fixed_bytes=FIXED, bytes_per_sequence=PER_SEQUENCE, largest_batch_size=largest)
    assert found.predicted == line
    assert found.handout.largest_batch_size == account_adamw(CONFIG, limit).largest_batch_size
    assert (found.threads, found.precision) == (1, "float32")


def with_memory(monkeypatch, free, of_batch):
    """Let the process have so much free memory, and each size need what `of_batch` says of it."""
    number = count()
    monkeypatch.setattr(batch_size_benchmark, "free_memory_bytes", lambda device: free)
    monkeypatch.setattr(batch_size_benchmark, "allocated_memory_bytes", lambda device: 0)
    monkeypatch.setattr(batch_size_benchmark, "peak_memory_bytes", lambda device: of_batch(2 ** next(number)))


def test_no_batch_is_tried_that_would_not_fit(monkeypatch):
    with_memory(monkeypatch, 10 * FIXED, lambda batch_size: FIXED + batch_size * FIXED)
    found = measured()
    assert found.memory_limit_bytes == 8 * FIXED
    # 1 + 4 fixed sizes fit into 8, and 1 + 8 do not; in between, 7 sequences do.
    assert (sizes_in(found), found.stop_reason) == ([1, 2, 4], "memory")
    assert (found.largest_batch_size, found.estimated_largest_batch_size) == (4, 7)


def test_a_model_that_does_not_fit_is_not_built(monkeypatch):
    with_memory(monkeypatch, FIXED, lambda batch_size: 0)
    found = measured()
    assert (found.sizes, found.largest_batch_size, found.estimated_largest_batch_size) == ([], 0, 0)
    assert found.stop_reason == "memory"


def test_a_device_that_runs_out_of_memory_ends_the_doublings(monkeypatch):
    step = StepTimer.run_step

    def small(self, inputs, targets):
        if len(inputs) > 4:
            raise torch.OutOfMemoryError
        step(self, inputs, targets)

    monkeypatch.setattr(StepTimer, "run_step", small)
    found = measured()
    assert (sizes_in(found), found.stop_reason) == ([1, 2, 4], "memory")


def test_the_measurement_ends_in_time(monkeypatch):
    monkeypatch.setattr(batch_size_benchmark, "MAX_SECONDS", 0)
    found = measured()
    assert (sizes_in(found), found.stop_reason) == ([1], "time")


def test_nothing_is_trained(monkeypatch):
    rates = []
    monkeypatch.setattr(AdamW, "step", lambda self, lr, grad_scale: rates.append(lr))
    measured()
    assert set(rates) == {0.0}
