"""A test double of training, for studies of many runs: an environment whose `lmpipe train` computes nothing.

Its results come from a formula, in no time; everything around them (inputs, run store, locks, records) is lmpipe's own,
and so are all other verbs. What else a run does is told by a settings file: some fail at their first attempt, some wait
there until SLURM takes their job away, and fake GPUs are held as real ones would be.
"""

import csv
import hashlib
import json
import math
import os
import site
import sys
import time
import types
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmpipe.io.files import atomic_write
from lmpipe.provenance.environment import Environment, environment
from lmpipe.study.paths import METRICS, WEIGHTS
from lmpipe.study.planned_run import PlannedRun
from lmpipe.training.devices import acquire_gpu
from lmpipe.training.run_config import RunInputs, load_run
from lmpipe.training.run_store import InitDigest, RunSummary, StoredRun

ROOT = Path(__file__).parent.parent
SETTINGS = "double.json"
TRAINED = "trained"
GPUS = "gpus"
WAITING = "waiting"
# Of a hundred runs, so many meet each fault at their first attempt.
FAULTS = {"fail": 8, "preempt": 4, "cancel": 4}
COLUMNS = ("step", "tokens", "wall_seconds", "learning_rate", "train_loss", "validation_loss", "grad_norm")
BEST_RATE = 0.01
EMPTY_WEIGHTS = b"\x02\x00\x00\x00\x00\x00\x00\x00{}"


def make_environment(
    folder: Path, faults: Mapping[str, int] | None = None, gpus: Mapping[str, str] | None = None, seconds: float = 0.0
) -> str:
    """Make a virtual environment whose `lmpipe` is the double, around this one; returns its Python.

    `faults` are those that runs meet (see FAULTS), `gpus` the fake devices by name, `seconds` how long a run takes.
    """
    venv.EnvBuilder(symlinks=True).create(folder)
    python = folder / "bin" / "python"
    (packages,) = folder.glob("lib/python*/site-packages")
    around = [f"import site; site.addsitedir({place!r})\n" for place in site.getsitepackages()]
    (packages / "around.pth").write_text("".join([*around, f"{ROOT}\n"]))
    settings = {"faults": faults or {}, "gpus": gpus or {}, "seconds": seconds}
    (folder / SETTINGS).write_text(json.dumps(settings))
    for name in (WAITING, "attempts"):
        (folder / name).mkdir()
    script = folder / "bin" / "lmpipe"
    script.write_text(f"#!{python}\nfrom benchmarks.doubles import main\n\nmain({str(folder)!r})\n")
    script.chmod(0o755)
    return str(python)


def main(folder: str) -> None:
    """Be `lmpipe`: all verbs are its own, but `train` is the double of the environment in a folder."""
    from lmpipe.cli.main import main

    double = types.ModuleType("lmpipe.training.run")
    double.train = Double(Path(folder)).train
    sys.modules["lmpipe.training.run"] = double
    main()


