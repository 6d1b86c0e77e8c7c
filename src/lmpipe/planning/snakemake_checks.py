"""Checks when Snakemake starts: its configuration, and settings that would fail late or silently."""

import copy
import os
import re
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from lmpipe.errors import InputError
from lmpipe.planning.estimate import download_notice
from lmpipe.planning.plan import Plan, load_plan
from lmpipe.planning.rule_inputs import or_exit
from lmpipe.planning.stages import records
from lmpipe.planning.text_checks import check_texts
from lmpipe.planning.workflow_call import check_executor
from lmpipe.study.loader import read_study_file

if TYPE_CHECKING:
    from snakemake.scheduling.job_scheduler import JobScheduler
    from snakemake.workflow import Workflow

MAX_JOBS_PER_SECOND = 100  # Snakemake's default; lower limits are kept


def check_call(executor: str = "local") -> None:
    """End the process with a message if an executor is not installed, or if a word after --configfile is no study.

    Profiles call it: Snakemake would stop with its own errors before it reads the Snakefile.
    """
    joined = [word.removeprefix("--configfile=") for word in sys.argv if word.startswith("--configfile=")]
    after = sys.argv[sys.argv.index("--configfile") + 1 :] if "--configfile" in sys.argv else []
    or_exit(check_executor, executor)
    or_exit(read_study_files, [*joined, *takewhile(lambda word: not word.startswith("-"), after)])


def read_study_files(paths: Sequence[str]) -> None:
    """Raise InputError for the first study file that is none; of a later one, a second line says why it was read."""
    for path in paths:
        try:
            read_study_file(path)
        except InputError as error:
            if path == paths[0]:
                raise
            line = f"{path} was read as one more study file, since --configfile takes every word after it: put it last."
            raise InputError(f"{error}\n{line}") from None


def load_config(config: dict[str, Any], study_files: Sequence[str], options: Mapping[str, Any]) -> Plan:
    """Return the plan of Snakemake's configuration: study files, changed by the options of --config.

    Raise InputError, which names --config if the study files alone are valid, or the first file that is not a text.
    """
    source = ", ".join(study_files)
    if options:
        from snakemake.utils import update_config

        unchanged: dict[str, Any] = {}
        with suppress(InputError):
            for path in study_files:
                update_config(unchanged, copy.deepcopy(read_study_file(path)))
            load_plan(unchanged, source)
            source = "--config"
    plan = load_plan(config, source)
    check_texts(plan, source)
    return plan


def notices(plan: Plan, study_files: str, workflow: "Workflow") -> list[str]:
    """Return notices for the user before the first job: downloads, and GPUs without a total."""
    settings = workflow.resource_settings
    asking = [rule for rule, resources in settings.overwrite_resources.items() if "gpu" in resources]
    possible = [
        download_notice(plan, study_files, os.cpu_count() or 1),
        missing_gpu_total_warning(asking if workflow.local_exec else [], settings.resources),
    ]
    return [notice for notice in possible if notice]


def prepare_execution(plan: Plan, workflow: "Workflow") -> None:
    """Raise InputError for an executor that cannot carry out a plan; its settings are known just before the jobs."""
    if not workflow.local_exec:
        check_interpreter(sys.executable)
    remove_high_rate_limit(workflow.scheduler)
    rate = workflow.scheduler.job_rate_limiter
    limits = {"--jobs": workflow.resource_settings.nodes, "--max-jobs-per-timespan": rate and rate.max_jobs}
    check_array_limits(getattr(workflow.executor_settings, "array_jobs", None), limits, max_ready_jobs(plan))


def remove_high_rate_limit(scheduler: "JobScheduler") -> None:
    """Remove a limit of the jobs that start in a timespan if no study meets it, as Snakemake's default, 100 a second.

    With a limit, each job that ends has Snakemake (9.27) look at all jobs once more in every timespan, until the study
    is over. After 108 jobs of the laptop study that took half of a core.
    """
    rate = scheduler.job_rate_limiter
    if rate and rate.max_jobs >= MAX_JOBS_PER_SECOND * rate.timespan:
        scheduler.job_rate_limiter = None


def max_ready_jobs(plan: Plan) -> int:
    """Return an upper bound on the jobs of a plan that are ready at once: all with a record, and all shards."""
    shards = sum(plan.study.corpora[plan.tokenizers[name][0]].num_shards for name in plan.sharded_tokenizers())
    return len(records(plan)) + shards


def check_array_limits(array_rules: str | None, limits: Mapping[str, int | None], num_jobs: int) -> None:
    """Raise InputError for limits under which jobs of an array would wait forever.

    `array_rules` names the rules that are submitted as job arrays; `limits` maps options to the number of jobs that
    they submit at once. snakemake-executor-plugin-slurm 2.8.0 (snakemake/snakemake-executor-plugin-slurm, job arrays)
    loses the ready jobs of such a rule if a limit holds others of the rule back. This check can go with the first
    version that submits partial arrays.
    """
    for option, limit in limits.items():
        if array_rules and limit is not None and limit < num_jobs:
            raise InputError(
                option,
                f"is {limit}, fewer than the {num_jobs} jobs of this study, while jobs are submitted as arrays",
                "leave it as in profiles/slurm, or add --slurm-array-jobs none",
            )


def check_interpreter(executable: str) -> None:
    """Raise InputError for a Python whose path Snakemake (9.27) writes unquoted into the scripts of cluster jobs."""
    if shlex.quote(executable) != executable:
        raise InputError(
            executable, "has a space or a quote in its path, which cluster jobs cannot use", "move the environment"
        )


def missing_gpu_total_warning(rules: Collection[str], totals: Collection[str]) -> str | None:
    """Return a warning if rules ask for the resource `gpu` on this machine and no total limits it.

    `totals` are the resources with a total.
    """
    if not rules or "gpu" in totals:
        return None
    return (
        f"{', '.join(sorted(rules))}: jobs ask for a gpu, but there is no total, since --resources replaces that "
        "of the profile. More jobs than GPUs may start; add gpu=N to --resources."
    )


def requested_gpus(gpu: int | str | None, gres: str | None) -> int:
    """Return the GPUs that a job asks for by `gpu: 2`, or by `gres: "gpu:2"` or `"gpu:a100:2"`; 1 without either.

    Several kinds of GPU in gres add up (sbatch(1), --gres).
    """
    kinds = [kind for kind in (gres or "").split(",") if kind.strip().partition(":")[0] == "gpu"]
    counts = [re.search(r":([0-9]+)$", kind.strip().partition("(")[0]) for kind in kinds]
    return max(1, int(float(gpu or 0)), sum(int(count[1]) if count else 1 for count in counts))
