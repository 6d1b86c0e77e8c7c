"""Adoption of finished runs by changed code: `lmpipe adopt`.

A change of the code that trains makes every run another one. Where the change does not touch the results, the runs are
adopted instead of trained again: the run store gets their files under the fingerprint of the present code. Each run is
replayed: its recorded losses pass through the code that schedules, records and judges them, and its weights are
evaluated again. Of each configuration, which is all but the seed, the first steps of the longest run are trained again.
All files must come out the same to the byte, times aside.
"""

import csv
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch

from lmpipe.data.encode import encode_file
from lmpipe.errors import InputError
from lmpipe.io.files import copy_atomic, sha256_of
from lmpipe.io.progress import log
from lmpipe.io.tensor_files import read_weights
from lmpipe.model.architecture import weight_shapes
from lmpipe.provenance.code_digest import code_digest
from lmpipe.provenance.job_records import RECORD, JobRecord
from lmpipe.study.experiments import PlannedRun
from lmpipe.study.paths import CONFIG, METRICS, SUMMARY, WEIGHTS, StudyPaths
from lmpipe.tokenizer.chunking import last_split_point
from lmpipe.tokenizer.pretokenizer import special_bytes
from lmpipe.tokenizer.tokenizer import Tokenizer
from lmpipe.training.devices import acquire_device, set_deterministic
from lmpipe.training.interruption import StopGuard
from lmpipe.training.loop import Execution
from lmpipe.training.run import RunInputs, StoredRun, load_run
from lmpipe.training.run_documents import AdoptedRun, Adoptions, RunConfig, RunSummary
from lmpipe.training.step import StepResult
from lmpipe.training.trainer import Trainer, metric_cell

SAMPLE_BYTES = 1 << 20
# Entries of summary.json that differ between two trainings of one run, or that older runs lack.
MEASURED = {"train_seconds", "compile_seconds", "tokens_per_second", "peak_memory_bytes", "memory_before_bytes"}
MEASURED |= {"num_resumes", "code", "environment", "deterministic"}
Cells = dict[str, str]


class DifferenceError(Exception):
    """A run is not adopted; the message is the end of a sentence about it."""


@dataclass(frozen=True)
class Candidate:
    """A finished run that the store lacks under the fingerprint of the present code."""

    run: PlannedRun
    folder: Path
    inputs: RunInputs
    summary: RunSummary

    @property
    def execution(self) -> Execution:
        """Device, threads and the other choices that it was trained with."""
        # Runs that are known not to repeat are no candidates; of older runs, the replay shows it.
        choices = {field.name: getattr(self.summary, field.name) for field in fields(Execution)}
        return Execution(**choices | {"deterministic": True})

    @property
    def configuration(self) -> tuple[str, Execution]:
        """All that decides its result, without the seed."""
        config = self.inputs.config.model_copy(update={"seed": 0})
        return config.fingerprint(self.summary.code), self.execution


def adopt(runs: Sequence[PlannedRun], results: Path, steps: int, device: str | None = None) -> None:
    """Adopt the finished runs of a study that the present code computes to the byte, and log what came of each.

    `steps` are those trained again. Raises InputError if the study has no finished runs.
    """
    finished = [run for run in runs if (results / run.folder / SUMMARY).exists()]
    if not finished:
        raise InputError(
            results, "has no finished runs", "name the results folder of a study that has been carried out"
        )
    groups: dict[tuple[str, Execution], list[Candidate]] = {}
    refused = num_current = num_adopted = 0
    for run in finished:
        try:
            candidate = find_candidate(run, results)
        except (DifferenceError, InputError, OSError) as error:
            log(f"{run.id} is not adopted: {error}")
            refused += 1
            continue
        if candidate is None:
            num_current += 1
        else:
            groups.setdefault(candidate.configuration, []).append(candidate)
    for candidates in groups.values():
        candidates.sort(key=lambda candidate: -candidate.summary.steps)  # one that diverged early shows little
        first, names = candidates[0], ", ".join(candidate.run.id for candidate in candidates)
        num_steps = min(steps, first.summary.steps)
        try:
            check_sample(first.run, StudyPaths(results))
            for candidate in candidates:
                replay(candidate, num_steps if candidate is first else 0, device, StudyPaths(results).store)
        except (DifferenceError, InputError) as error:
            log(f"{names}: not adopted: {error}")
            refused += len(candidates)
            continue
        log(f"{names}: adopted, with {num_steps} steps replayed")
        store(candidates, results, num_steps)
        num_adopted += len(candidates)
    print(f"{num_adopted} runs adopted, {num_current} current already, {refused} to be trained again")


