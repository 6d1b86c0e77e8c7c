"""Estimate of a study's cost before it starts: downloads, disk, memory, training FLOPs and time."""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmpipe.io.formatting import format_bytes, format_int, format_number
from lmpipe.model.accounting import FLOAT32_BYTES
from lmpipe.planning import cost_model
from lmpipe.planning.cost_model import CPU_CORE, H100, HardwareProfile, run_cost, split_bytes
from lmpipe.planning.plan import Plan
from lmpipe.study.corpora import DatasetCorpus
from lmpipe.study.experiments import BestOf, PlannedRun
from lmpipe.study.text_files import TextFile


def distinct_runs(plan: Plan) -> list[PlannedRun]:
    """Return the runs that are trained: the first of equal ones, since the store trains each only once."""
    return [runs[0] for runs in equal_runs(plan)]


def equal_runs(plan: Plan) -> list[list[PlannedRun]]:
    """Group the runs of a plan by equal settings, in the order of the study; each group is trained once.

    A run that takes the best rate of a sweep unchanged, and changes nothing else, equals a run of the sweep and is left
    out.
    """
    sweeps = plan.runs_by_experiment.items()
    swept = {name: {settings_without_lr(run) for run in runs} for name, runs in sweeps}
    equal: dict[tuple[str, str | None, float], list[PlannedRun]] = {}
    for run in plan.runs:
        source, factor = lr_source(plan, run)
        if not (factor == 1 and settings_without_lr(run) in swept.get(source, ())):
            equal.setdefault((settings_without_lr(run), source, factor), []).append(run)
    return list(equal.values())


def settings_without_lr(run: PlannedRun) -> str:
    """Return the settings that decide a run's result, without its learning rate."""
    settings = [run.seed, run.tokenizer, run.model.model_dump(), run.training.model_dump(exclude={"max_lr"})]
    return json.dumps(settings, sort_keys=True)


def lr_source(plan: Plan, run: PlannedRun) -> tuple[str | None, float]:
    """Return the sweep that a run's learning rate is taken from, and the factor; else None and the rate."""
    rate = run.training.max_lr
    if not isinstance(rate, BestOf):
        return None, rate
    # An interpolated rate is none of the sweep's own, as a rule.
    source, factor = rate.best_of + (" interpolated" if rate.interpolate else ""), rate.factor or 1.0
    if rate.scale is None:
        return source, factor
    # If a sweep has several batch sizes, assume the first for its best run.
    return source, factor * math.sqrt(
        run.training.batch_size / plan.runs_by_experiment[rate.best_of][0].training.batch_size
    )


class Estimate:
    """Estimated cost of a study on a machine with `cores` CPU cores. Times are without downloads.

    `texts` are those to download, `costs` those of the runs to train, of which equal ones count once; `disk` maps kinds
    of files to bytes, `memory` the rules that need much memory to the peak bytes of their largest job.
    """

    def __init__(self, plan: Plan, cores: int):
        self.plan, self.cores = plan, cores
        self.texts = list(plan.downloads().values())
        self.costs = [run_cost(plan, run) for run in distinct_runs(plan)]
        self.text_seconds = cost_model.text_seconds(plan)
        self.fixed_seconds = cost_model.fixed_seconds(plan, len(plan.runs) - len(self.costs), cores)
        other_seconds = self.text_seconds + self.fixed_seconds
        # One run on each CPU core, or one at a time on a GPU; texts are processed on the CPU.
        self.cpu_training_seconds = self.training_seconds(CPU_CORE) / cores
        self.gpu_training_seconds = self.training_seconds(H100)
        self.cpu_seconds = self.cpu_training_seconds + other_seconds
        self.gpu_seconds = self.gpu_training_seconds + other_seconds
        corpora = plan.study.corpora
        tokenizers = [(corpora[corpus], vocab_size) for corpus, vocab_size in plan.tokenizers.values()]
        largest = max(cost.model.parameters for cost in self.costs)
        self.disk = {
            "downloads": declared_bytes(self.texts),
            "corpora": sum(sum(split_bytes(corpus)) for corpus in corpora.values()),
            "a text to split": max(map(cost_model.joined_bytes, corpora.values())),
            "pre-tokens": sum(map(cost_model.pretoken_file_bytes, corpora.values())),
            "tokens": sum(cost_model.token_file_bytes(*tokenizer) for tokenizer in tokenizers),
            "shards of tokens": sum(cost_model.shard_file_bytes(*tokenizer) for tokenizer in tokenizers),
            # Each distinct run is also in the store.
            "runs": sum(cost.stored_bytes for cost in [*(run_cost(plan, run) for run in plan.runs), *self.costs]),
            "checkpoints": cores * cost_model.CHECKPOINT_COPIES * FLOAT32_BYTES * largest,
        }
        self.disk_bytes = sum(self.disk.values())
        self.memory = {
            "train": max(cost.memory_bytes for cost in self.costs),
            "train on a GPU": max(cost.gpu_memory_bytes for cost in self.costs),
            "train_bpe": max(cost_model.merge_memory_bytes(corpus) for corpus, _ in tokenizers),
            "count_pretokens": max(map(cost_model.count_memory_bytes, corpora.values())),
        }

    def training_seconds(self, hardware: HardwareProfile, **changes: Any) -> float:
        """Return the training time on one device, one run after the other, with some `changes` of every run."""
        return sum(replace(cost, **changes).seconds(hardware) for cost in self.costs)


