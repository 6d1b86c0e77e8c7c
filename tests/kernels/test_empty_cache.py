"""Clocks of a process whose kernels have yet to be compiled."""

import json
import time

import pytest

from lmpipe.kernels.runtime import loader
from lmpipe.tokenizer.pretoken_counts import count_shard
from lmpipe.training.run import train
from tests.support.tiny_study import make_tiny_study, tiny_run

COMPILE_SECONDS = 1000.0


@pytest.fixture
def _slow_compilation(monkeypatch):
    """Load all kernels again, each module with as much time on the clock as a slow compilation."""
    compiled, perf_counter = [], time.perf_counter
    cached = loader.cached

    def slow_cached(*args):
        compiled.append(args)
        return cached(*args)

    loader.load.cache_clear()
    monkeypatch.setattr(loader, "cached", slow_cached)
    monkeypatch.setattr(time, "perf_counter", lambda: perf_counter() + COMPILE_SECONDS * len(compiled))


@pytest.mark.usefixtures("_slow_compilation")
def test_counting_is_timed_without_compilation(tmp_path):
    (tmp_path / "text.txt").write_text("One day, a cat ran.<|endoftext|>" * 1000)
    count_shard(tmp_path / "text.txt", 0, 1, tmp_path / "0.npz", tmp_path / "0.json")
    shard = json.loads((tmp_path / "0.json").read_text())
    assert shard["compile_seconds"] >= COMPILE_SECONDS > shard["wall_seconds"]


@pytest.mark.usefixtures("_slow_compilation")
def test_training_is_timed_without_compilation(tmp_path):
    study = make_tiny_study(tmp_path / "tiny")
    train(tiny_run(total_tokens=64 * 5), study, tmp_path / "run", device="cpu")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["compile_seconds"] >= COMPILE_SECONDS > summary["train_seconds"]
