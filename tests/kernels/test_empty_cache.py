"""Clocks of a process whose kernels have yet to be compiled."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.tiny_study import make_tiny_study, tiny_run
from tests.support.training_runs import program

ROOT = Path(__file__).parents[2]
MIN_COMPILE_SECONDS = 1.0


def run_with_empty_cache(command: list[str], cache: Path) -> None:
    """Run a command in a process that has no compiled kernels."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "LMPIPE_CACHE": str(cache)}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert list(cache.glob("kernels/*.bin")), "kernels were compiled"


def test_counting_is_timed_without_compilation(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("One day, a cat ran.<|endoftext|>" * 1000)
    call = f"count_shard({str(text)!r}, 0, 1, {str(tmp_path / '0.npz')!r}, {str(tmp_path / '0.json')!r})"
    code = f"from lmpipe.tokenizer.pretoken_counts import count_shard; {call}"
    run_with_empty_cache([sys.executable, "-c", code], tmp_path / "cache")
    shard = json.loads((tmp_path / "0.json").read_text())
    assert shard["compile_seconds"] > MIN_COMPILE_SECONDS > shard["wall_seconds"]


def test_training_is_timed_without_compilation(tmp_path):
    study = make_tiny_study(tmp_path / "tiny")
    run_with_empty_cache(program(tiny_run(total_tokens=64 * 5), study, tmp_path / "run"), tmp_path / "cache")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["compile_seconds"] > MIN_COMPILE_SECONDS > summary["train_seconds"]
