"""Runs of the tiny study: their files, their comparison, and ways to interrupt them."""

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmpipe.study.experiments import PlannedRun
from lmpipe.training.optimizer import AdamW
from lmpipe.training.run import train
from tests.support.forked import ForkedProcess
from tests.support.tiny_study import make_tiny_study

RESULT_KEYS = (
    "status",
    "validation_loss",
    "bits_per_byte",
    "final_train_loss",
    "initial_loss",
    "detected_step",
    "divergence_step",
    "validation_loss_se",
    "init_digests",
    "batches_sha256",
)


def rows_of(folder: Path) -> list[dict[str, str]]:
    """Read the rows of metrics.csv."""
    with open(folder / "metrics.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def without_times(folder: Path) -> list[dict[str, str]]:
    """Read the rows of metrics.csv without wall_seconds."""
    return [{key: value for key, value in row.items() if key != "wall_seconds"} for row in rows_of(folder)]


def summary_of(folder: Path) -> dict[str, Any]:
    """summary.json as written."""
    return json.loads((folder / "summary.json").read_text())


def assert_same_result(first: Path, second: Path) -> None:
    """Two runs have the same metrics, weights and summary, to the byte."""
    assert without_times(first) == without_times(second)
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    for key in RESULT_KEYS:
        assert summary_of(first)[key] == summary_of(second)[key]


def assert_nearly_same_result(first: Path, second: Path) -> None:
    """Two runs have the same metrics, except for rounding."""
    for row, other in zip(without_times(first), without_times(second), strict=True):
        for key, value in row.items():
            assert (value == "") == (other[key] == "")
            assert value == "" or float(value) == pytest.approx(float(other[key]), rel=1e-4), (row["step"], key)


def train_uninterrupted(run: PlannedRun) -> Path:
    """Train a run in a separate study; returns its folder."""
    other = make_tiny_study(Path("results/uninterrupted"))
    train(run, other, other / "run")
    return other / "run"


class StoppedError(Exception):
    """An error in the middle of a step."""


def stop() -> None:
    """Fail."""
    raise StoppedError


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    """Call `action` once, before the update of a later step."""
    update = AdamW.step

    def stopping(self: AdamW, lr: float, grad_scale: Any = None) -> None:
        if self.step_count == step - 1:
            monkeypatch.setattr(AdamW, "step", update)
            action()
        update(self, lr, grad_scale)

    monkeypatch.setattr(AdamW, "step", stopping)


def program(run: PlannedRun, results: Path, output: Path, **options: Any) -> list[str]:
    """Return the command of a Python program that trains a run, and prints if it was trained now."""
    planned = f"PlannedRun.model_validate_json({run.model_dump_json()!r})"
    imports = "from lmpipe.study.experiments import PlannedRun; from lmpipe.training.run import train"
    code = f"{imports}; print(train({planned}, {str(results)!r}, {str(output)!r}, **{options}))"
    return [sys.executable, "-c", code]


def wait_for_checkpoint(process: subprocess.Popen | ForkedProcess, results: Path) -> None:
    """Wait until a run has written a new checkpoint."""
    before = checkpoints(results)
    deadline = time.monotonic() + 120
    while checkpoints(results) <= before:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def checkpoints(results: Path) -> set[Path]:
    """Return the paths of all checkpoints of a study."""
    return set(results.glob("store/*/checkpoints/*.safetensors"))
