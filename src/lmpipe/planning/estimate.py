"""What a study will cost in all, told before anything is fetched: downloads, disk, memory, training FLOPs and time."""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lmpipe.model.accounting import FLOAT32_BYTES
from lmpipe.planning.cost_model import (
    CHECKPOINT_COPIES,
    CPU_CORE,
    H100,
    RunCost,
    count_memory_bytes,
    merge_memory_bytes,
    other_seconds,
    pretoken_file_bytes,
    run_cost,
    shard_file_bytes,
    split_bytes,
    text_bytes,
    text_seconds,
    token_file_bytes,
)
from lmpipe.planning.plan import Plan, load_plan
from lmpipe.study.corpora import TextFile
from lmpipe.study.experiments import BestOf
from lmpipe.study.planned_run import PlannedRun


def distinct_runs(plan: Plan) -> list[PlannedRun]:
    """The runs that are trained: of equal ones the first, since the store trains each only once."""
    return [runs[0] for runs in equal_runs(plan)]


def equal_runs(plan: Plan) -> list[list[PlannedRun]]:
    """The runs that are trained, each as the list of those that are equal, in the order of the study.

    A run that takes the best rate of a sweep as it is, and changes nothing else, is a member of that sweep, whichever
    one, and is left out.
    """
    sweeps = plan.runs_by_experiment.items()
    everything_else = {name: {settings_without_lr(run) for run in runs} for name, runs in sweeps}
    equal: dict[tuple[str, str | None, float], list[PlannedRun]] = {}
    for run in plan.runs:
        source, factor = rate_of(plan, run)
        if not (factor == 1 and settings_without_lr(run) in everything_else.get(source, ())):
            equal.setdefault((settings_without_lr(run), source, factor), []).append(run)
    return list(equal.values())


def settings_without_lr(run: PlannedRun) -> str:
    """What decides a run's result, but for its peak rate."""
    parts = [run.seed, run.tokenizer, run.model.model_dump(), run.training.model_dump(exclude={"max_lr"})]
    return json.dumps(parts, sort_keys=True)


def rate_of(plan: Plan, run: PlannedRun) -> tuple[str | None, float]:
    """A run's peak rate: the sweep that it is taken from, and the factor; the rate itself where there is no sweep."""
    rate = run.training.max_lr
    if not isinstance(rate, BestOf):
        return None, rate
    source, factor = rate.best_of, rate.factor or 1.0
    if rate.scale is None:
        return source, factor
    # Where a sweep has several batch sizes, the first stands for that of its best run.
    return source, factor * math.sqrt(run.training.batch_size / plan.runs_by_experiment[source][0].training.batch_size)