# --- text ------------------------------------------------------------------------------------------------------------


def humanize_duration(seconds: float) -> str:
    """Return a time in one unit, with at most two digits.

    >>> humanize_duration(943_000), humanize_duration(9_000), humanize_duration(100), humanize_duration(39.6)
    ('11 days', '2.5 hours', '2 minutes', '40 seconds')
    """
    for size, unit in ((86_400, "days"), (3_600, "hours")):
        if seconds >= 2 * size:
            return f"{float(f'{seconds / size:.2g}'):,g} {unit}"
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if seconds >= 90 else f"{max(1, round(seconds))} second{'' if seconds < 1.5 else 's'}"


def format_estimate(estimate: Estimate) -> str:
    """Return an estimate as a short table."""
    disk = ", ".join(f"{name} {format_bytes(size)}" for name, size in estimate.disk.items() if size)
    runs, trained = format_int(len(estimate.plan.runs)), format_int(len(estimate.costs))
    steps, flops, evaluation = (
        sum(getattr(cost, name) for cost in estimate.costs) for name in ("steps", "training_flops", "evaluation_flops")
    )
    cpu, gpu = map(humanize_duration, (estimate.cpu_seconds, estimate.gpu_seconds))
    texts, fixed = map(humanize_duration, (estimate.text_seconds, estimate.fixed_seconds))
    cpu_training, gpu_training = map(humanize_duration, (estimate.cpu_training_seconds, estimate.gpu_training_seconds))
    rows = {
        "download": format_downloads(estimate.texts),
        "disk": f"{format_bytes(estimate.disk_bytes)}: {disk}",
        "training runs": f"{runs}, of which {trained} differ and are trained: {format_int(steps)} steps",
        "training FLOPs": f"{format_number(flops)}, and {format_number(evaluation)} for validation",
        f"time, {format_cores(estimate.cores)}": f"{cpu}: training {cpu_training}, texts {texts}, the rest {fixed}",
        f"time, one {H100.name}": f"{gpu}: training {gpu_training}, texts on the CPU {texts}, the rest {fixed}",
        "memory of a job": ", ".join(f"{name} {format_bytes(size)}" for name, size in estimate.memory.items()),
    }
    width = max(map(len, rows))
    lines = [f"{name:<{width}}  {text}" for name, text in rows.items()]
    return "\n".join([f"The study {estimate.plan.study.study}, estimated:", *lines, *footnotes(estimate)])


def footnotes(estimate: Estimate) -> list[str]:
    """Return the notes below the table."""
    notes = ["CPU: measured rates, one run on each core, without downloads. GPU: assumed rates (config/README.md)."]
    corpora = estimate.plan.study.corpora.items()
    if names := [name for name, corpus in corpora if isinstance(corpus, DatasetCorpus) and not sum(corpus.split_bytes)]:
        notes.append(f"Not counted: {', '.join(names)}, since the size of a dataset on the Hub is not known here.")
    if any(cost.precision == "bfloat16" for cost in estimate.costs):
        plain = estimate.training_seconds(CPU_CORE, precision="float32") / estimate.cores
        notes.append(
            "bfloat16 was measured on a CPU with AMX; without it, bfloat16 is many times slower than float32, in which "
            f"training takes about {humanize_duration(plain)}."
        )
    return notes


def format_downloads(texts: Sequence[TextFile]) -> str:
    """Return the sizes of texts, as published and as text, and the number of those without a declared size."""
    declared = [text for text in texts if text.declared_bytes]
    undeclared = len(texts) - len(declared)
    phrases = []
    if declared:
        published = sum(text.published_bytes or text.declared_bytes for text in declared)
        phrases.append(f"{format_bytes(published)} ({format_bytes(declared_bytes(declared))} as text)")
    if undeclared:
        plural = "" if undeclared == 1 else "s"
        phrases.append(f"{format_int(undeclared)} text{plural} of undeclared size, not counted here")
    return " and ".join(phrases) or "nothing"


def declared_bytes(texts: Sequence[TextFile]) -> int:
    """Return the declared size of texts to download."""
    return sum(text.declared_bytes for text in texts)


def format_cores(cores: int) -> str:
    """Return a number of CPU cores with its noun.

    >>> format_cores(1), format_cores(2)
    ('1 CPU core', '2 CPU cores')
    """
    return f"{cores} CPU core{'' if cores == 1 else 's'}"


def download_notice(plan: Plan, source: str, cores: int) -> str | None:
    """Return the notice before downloads, with the cost of the study; None if all texts are present.

    `source` names the study file. Texts and free disk are those of the working directory.
    """
    missing = [text for path, text in plan.downloads().items() if not Path(path).exists()]
    if not missing:
        return None
    cost, free = Estimate(plan, cores), shutil.disk_usage(".").free
    present = declared_bytes(cost.texts) - declared_bytes(missing)
    lines = [
        f"This study downloads {format_downloads(missing)} to resources/ and needs about "
        f"{format_bytes(cost.disk_bytes)} of disk ({format_bytes(free)} are free).",
        f"It takes about {humanize_duration(cost.cpu_seconds)} on {format_cores(cores)}, or "
        f"{humanize_duration(cost.gpu_seconds)} with one {H100.name}; see `lmpipe estimate {source}`.",
    ]
    if (missing_bytes := cost.disk_bytes - present - free) > 0:
        lines.append(f"This disk is too small: about {format_bytes(missing_bytes)} are missing. Free some space first.")
    return "\n".join(lines)