class Double:
    """Training as the settings in a folder tell; it notes there what it did."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.settings = json.loads((folder / SETTINGS).read_text())

    def train(
        self,
        run: PlannedRun,
        results: str,
        output: str,
        *,
        best_path: str | None = None,
        runs_per_gpu: int = 1,
        **others: Any,
    ) -> bool:
        """In place of `lmpipe.training.run.train`: the same inputs, store and outputs."""
        inputs = load_run(run, Path(results), best_path, Path(output))
        stored = StoredRun.of(results, inputs.fingerprint())
        with stored.locked():
            is_new = not stored.is_finished
            if is_new:
                self.meet_fault(stored.fingerprint)
                self.compute(runs_per_gpu)
                fill(stored, inputs)
                self.note(TRAINED, stored.fingerprint)
            stored.publish(output, inputs.config)
        return is_new

    def note(self, name: str, *words: Any) -> None:
        """Add a line to a file; lines of several processes do not mix."""
        with open(self.folder / name, "ab", buffering=0) as file:
            file.write((" ".join(map(str, words)) + "\n").encode())

    def meet_fault(self, digest: str) -> None:
        """At the first attempt of some runs: fail, or wait until this job is taken away."""
        attempts = self.folder / "attempts" / digest
        if attempts.exists():
            return
        attempts.touch()
        fault = fault_of(digest, self.settings["faults"])
        if fault == "fail":
            sys.exit("the double fails, as it was told to")
        if fault:
            job = os.environ["SLURM_JOB_ID"]
            self.note(f"{WAITING}/{job}", fault)
            time.sleep(600)
            sys.exit(f"the double waited in vain for SLURM to {fault} its job")

    def compute(self, runs_per_gpu: int) -> None:
        """Take the time of a run, on a fake GPU where there are some."""
        if not self.settings["gpus"]:
            time.sleep(self.settings["seconds"])
            return
        with acquire_gpu(self.settings["gpus"], runs_per_gpu, self.folder) as name:
            self.note(GPUS, name, "+", time.monotonic())
            time.sleep(self.settings["seconds"])
            self.note(GPUS, name, "-", time.monotonic())


def fault_of(digest: str, faults: Mapping[str, int]) -> str | None:
    """The fault that a run meets: as many of a hundred as `faults` says, always the same ones."""
    number = int(hashlib.sha256(digest.encode()).hexdigest(), 16) % 100
    for fault, share in faults.items():
        if number < share:
            return fault
        number -= share
    return None


def fill(stored: StoredRun, inputs: RunInputs) -> None:
    """Finish a run of the store by a formula: best at one rate, diverged above 1."""
    entropy, rate = inputs.train.info.unigram_entropy, inputs.training.max_lr
    diverged = rate > 1
    final = entropy - 1 + 0.05 * math.log(rate / BEST_RATE) ** 2 + 0.01 * inputs.seed
    loss = None if diverged else final
    rows = [[0, 0, 0.0, "", "", entropy + 1, ""]]
    for step in range(1, inputs.steps + 1):
        rows.append([step, step * inputs.tokens_per_step, step * 0.01, rate, final, final, 1.0])
    with atomic_write(stored.folder / METRICS) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    with atomic_write(stored.folder / WEIGHTS, "wb") as file:
        file.write(EMPTY_WEIGHTS)
    tokens, seconds = inputs.steps * inputs.tokens_per_step, inputs.steps * 0.01
    stored.finish(
        RunSummary(
            status="diverged" if diverged else "finished",
            reason="the rate is above 1" if diverged else None,
            steps=inputs.steps,
            planned_steps=inputs.steps,
            diverged_step=inputs.steps if diverged else None,
            tokens=tokens,
            initial_loss=entropy + 1,
            final_train_loss=loss,
            validation_loss=loss,
            best_validation_loss=loss,
            perplexity=loss and math.exp(loss),
            bits_per_byte=loss and loss / math.log(2),
            validation_tokens=inputs.valid.info.tokens,
            validation_bytes=inputs.valid.info.text_bytes,
            unigram_entropy=entropy,
            init_digests={"double": InitDigest(parameters=1, sha256="0")},
            batches_sha256="0",
            parameters=1,
            train_seconds=seconds,
            tokens_per_second=tokens / seconds,
            peak_memory_bytes=0,
            device="test double",
            threads=1,
            processes=1,
            compile=False,
            micro_batch_size=inputs.training.batch_size,
            precision="float32",
            num_resumes=0,
            code={"double": "0"},
            environment=Environment(**environment("torch", "numpy")),
        )
    )


def gpu_use(folder: Path) -> list[tuple[str, float, float]]:
    """Which fake GPU each run held, from when to when, in the order of their ends."""
    since: dict[str, list[float]] = {}
    found = []
    for line in (folder / GPUS).read_text().splitlines():
        name, sign, moment = line.split()
        if sign == "+":
            since.setdefault(name, []).append(float(moment))
        else:
            found.append((name, since[name].pop(0), float(moment)))
    return found


def most_at_once(uses: Sequence[tuple[str, float, float]]) -> int:
    """How many of some uses overlap at most.

    >>> most_at_once([("cuda:0", 0, 2), ("cuda:1", 1, 3), ("cuda:0", 2, 4)])
    2
    """
    moments = sorted([(end, -1) for _, _, end in uses] + [(start, 1) for _, start, _ in uses])
    now = most = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most
