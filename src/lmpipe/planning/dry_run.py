"""Summary of a dry run: the jobs of each rule, the runs that the store has, and the settings and code that changed."""

import json
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmpipe.errors import InputError
from lmpipe.planning.estimate import equal_runs
from lmpipe.planning.plan import Plan
from lmpipe.planning.stages import STAGES
from lmpipe.provenance.job_records import JobRecord, is_record
from lmpipe.study.experiments import PlannedRun
from lmpipe.study.paths import StudyPaths
from lmpipe.training.run import StoredRun, known_fingerprint

if TYPE_CHECKING:
    from snakemake.workflow import Workflow

    from lmpipe.planning.workflow_log import WorkflowJob

MAX_NAMES = 6


def print_jobs(jobs: Sequence["WorkflowJob"], workflow: "Workflow") -> None:
    """Print a line for each rule that has jobs: their number, and the reasons."""
    plan: Plan = workflow.globals["PLAN"]
    by_rule = {stage.rule: [job for job in jobs if job.rule == stage.rule] for stage in STAGES}
    print(f"The study {plan.study.study}: {sum(map(len, by_rule.values()))} jobs to do")
    width = max(map(len, by_rule))
    for rule, group in by_rule.items():
        if not group:
            continue
        notes = [describe_training(group, jobs, plan)] if rule == "train" else []
        print(f"  {rule:<{width}} {len(group):>4}  {'; '.join([*notes, describe_reasons(group, workflow)])}")


# --- reasons ----------------------------------------------------------------------------------------------------------


def describe_reasons(jobs: Sequence["WorkflowJob"], workflow: "Workflow") -> str:
    """Return the reasons of a rule's jobs with the number of each, and the names of what changed."""
    reasons: Counter[str] = Counter()
    names: dict[str, None] = {}
    for job in jobs:
        changes = list(changed_names(job, workflow))
        names |= dict.fromkeys(changes)
        reasons[reason_of(job, changes)] += 1
    texts = [reason if len(reasons) == 1 else f"{count} {reason}" for reason, count in reasons.items()]
    more = [f"{len(names) - MAX_NAMES} more"] if len(names) > MAX_NAMES else []
    changed = f" ({', '.join([*list(names)[:MAX_NAMES], *more])})" if names else ""
    return ", ".join(texts) + changed


def reason_of(job: "WorkflowJob", changes: Sequence[str]) -> str:
    """Return a job's reason in a few words; the first that applies, since Snakemake names several."""
    if "Missing output" in job.reason:
        return "new"
    if changes:
        return "changed"
    if "Forced" in job.reason:
        return "forced"
    return "with other options" if "Params have changed" in job.reason else "with new input"


def changed_names(job: "WorkflowJob", workflow: "Workflow") -> Iterator[str]:
    """Yield the names of the settings, modules and packages that differ from those in the job's record."""
    record_path = next((path for path in job.outputs if is_record(posixpath.basename(path))), None)
    if record_path is None or not Path(record_path).exists():
        return
    try:
        record = JobRecord.read(record_path)
    except InputError:  # damaged; the job replaces it
        return
    # A run's overrides repeat settings of its model and training.
    yield from differences(record.settings | {"overrides": None}, current_settings(job, workflow) | {"overrides": None})
    yield from differences(record.code, workflow.get_rule(job.rule).params.get("code", record.code))


def current_settings(job: "WorkflowJob", workflow: "Workflow") -> dict[str, Any]:
    """Return the settings that a job's record would have now."""
    from snakemake.iocontainers import Wildcards

    if job.rule == "train":  # its rule leaves out defaults
        return planned_run(job, workflow.globals["PLAN"]).model_dump(mode="json", exclude_none=True)
    settings = workflow.get_rule(job.rule).params.get("settings")
    return json.loads(settings(Wildcards(fromdict=job.wildcards))) if settings else {}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted paths of the values that differ between two blocks.

    >>> list(differences({"model": {"d_ff": 1, "norm": "pre"}}, {"model": {"d_ff": 2, "norm": "pre"}, "seed": 0}))
    ['model.d_ff', 'seed']
    """
    for key in dict.fromkeys([*old, *new]):
        first, second = old.get(key), new.get(key)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            yield from differences(first, second, f"{prefix}{key}.")
        elif first != second:
            yield f"{prefix}{key}"


# --- training ---------------------------------------------------------------------------------------------------------


def planned_run(job: "WorkflowJob", plan: Plan) -> PlannedRun:
    """Return the run of a training job."""
    return plan.runs_by_folder["runs/{experiment}/{run}/seed{seed}".format(**job.wildcards)]


def describe_training(jobs: Sequence["WorkflowJob"], planned: Sequence["WorkflowJob"], plan: Plan) -> str:
    """Return how many of the planned training runs are trained, and how many the run store has or shares.

    A run whose input another job makes may turn out to be in the store, since equal input is the same run.
    """
    paths = StudyPaths(Path("results", plan.study.study))
    made = {output for job in planned for output in job.outputs}
    digests: set[str] = set()
    unknown: list[PlannedRun] = []
    for job in jobs:
        run = planned_run(job, plan)
        digest = None if made.intersection(job.inputs) else known_fingerprint(run, paths.root)
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