def find_candidate(run: PlannedRun, results: Path) -> Candidate | None:
    """Return a finished run as a candidate; None if it is current already.

    Raises DifferenceError if its files are not those that its record names, or not of the present settings and texts.
    """
    folder = results / run.folder
    inputs = load_run(run, results, folder)
    config, summary = RunConfig.read(folder / CONFIG), RunSummary.read(folder / SUMMARY)
    fingerprint = inputs.fingerprint()
    is_stored = (StudyPaths(results).store / fingerprint / SUMMARY).exists()
    if is_stored or config.fingerprint(summary.code) == fingerprint:
        return None
    for key in ("model", "training", "seed", "tokenizer", "tokens"):
        if getattr(config, key) != getattr(inputs.config, key):
            raise DifferenceError(f"its {key} in {CONFIG} is not that of the study now")
    record = JobRecord.read(folder / RECORD)
    for name in (CONFIG, METRICS, SUMMARY, WEIGHTS):
        if name not in record.outputs or sha256_of(folder / name) != record.outputs[name].sha256:
            raise DifferenceError(f"{name} is not the file that its record describes")
    if summary.processes > 1 or summary.deterministic is False:
        raise DifferenceError("it was trained by several processes, or on a device that does not repeat to the byte")
    return Candidate(run, folder, inputs, summary)


def check_sample(run: PlannedRun, paths: StudyPaths) -> None:
    """Encode the first megabyte of a run's validation text; raise DifferenceError unless the tokens are the same."""
    tokenizer = Tokenizer.from_folder(paths.tokenizer(run.tokenizer))
    with open(paths.text(run.corpus, "valid"), "rb") as file:
        data = file.read(SAMPLE_BYTES)
        if file.read(1):
            data = data[: last_split_point(data, special_bytes(tokenizer.special_tokens))]
    if not data:
        return
    with tempfile.TemporaryDirectory() as folder:
        text, tokens = Path(folder, "sample.txt"), Path(folder, "sample.bin")
        text.write_bytes(data)
        encode_file(text, tokenizer, tokens, tokens.with_suffix(".json"), run.tokenizer)
        encoded = tokens.read_bytes()
    with open(paths.tokens(run.tokenizer, "valid"), "rb") as file:
        if file.read(len(encoded)) != encoded:
            raise DifferenceError(f"a sample of {run.corpus} is encoded to other tokens now")


# --- replay -----------------------------------------------------------------------------------------------------------


class Replay(Trainer):
    """Trainer that makes the first `steps` of a finished run again, and takes the results of the others from `rows`."""

    def __init__(
        self, inputs: RunInputs, scratch: Path, device: torch.device, threads: int, rows: list[Cells], steps: int
    ):
        super().__init__(inputs, StoredRun(scratch), device, threads, math.inf)
        self.recorded, self.replayed_steps = rows, steps
        self.run_again, self.loop.run_chunk = self.loop.run_chunk, self.run_step

    def estimate_loss(self) -> float:
        """Return the loss on the validation windows: of the model in a replayed step, else the recorded one."""
        if self.state.step <= self.replayed_steps:
            return super().estimate_loss()
        cell = self.recorded[self.state.step]["validation_loss"]
        if not cell:
            raise DifferenceError(f"step {self.state.step} has no validation loss, and would have one now")
        self.state.add_validation_loss(float(cell))
        return float(cell)

    def run_step(self, step: int, count: int) -> list[StepResult]:
        """Return the result of one step: made again, or that of its row, judged by the present rule of divergence."""
        if step <= self.replayed_steps:
            return self.run_again(step, 1)
        if step == len(self.recorded):
            raise DifferenceError(f"it has {step - 1} steps, and would have more now")
        loss, norm = (np.float32(self.recorded[step][name] or "nan") for name in ("train_loss", "grad_norm"))
        monitor = self.loop.monitor
        tensors = [torch.tensor(value, device=self.device) for value in (loss, norm)]
        monitor.check_finite(*tensors)
        monitor.check_loss(step, tensors[0])
        return [StepResult(float(loss), float(norm), bool(monitor.diverged))]


