"""Summary of a dry run: the jobs of each rule, the runs that the store has, and the settings and code that changed."""

import ast
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmpipe.planning.estimate import equal_runs
from lmpipe.planning.plan import Plan
from lmpipe.planning.stages import STAGES
from lmpipe.study.experiments import PlannedRun
from lmpipe.study.paths import StudyPaths
from lmpipe.training.run import StoredRun, known_fingerprint

if TYPE_CHECKING:
    from snakemake.jobs import Job
    from snakemake.workflow import Workflow

MAX_NAMES = 6


def print_jobs(workflow: "Workflow") -> None:
    """Print a line for each rule that has jobs: their number, and the reasons."""
    plan: Plan = workflow.globals["PLAN"]
    jobs = sorted(workflow.dag.needrun_jobs(exclude_finished=False), key=lambda job: list(job.output))
    by_rule = {stage.rule: [job for job in jobs if job.rule.name == stage.rule] for stage in STAGES}
    num_jobs = sum(map(len, by_rule.values()))
    print(f"The study {plan.study.study}: {num_jobs} {'job' if num_jobs == 1 else 'jobs'} to do")
    width = max(map(len, by_rule))
    for rule, group in by_rule.items():
        if group:
            notes = [describe_training(group, jobs, plan)] if rule == "train" else []
            print(f"  {rule:<{width}} {len(group):>4}  {'; '.join([*notes, describe_reasons(group, workflow)])}")


def describe_reasons(jobs: Sequence["Job"], workflow: "Workflow") -> str:
    """Return the reasons of a rule's jobs with the number of each, and the names of what changed."""
    reasons: Counter[str] = Counter()
    names: dict[str, None] = {}
    for job in jobs:
        change, reason = workflow.persistence.params_changed(job), workflow.dag.reason(job)
        names |= dict.fromkeys(changed_names(job.params, change.only_old, change.only_new))
        # The first that applies, since Snakemake names several.
        known = {"new": reason.missing_output, "changed": change, "forced": reason.forced, "with new input": True}
        reasons[next(text for text, applies in known.items() if applies)] += 1
    texts = [reason if len(reasons) == 1 else f"{count} {reason}" for reason, count in reasons.items()]
    more = [f"{len(names) - MAX_NAMES} more"] if len(names) > MAX_NAMES else []
    changed = f" ({', '.join([*list(names)[:MAX_NAMES], *more])})" if names else ""
    return ", ".join(texts) + changed


def changed_names(params: Mapping[str, Any], old: Iterable[str], new: Iterable[str]) -> Iterator[str]:
    """Yield the names of a job's parameters that changed since it last ran; those in it of a block of settings or code.

    `old` and `new` are what Snakemake recorded and what it would record now, without what is equal: the repr of each
    parameter.
    """
    recorded = list(map(ast.literal_eval, sorted(old)))
    for name, value in params.items():
        if repr(value) in new:
            block = read_block(value)
            earlier = [read_block(other) for other in recorded if type(other) is type(value)]
            changes = [change for other in earlier if block and other for change in differences(other, block)]
            yield from [path for path, *_ in changes] or [name]


def read_block(value: Any) -> dict[str, Any]:
    """Return a parameter that has several named values; empty for another one."""
    if isinstance(value, str) and value.startswith("{"):
        value = json.loads(value)
    # A run's overrides repeat settings of its model and training.
    return {key: inner for key, inner in value.items() if key != "overrides"} if isinstance(value, dict) else {}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted path of each value that differs between two blocks, with both values; None if it is missing.

    >>> list(differences({"model": {"d_ff": 1, "norm": "pre"}}, {"model": {"d_ff": 2, "norm": "pre"}, "seed": 0}))
    [('model.d_ff', 1, 2), ('seed', None, 0)]
    """
    for key in dict.fromkeys([*old, *new]):
        first, second = old.get(key), new.get(key)
        blocks = [value or {} for value in (first, second)]
        if any(blocks) and all(isinstance(block, Mapping) for block in blocks):
            yield from differences(*blocks, f"{prefix}{key}.")
        elif first != second:
            yield f"{prefix}{key}", first, second


def describe_training(jobs: Sequence["Job"], planned: Sequence["Job"], plan: Plan) -> str:
    """Return how many of the planned training runs are trained, and how many the run store has or shares.

    A run whose input another job makes may turn out to be in the store, since equal input is the same run.
    """
    paths = StudyPaths(Path("results", plan.study.study))
    made = {output for job in planned for output in job.output}
    digests: set[str] = set()
    unknown: list[PlannedRun] = []
    for job in jobs:
        run = plan.runs_by_folder["runs/{experiment}/{run}/seed{seed}".format(**job.wildcards_dict)]
        digest = None if made.intersection(job.input) else known_fingerprint(run, paths.root)
        if digest is None:
            unknown.append(run)
        else:
            digests.add(digest)
    to_train = sum(not StoredRun(paths.store / digest).is_finished for digest in digests)
    names = {run.id for run in unknown}
    to_train += sum(any(run.id in names for run in group) for group in equal_runs(plan))
    bound = "up to " if unknown and paths.store.exists() else ""
    copied = f", {len(jobs) - to_train} from the store" if to_train < len(jobs) else ""
    return f"{bound}{to_train} to train{copied}"
