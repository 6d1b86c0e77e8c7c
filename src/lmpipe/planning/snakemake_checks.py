"""What Snakemake was told by a profile or on its command line, where that would do harm without a word."""

import re
import shlex
from collections.abc import Collection, Sequence

from lmpipe.errors import InputError
from lmpipe.planning.plan import Plan
from lmpipe.planning.stages import records_of

# Options of calls that change nothing, and need not wait for one that does.
LOOKING = {
    "--dry-run",
    "--dryrun",
    "--lint",
    "--list-rules",
    "--list-target-rules",
    "--dag",
    "--rulegraph",
    "--filegraph",
}
LOOKING |= {"--d3dag", "--summary", "--detailed-summary", "--report"}
# Their letters, and those of other options without a value, which may stand together: -nq.
LOOKING_LETTERS, PLAIN_LETTERS = "nlSD", "pqFfkt"


def only_looks(arguments: Sequence[str]) -> bool:
    """Whether a call of snakemake changes nothing: a dry run, a list or a picture.

    >>> only_looks(["-nq", "report"]), only_looks(["-c", "2", "-F"]), only_looks(["--report=a.zip"])
    (True, False, True)
    """
    for word in arguments:
        if word.partition("=")[0] in LOOKING:
            return True
        if re.fullmatch(f"-[{PLAIN_LETTERS}]*[{LOOKING_LETTERS}].*", word):
            return True
    return False


def max_ready_jobs(plan: Plan) -> int:
    """More jobs than a study can have ready at once: all that leave a record, and every shard of each tokenizer."""
    shards = sum(plan.study.corpora[plan.tokenizers[name][0]].shards for name in plan.sharded_tokenizers())
    return sum(map(len, records_of(plan).values())) + shards


def check_array_limits(arrays: str | None, limits: dict[str, int | None], jobs: int) -> None:
    """Refuse limits under which jobs of an array would wait for ever; raises InputError.

    `arrays` names the rules whose jobs travel as arrays, `limits` the options that bound how many jobs are submitted at
    once (None: no bound). snakemake-executor-plugin-slurm 2.8.0 forgets the ready jobs of such a rule where others of
    that rule are held back by a limit, and Snakemake then waits for them without end.
    """
    for option, limit in limits.items():
        if arrays and limit is not None and limit < jobs:
            raise InputError(
                f"{option}: expected at least {jobs} (the jobs of this study) where jobs travel as arrays, found "
                f"{limit}; leave it as profiles/slurm has it, or add --slurm-array-jobs none"
            )


def check_interpreter(executable: str) -> None:
    """Refuse an environment whose path Snakemake (9.27) would put unquoted into the scripts of a cluster's jobs."""
    if shlex.quote(executable) != executable:
        raise InputError(
            f"{executable}: expected a path without blanks and quotes, which Snakemake submits as it is, found some; "
            "make the environment elsewhere"
        )


def missing_gpu_total_warning(asking: Collection[str], totals: Collection[str]) -> str | None:
    """What to tell a user whose jobs ask for GPUs on this machine, where no total says how many there are.

    `asking` are the rules with a resource `gpu`, `totals` the resources that have a total.
    """
    if not asking or "gpu" in totals:
        return None
    return (
        f"{', '.join(sorted(asking))}: a gpu is asked for, but there is no total: --resources replaces the profile's "
        "whole block. More jobs than GPUs may start, and those without one wait; add gpu=N to --resources."
    )


def requested_gpus(gpu: int | str | None, gres: str | None) -> int:
    """How many GPUs a job asks for by its resources `gpu` or `gres`, as `gpu:2` or `gpu:a100:2`; 1 without any.

    A cluster takes one of the two; where gres names several kinds of GPU, they add up (sbatch(1), --gres).
    """
    kinds = [kind for kind in (gres or "").split(",") if kind.strip().partition(":")[0] == "gpu"]
    counts = [re.search(r":([0-9]+)$", kind.strip().partition("(")[0]) for kind in kinds]
    return max(1, int(float(gpu or 0)), sum(int(count[1]) if count else 1 for count in counts))