def replay(candidate: Candidate, steps: int, device_name: str | None, store: Path) -> None:
    """Train the first `steps` of a run again and judge all of it; raise DifferenceError at the first difference."""
    recorded = read_rows((candidate.folder / METRICS).read_text(encoding="utf-8").splitlines())
    execution, inputs = candidate.execution, candidate.inputs
    with acquire_device(device_name) as device, tempfile.TemporaryDirectory() as scratch:
        set_deterministic(execution.threads, device)
        trainer = Replay(inputs, Path(scratch), device, execution.threads, recorded, steps)
        present = trainer.loop.choose_execution(execution, StoredRun(store / "replay").compiled)
        if present != execution:
            raise DifferenceError(f"it was trained with {execution}, and would be with {present} here")
        trainer.state.execution = execution
        trainer.train_steps(StopGuard())
        compare_rows(recorded[:-1], read_rows(trainer.rows)[:-1])  # the last one lacks the final loss
        if steps < candidate.summary.steps:
            weights = read_weights(candidate.folder / WEIGHTS, weight_shapes(inputs.config.model))
            trainer.model.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()})
        trainer.finish(trainer.evaluate_whole_split(StopGuard()))
        compare_files(candidate.folder, Path(scratch))


def read_rows(lines: Sequence[str]) -> list[Cells]:
    """Return the rows of metrics.csv without the times."""
    return [{name: cell for name, cell in row.items() if name != "wall_seconds"} for row in csv.DictReader(lines)]


def compare_rows(old: Sequence[Cells], new: Sequence[Cells]) -> None:
    """Raise DifferenceError unless rows of metrics.csv are the same."""
    for first, second in zip_longest(old, new, fillvalue=Cells()):
        if first != second:
            name = next(name for name in first | second if first.get(name) != second.get(name))
            step, was, now = (first or second)["step"], first.get(name), second.get(name)
            raise DifferenceError(f"{name} of step {step} was {was}, and is {now} now")


def compare_files(old: Path, new: Path) -> None:
    """Raise DifferenceError unless two folders have the same metrics, weights and summary, but for the times."""
    rows = [read_rows((folder / METRICS).read_text(encoding="utf-8").splitlines()) for folder in (old, new)]
    compare_rows(*rows)
    if (old / WEIGHTS).read_bytes() != (new / WEIGHTS).read_bytes():
        raise DifferenceError(f"{WEIGHTS} would have other bytes")
    first, second = (RunSummary.read(folder / SUMMARY).model_dump(exclude=MEASURED) for folder in (old, new))
    # Read from the recorded rows, which have 9 digits.
    for summary in (first, second):
        summary["best_validation_loss"] = metric_cell(summary["best_validation_loss"])
    for name in first:
        if first[name] != second[name]:
            raise DifferenceError(f"{name} was {first[name]}, and is {second[name]} now")


# --- the store --------------------------------------------------------------------------------------------------------


def store(candidates: Sequence[Candidate], results: Path, steps: int) -> None:
    """Copy runs into the store under the present fingerprints, and record their adoption."""
    path, code = StudyPaths(results).adoptions, code_digest("training.run")
    adopted = list(Adoptions.read(path).runs) if path.exists() else []
    for candidate in candidates:
        old, config = candidate.summary.code, candidate.inputs.config
        adopted.append(
            AdoptedRun(
                run=candidate.run.id,
                old_fingerprint=config.fingerprint(old),
                new_fingerprint=config.fingerprint(code),
                old_code={name: digest for name, digest in old.items() if code.get(name) != digest},
                new_code={name: digest for name, digest in code.items() if old.get(name) != digest},
                replayed_run=candidates[0].run.id,
                replayed_steps=steps,
                adopted_at=datetime.now(UTC).isoformat(timespec="seconds"),
            )
        )
    for candidate in candidates:
        stored = StoredRun.of(results, candidate.inputs.fingerprint())
        with stored.locked():
            # The summary, which marks the run as finished, is the last.
            for name in (WEIGHTS, METRICS, SUMMARY):
                copy_atomic(candidate.folder / name, stored.folder / name)
    Adoptions(runs=tuple(adopted)).write(path)
