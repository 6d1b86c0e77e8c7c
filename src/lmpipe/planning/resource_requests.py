"""Resource requests: memory and run time of each job on a cluster, and the scheduler's priorities."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from lmpipe.planning import cost_model
from lmpipe.planning.cost_model import CPU_CORE, MEMORY, TEXTS, run_cost, split_bytes
from lmpipe.planning.plan import Plan
from lmpipe.study.corpora import Corpus, FilesCorpus
from lmpipe.study.experiments import PlannedRun

# A request is 1.5 times the estimated memory, and three times the estimated time on one core.
MEMORY_MARGIN = 1.5
TIME_MARGIN = 3
MIN_MINUTES = 60
# Many clusters grant no more than a week; a training run that is stopped then continues from its checkpoint.
MAX_MINUTES = 7 * 24 * 60


@dataclass(frozen=True)
class ResourceRequest:
    """Memory in MB (1e6 bytes) and run time in minutes, as whole numbers."""

    mem_mb: int
    runtime: int


def make_request(memory_bytes: float, seconds: float, min_mb: int) -> ResourceRequest:
    """Return the request of a job with these estimates.

    >>> make_request(3e9, 36_000, min_mb=2000)
    ResourceRequest(mem_mb=4500, runtime=1800)
    """
    minutes = max(MIN_MINUTES, math.ceil(TIME_MARGIN * seconds / 60))
    return ResourceRequest(max(min_mb, math.ceil(MEMORY_MARGIN * memory_bytes / 1e6)), min(MAX_MINUTES, minutes))


def train_request(plan: Plan, run: PlannedRun) -> ResourceRequest:
    """Return the request of a training run on a CPU; its least memory has room for a GPU's driver."""
    cost = run_cost(plan, run)
    return make_request(cost.memory_bytes, cost.seconds(CPU_CORE), min_mb=4000)


def text_requests(corpus: Corpus) -> dict[str, ResourceRequest]:
    """Return the requests of a corpus's jobs by rule: for one shard, for the merges, or for encoding a text.

    Encoding and concatenating need the memory of a process alone.
    """
    train_bytes, valid_bytes = split_bytes(corpus)
    shard_bytes, encode_rate = train_bytes / corpus.num_shards, TEXTS["encode_bytes_per_second"]
    count_seconds = shard_bytes / TEXTS["count_bytes_per_second"]
    return {
        "count_pretokens": make_request(cost_model.count_memory_bytes(corpus), count_seconds, min_mb=1000),
        "train_bpe": make_request(cost_model.merge_memory_bytes(corpus), cost_model.merge_seconds(corpus), min_mb=2000),
        "encode_corpus": make_request(0, (train_bytes + valid_bytes) / encode_rate, min_mb=1000),
        "encode_shard": make_request(0, shard_bytes / encode_rate, min_mb=1000),
        "concat_tokens": make_request(0, train_bytes / TEXTS["copy_bytes_per_second"], min_mb=1000),
    }


def make_corpus_request(corpus: Corpus) -> ResourceRequest:
    """Return the request for making a corpus, which keeps an index of the documents that it splits."""
    is_by_line = isinstance(corpus, FilesCorpus) and corpus.documents == "lines"
    documents = cost_model.joined_bytes(corpus) / TEXTS["line_bytes" if is_by_line else "document_bytes"]
    seconds = sum(split_bytes(corpus)) * sum(1 / TEXTS[f"{step}_bytes_per_second"] for step in ("copy", "overlap"))
    return make_request(MEMORY["index_bytes_per_document"] * documents, seconds, min_mb=1000)


def yardsticks_request(corpus: Corpus, budgets: Sequence[int]) -> ResourceRequest:
    """Return the request for the yardsticks of a corpus at some numbers of tokens."""
    seconds = sum(budgets) * TEXTS["ngram_seconds_per_token"]
    return make_request(MEMORY["ngram_bytes_per_token"] * max(budgets), seconds, min_mb=2000)


def critical_path_seconds(plan: Plan) -> dict[str, float]:
    """Return, for each experiment, the seconds on one core of the longest chain of runs that wait for its best rate."""
    waiting: dict[str, list[PlannedRun]] = {name: [] for name in plan.runs_by_experiment}
    for run in plan.runs:
        if run.best_of:
            waiting[run.best_of].append(run)

    @cache
    def chain(experiment: str) -> float:
        runs = waiting[experiment]
        return max((run_cost(plan, run).seconds(CPU_CORE) + chain(run.experiment) for run in runs), default=0.0)

    return {name: chain(name) for name in waiting}