# --- a study ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """What a study costs in all: `texts` are those that it fetches, `costs` those of the runs that it trains.

    `disk` is in bytes by what they hold, `memory` in bytes by rule. Times leave downloads out.
    """

    study: str
    cores: int
    texts: Sequence[TextFile]
    disk: dict[str, float]
    runs: int
    costs: Sequence[RunCost]
    text_seconds: float
    other_seconds: float
    memory: dict[str, float]

    @property
    def disk_bytes(self) -> float:
        """All that lies on the disk in the end, and the checkpoints on the way there."""
        return sum(self.disk.values())

    @property
    def cpu_training_seconds(self) -> float:
        """Training time on the cores, one run on each."""
        return sum(cost.seconds(CPU_CORE) for cost in self.costs) / self.cores

    @property
    def cpu_seconds(self) -> float:
        """Time without a GPU."""
        return self.cpu_training_seconds + self.text_seconds + self.other_seconds

    @property
    def gpu_training_seconds(self) -> float:
        """Training time on one GPU, run after run."""
        return sum(cost.seconds(H100) for cost in self.costs)

    @property
    def gpu_seconds(self) -> float:
        """Time with one GPU; texts stay on the CPU."""
        return self.gpu_training_seconds + self.text_seconds + self.other_seconds


def estimate(plan: Plan, cores: int) -> Estimate:
    """What a study costs on a machine with so many cores like those measured, from its first job to its last."""
    costs = [run_cost(plan, run) for run in distinct_runs(plan)]
    return Estimate(
        plan.study.study,
        cores,
        list(fetched_texts(plan).values()),
        disk(plan, costs, cores),
        len(plan.runs),
        costs,
        text_seconds(plan),
        other_seconds(plan, len(plan.runs) - len(costs), cores),
        memory(plan, costs),
    )


def fetched_texts(plan: Plan) -> dict[str, TextFile]:
    """The texts that a study fetches, by the path that each is given."""
    return {path: TextFile.model_validate(text) for path, text in plan.downloads().items()}


def disk(plan: Plan, costs: Sequence[RunCost], cores: int) -> dict[str, float]:
    """Bytes by what they hold. Each distinct run lies in the store, too; checkpoints only of the runs under way.

    The shards of tokens lie beside the joined ones until these are finished.
    """
    corpora = plan.study.corpora
    published = [run_cost(plan, run) for run in plan.runs]
    largest = max(cost.model.parameters for cost in costs)
    return {
        "downloads": sum(map(text_bytes, fetched_texts(plan).values())),
        "corpora": sum(sum(split_bytes(corpus)) for corpus in corpora.values()),
        "pre-tokens": sum(map(pretoken_file_bytes, corpora.values())),
        "tokens": sum(token_file_bytes(corpora[corpus], vocab_size) for corpus, vocab_size in plan.tokenizers.values()),
        "shards of tokens": sum(
            shard_file_bytes(corpora[corpus], vocab_size) for corpus, vocab_size in plan.tokenizers.values()
        ),
        "runs": sum(cost.stored_bytes for cost in [*published, *costs]),
        "checkpoints": cores * CHECKPOINT_COPIES * FLOAT32_BYTES * largest,
    }


def memory(plan: Plan, costs: Sequence[RunCost]) -> dict[str, float]:
    """Peak bytes of the largest job of each rule that needs much."""
    corpora = plan.study.corpora
    return {
        "train": max(cost.memory_bytes for cost in costs),
        "train_bpe": max(merge_memory_bytes(corpora[corpus]) for corpus, _ in plan.tokenizers.values()),
        "count_pretokens": max(map(count_memory_bytes, corpora.values())),
    }


# --- in words --------------------------------------------------------------------------------------------------------


def read_plan(path: str) -> Plan:
    """The plan of a study file; raises InputError where it cannot be read or is no study."""
    from lmpipe.study.loader import read_study_file

    return load_plan(read_study_file(path), path)


def humanize_duration(seconds: float) -> str:
    """A time in one unit, as no estimate deserves more.

    >>> humanize_duration(943_000), humanize_duration(9_000), humanize_duration(100), humanize_duration(39.6)
    ('11 days', '2.5 hours', '2 minutes', '40 seconds')
    """
    for size, unit in ((86_400, "days"), (3_600, "hours")):
        if seconds >= 2 * size:
            return f"{float(f'{seconds / size:.2g}'):,g} {unit}"
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if seconds >= 90 else f"{max(1, round(seconds))} second{'' if seconds < 1.5 else 's'}"


def table(found: Estimate) -> str:
    """An estimate as a short table."""
    from lmpipe.io.formatting import format_bytes, format_int, format_number

    disk = ", ".join(f"{name} {format_bytes(size)}" for name, size in found.disk.items() if size)
    flops = sum(cost.training_flops for cost in found.costs)
    checks = sum(cost.evaluation_flops for cost in found.costs)
    rows = {
        "download": amount(found.texts),
        "disk": f"{format_bytes(found.disk_bytes)}: {disk}",
        "training runs": f"{format_int(found.runs)}, of which {format_int(len(found.costs))} differ and are trained: "
        f"{format_int(sum(cost.steps for cost in found.costs))} steps",
        "training FLOPs": f"{format_number(flops)}, and {format_number(checks)} for validation",
        f"time, {format_cores(found.cores)}": f"{humanize_duration(found.cpu_seconds)}: training "
        f"{humanize_duration(found.cpu_training_seconds)}, texts {humanize_duration(found.text_seconds)}, "
        f"the rest {humanize_duration(found.other_seconds)}",
        f"time, one {H100.name}": f"{humanize_duration(found.gpu_seconds)}: training "
        f"{humanize_duration(found.gpu_training_seconds)}, "
        f"texts on the CPU {humanize_duration(found.text_seconds)}, the rest {humanize_duration(found.other_seconds)}",
        "memory of a job": ", ".join(f"{name} {format_bytes(size)}" for name, size in found.memory.items()),
    }
    width = max(map(len, rows))
    lines = [f"{name:<{width}}  {words}" for name, words in rows.items()]
    return "\n".join([f"The study {found.study}, estimated:", *lines, *footnotes(found)])


def footnotes(found: Estimate) -> list[str]:
    """What a reader of the table has to know beside it."""
    notes = ["CPU: measured rates, one run on each core, downloads left out. GPU: assumed rates (config/README.md)."]
    if any(cost.precision == "bfloat16" for cost in found.costs):
        plain = sum(replace(cost, precision="float32").seconds(CPU_CORE) for cost in found.costs) / found.cores
        notes.append(
            "bfloat16 was measured on a CPU with instructions for it (AMX); on one without them it goes many times "
            f"slower than float32, in which training would take about {humanize_duration(plain)}."
        )
    return notes


def amount(texts: Sequence[TextFile]) -> str:
    """How much some texts are, as they are published and as text; those of undeclared size are counted only."""
    from lmpipe.io.formatting import format_bytes, format_int

    declared = [text for text in texts if text_bytes(text)]
    unknown = len(texts) - len(declared)
    sizes = (sum(text.published_bytes or text_bytes(text) for text in declared), sum(map(text_bytes, declared)))
    parts = [f"{format_bytes(sizes[0])} ({format_bytes(sizes[1])} as text)"] if declared else []
    parts += (
        [f"{format_int(unknown)} text{'' if unknown == 1 else 's'} of undeclared size, not counted here"]
        if unknown
        else []
    )
    return " and ".join(parts) or "nothing"


def format_cores(cores: int) -> str:
    """How many cores.

    >>> format_cores(1), format_cores(2)
    ('1 CPU core', '2 CPU cores')
    """
    return f"{cores} CPU core{'' if cores == 1 else 's'}"


def notice(plan: Plan, source: str, cores: int) -> str | None:
    """What a user is told before a study fetches anything; None where every text is there.

    `source` names the study file; texts and free space are looked up from the folder that this process runs in.
    """
    from lmpipe.io.formatting import format_bytes

    missing = [text for path, text in fetched_texts(plan).items() if not Path(path).exists()]
    if not missing:
        return None
    found, free = estimate(plan, cores), shutil.disk_usage(".").free
    there = sum(map(text_bytes, found.texts)) - sum(map(text_bytes, missing))
    lines = [
        f"This study fetches {amount(missing)} to resources/, and needs about {format_bytes(found.disk_bytes)} of disk "
        f"in all (free here: {format_bytes(free)}).",
        f"It takes about {humanize_duration(found.cpu_seconds)} on {format_cores(cores)} like those measured, or "
        f"{humanize_duration(found.gpu_seconds)} with one {H100.name}; `lmpipe estimate {source}` says more.",
    ]
    if (lacking := found.disk_bytes - there - free) > 0:
        lines.append(f"This disk is too small for it: about {format_bytes(lacking)} are missing; make space first.")
    return "\n".join(lines)
