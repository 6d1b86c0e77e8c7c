"""Fake training for studies of many runs: a virtual environment whose `lmpipe train` computes nothing.

Results come from a formula. Inputs, run store, locks and records are lmpipe's own, as are all other commands. Some runs
fail at their first attempt, or wait there until SLURM takes their job away; fake GPUs are held as real ones are.
"""

import csv
import hashlib
import json
import math
import os
import site
import sys
import time
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

from lmpipe.io.files import atomic_write
from lmpipe.study.experiments import PlannedRun
from lmpipe.study.paths import METRICS, WEIGHTS
from lmpipe.training import run
from lmpipe.training.run import RunInputs, StoredRun, load_run
from tests.support.run_documents import run_summary

ROOT = Path(__file__).parents[2]
SETTINGS, TRAINED, GPUS, WAITING, ATTEMPTS = "fake.json", "trained", "gpus", "waiting", "attempts"
FAULTS = {"fail": 8, "preempt": 4, "cancel": 4}  # percent of the runs that meet a fault at their first attempt
COLUMNS = ("step", "tokens", "wall_seconds", "learning_rate", "train_loss", "validation_loss", "grad_norm")
BEST_LR, MAX_STABLE_LR = 0.01, 1.0
WAITING_SECONDS = 600.0
EMPTY_WEIGHTS = b"\x02\x00\x00\x00\x00\x00\x00\x00{}"


def make_environment(
    folder: Path, faults: Mapping[str, int] | None = None, gpus: Mapping[str, str] | None = None, seconds: float = 0.0
) -> str:
    """Make a virtual environment with the packages of this one and a fake `lmpipe`; return its Python.

    `faults` gives the percentage of runs for each fault (see FAULTS), `gpus` the UUIDs of fake GPUs by name, `seconds`
    the time of a run on one.
    """
    venv.EnvBuilder(symlinks=True).create(folder)
    python = folder / "bin" / "python"
    (packages,) = folder.glob("lib/python*/site-packages")
    outer = [f"import site; site.addsitedir({path!r})\n" for path in site.getsitepackages()]
    (packages / "outer.pth").write_text("".join([*outer, f"{ROOT}\n"]))
    (folder / SETTINGS).write_text(json.dumps({"faults": faults or {}, "gpus": gpus or {}, "seconds": seconds}))
    (folder / WAITING).mkdir()
    (folder / ATTEMPTS).mkdir()
    script = folder / "bin" / "lmpipe"
    script.write_text(f"#!{python}\nfrom benchmarks.endurance.fake_training import main\n\nmain({str(folder)!r})\n")
    script.chmod(0o755)
    return str(python)


def main(folder: str) -> None:
    """Run `lmpipe` with the fake in place of its training."""
    from lmpipe.cli.main import main

    run.train = FakeTraining(Path(folder)).train
    main()


class FakeTraining:
    """Train by the settings of the environment in `folder`, which also gets the log of the runs."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.settings = json.loads((folder / SETTINGS).read_text())

    def train(self, planned: PlannedRun, results: Path, output: Path, **options: Any) -> bool:
        """Stand in for lmpipe.training.run.train: the same inputs, store and outputs."""
        inputs = load_run(planned, results, output)
        stored = StoredRun.of(results, inputs.fingerprint())
        with stored.locked():
            is_new = not stored.is_finished
            if is_new:
                self.inject_fault(stored.fingerprint)
                self.hold_gpu(options["runs_per_gpu"])
                finish(stored, inputs)
                self.append(TRAINED, stored.fingerprint)
            stored.publish(output, inputs.config)
        return is_new

    def append(self, name: str, *words: Any) -> None:
        """Append a line to a file, unbuffered: lines of several processes do not mix."""
        with open(self.folder / name, "ab", buffering=0) as file:
            file.write((" ".join(map(str, words)) + "\n").encode())

    def inject_fault(self, digest: str) -> None:
        """At the first attempt of some runs, fail, or wait until SLURM takes the job away."""
        attempt = self.folder / ATTEMPTS / digest
        if attempt.exists():
            return
        attempt.touch()
        fault = fault_of(digest, self.settings["faults"])
        if fault in ("preempt", "cancel"):
            self.append(f"{WAITING}/{os.environ['SLURM_JOB_ID']}", fault)
            time.sleep(WAITING_SECONDS)
        if fault:
            sys.exit(f"fake training: {fault}")

    def hold_gpu(self, runs_per_gpu: int) -> None:
        """Hold a fake GPU for the time of a run, if there are any."""
        if self.settings["gpus"]:
            sys.modules["torch"] = MagicMock()  # locks need none of it, and loading it takes two seconds
            from lmpipe.training.devices import acquire_gpus

            with acquire_gpus(self.settings["gpus"], self.folder, runs_per_gpu=runs_per_gpu) as (name,):
                start = time.monotonic()
                time.sleep(self.settings["seconds"])
                self.append(GPUS, name, start, time.monotonic())


def fault_of(digest: str, faults: Mapping[str, int]) -> str | None:
    """Return the fault of a run, if any: a function of its digest."""
    number = int(hashlib.sha256(digest.encode()).hexdigest(), 16) % 100
    for fault, percent in faults.items():
        if number < percent:
            return fault
        number -= percent
    return None


def finish(stored: StoredRun, inputs: RunInputs) -> None:
    """Write a run's results: the loss is lowest at BEST_LR, and runs above MAX_STABLE_LR diverge."""
    entropy, max_lr, steps = inputs.train.info.unigram_entropy, inputs.config.training.max_lr, inputs.config.steps
    loss = entropy - 1 + 0.05 * math.log(max_lr / BEST_LR) ** 2 + 0.01 * inputs.config.seed
    rows: list[list[Any]] = [[0, 0, 0.0, "", "", entropy + 1, ""]]
    for step in range(1, steps + 1):
        rows.append([step, step * inputs.config.tokens_per_step, step * 0.01, max_lr, loss, loss, 1.0])
    with atomic_write(stored.folder / METRICS) as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    with atomic_write(stored.folder / WEIGHTS, "wb") as file:
        file.write(EMPTY_WEIGHTS)
    losses = ("final_train_loss", "validation_loss", "best_validation_loss")
    status = dict.fromkeys(losses, loss) | {"perplexity": math.exp(loss), "bits_per_byte": loss / math.log(2)}
    if max_lr > MAX_STABLE_LR:
        status = dict.fromkeys(status) | {"status": "diverged", "reason": "too high a rate", "detected_step": steps}
    sizes = {"steps": steps, "planned_steps": steps, "tokens": steps * inputs.config.tokens_per_step}
    stored.finish(run_summary(initial_loss=entropy + 1, unigram_entropy=entropy, **sizes, **status))


def gpu_use(folder: Path) -> list[tuple[str, float, float]]:
    """Return GPU, start and end (s) of each run on a fake GPU, in the order of their ends."""
    lines = map(str.split, (folder / GPUS).read_text().splitlines())
    return [(name, float(start), float(end)) for name, start, end in lines]
