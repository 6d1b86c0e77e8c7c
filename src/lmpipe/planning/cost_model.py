"""What texts and training runs cost before they are made: bytes, FLOPs, memory and time.

Training follows from the closed forms of lmpipe.model.accounting and lmpipe.model.activation_memory. What cannot be
derived is measured
or assumed; it stands here and nowhere else, so that it can be measured again.
"""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lmpipe.model.accounting import FLOAT32_BYTES, count_parameters, forward_flops
from lmpipe.model.activation_memory import step_memory, validation_bytes
from lmpipe.planning.plan import Plan
from lmpipe.study.corpora import Corpus, StoriesCorpus, TextFile, UrlCorpus
from lmpipe.study.planned_run import PlannedRun
from lmpipe.study.settings import EVAL_BATCH_TOKENS, ModelConfig


@dataclass(frozen=True)
class Device:
    """What a device sustains in training.

    FLOP/s of matrix multiplies by precision, the bytes of weights, gradients, moments and activations that it deals
    with in a second, and the seconds that each layer takes in a step however small it is; a step takes the sum.
    """

    name: str
    flops_per_second: dict[str, float]
    bytes_per_second: float
    layer_seconds: float


# Fitted on a 2-core Intel Xeon (AVX-512, and AMX for bfloat16), a run on each core, to steps of models from that of
# config/smoke.yaml to that of config/cs336.yaml. tests/test_costs.py says how far they agree.
CPU_CORE = Device("CPU core", {"float32": 185e9, "bfloat16": 320e9}, 2.2e9, 0.4e-3)
# Assumed, not measured: 20 % of an H100's peak (67 TFLOP/s in float32, 989 in bfloat16), and so many bytes a second
# that the handout's own run (327,680,000 tokens, batch size 32) takes the 35 minutes that it expects.
H100 = Device("H100", {"float32": 13.4e12, "bfloat16": 198e12}, 20e9, 0.0)

# Measured on one core of a 2-core AMD EPYC, on 100 MB of web text; stories go two or three times as fast.
COPIED_BYTES_PER_SECOND = 110e6
COUNTED_BYTES_PER_SECOND = 120e6
ENCODED_BYTES_PER_SECOND = 85e6
MERGE_SECONDS_PER_PRETOKEN = 1.5e-6
# Text that is made and not fetched: stories of the grammar, and docstrings read out of packages.
MADE_BYTES_PER_SECOND = {"stories": 6e6, "docstrings": 2e6}
# Starting a run until it trains, taking a run from the store, and any other job; and the two jobs that measure alone.
START_SECONDS = 3.0
CACHE_HIT_SECONDS = 0.5
JOB_SECONDS = 1.7
EXCLUSIVE_JOB_SECONDS = 15.0
# Jobs that every study has once: unicode, toy, texts, tokenizers, the best of a sweep, findings, report, provenance.
FIXED_JOBS = 10
# Memory of a process before it computes, the room that its allocator keeps between the tensors of a step, as a share of
# them, and memory for each unique pre-token that it holds.
TRAINING_PROCESS_BYTES = 295e6
ALLOCATOR_SHARE = 0.2
TEXT_PROCESS_BYTES = 60e6
COUNT_BYTES_PER_PRETOKEN = 250
MERGE_BYTES_PER_PRETOKEN = 300
STORED_BYTES_PER_PRETOKEN = 20
# Sizes that are known only once a corpus is made: a story of the grammar, the docstrings of a package.
STORY_BYTES = 922
PACKAGE_BYTES = 3_100_000
EMBEDDED_VALID_SHARE = 0.01
METRICS_BYTES_PER_STEP = 75
# Two checkpoints are kept while a run is under way, each with the weights and two moments.
CHECKPOINT_COPIES = 6
UINT16_IDS = 1 << 16


@dataclass(frozen=True)
class CorpusStats:
    """What is known of a kind of text: how it compresses at one vocabulary, and how many unique pre-tokens it has.

    The unique pre-tokens of a text grow as a power of its length (Heaps' law).
    """

    bytes_per_token: float
    vocab_size: int
    unique_pretokens: int
    text_bytes: int
    exponent: float

    def tokens(self, text_bytes: int, vocab_size: int) -> int:
        """About how many tokens a text has; the bytes of a token grow with the logarithm of the vocabulary."""
        return round(text_bytes / self.bytes_per_token * math.log(self.vocab_size) / math.log(vocab_size))

    def unique(self, text_bytes: int) -> int:
        """About how many unique pre-tokens a text has."""
        return round(self.unique_pretokens * (text_bytes / self.text_bytes) ** self.exponent)


# TinyStories and the OpenWebText sample; the exponents from these and from 8.6 MB and 4.1 MB of them.
SIMPLE_TEXT = CorpusStats(4.116, 10_000, 59_933, 2_227_753_162, 0.32)
WEB_TEXT = CorpusStats(4.371, 32_000, 6_602_749, 11_920_511_059, 0.61)


# --- texts -----------------------------------------------------------------------------------------------------------


def corpus_stats(corpus: Corpus) -> CorpusStats:
    """The kind of text that a corpus most resembles."""
    return SIMPLE_TEXT if corpus.stands_for == "TinyStories" else WEB_TEXT


def split_bytes(corpus: Corpus) -> tuple[int, int]:
    """The bytes of a corpus's training and validation text, as far as they are known."""
    if isinstance(corpus, UrlCorpus):
        size = sum(map(text_bytes, corpus.files))
        held_out = sum(map(text_bytes, corpus.valid)) if corpus.valid else round(size * corpus.valid_fraction)
        return (size, held_out) if corpus.valid else (size - held_out, held_out)
    is_stories = isinstance(corpus, StoriesCorpus)
    size = STORY_BYTES * corpus.documents if is_stories else PACKAGE_BYTES * len(corpus.packages)
    held_out = round(size * EMBEDDED_VALID_SHARE)
    return size - held_out, held_out


def text_bytes(text: TextFile) -> int:
    """The size of a text: on this disk, or as it is declared; 0 where the study does not say."""
    if text.local_path is not None:
        return Path(text.local_path).stat().st_size
    return text.text_bytes or (0 if text.is_compressed else text.bytes or 0)


def text_seconds(plan: Plan) -> float:
    """Seconds on one core to make, count, merge, encode and compare all texts, one after the other."""
    corpora = plan.study.corpora
    sizes = {name: split_bytes(corpus) for name, corpus in corpora.items()}
    seconds = sum(sum(size) / COPIED_BYTES_PER_SECOND + size[0] / COUNTED_BYTES_PER_SECOND for size in sizes.values())
    seconds += sum(make_seconds(corpus) for corpus in corpora.values())
    compared = sum(valid for _, valid in sizes.values())
    for corpus, _ in plan.tokenizers.values():
        seconds += merge_seconds(corpora[corpus]) + (sum(sizes[corpus]) + compared) / ENCODED_BYTES_PER_SECOND
    return seconds


def make_seconds(corpus: Corpus) -> float:
    """Seconds to make a corpus that is not fetched."""
    rate = MADE_BYTES_PER_SECOND.get(corpus.source)
    return sum(split_bytes(corpus)) / rate if rate else 0.0


def merge_seconds(corpus: Corpus) -> float:
    """Seconds to train a tokenizer on a corpus that is counted."""
    return corpus_stats(corpus).unique(split_bytes(corpus)[0]) * MERGE_SECONDS_PER_PRETOKEN


def count_memory_bytes(corpus: Corpus) -> float:
    """Peak memory of counting one shard of a corpus."""
    return TEXT_PROCESS_BYTES + COUNT_BYTES_PER_PRETOKEN * shard_pretokens(corpus)


def pretoken_file_bytes(corpus: Corpus) -> int:
    """The size of the counts of all shards of a corpus."""
    return STORED_BYTES_PER_PRETOKEN * corpus.shards * shard_pretokens(corpus)


def shard_pretokens(corpus: Corpus) -> int:
    """About how many unique pre-tokens one shard has."""
    return corpus_stats(corpus).unique(split_bytes(corpus)[0] // corpus.shards)


def merge_memory_bytes(corpus: Corpus) -> float:
    """Peak memory of training a tokenizer on a corpus."""
    return TEXT_PROCESS_BYTES + MERGE_BYTES_PER_PRETOKEN * corpus_stats(corpus).unique(split_bytes(corpus)[0])


def token_file_bytes(corpus: Corpus, vocab_size: int) -> int:
    """The size of both token files of a tokenizer."""
    return id_bytes(corpus, sum(split_bytes(corpus)), vocab_size)


def shard_file_bytes(corpus: Corpus, vocab_size: int) -> int:
    """The size of the shards that a tokenizer's training tokens are joined of; 0 where they are encoded at once."""
    return id_bytes(corpus, split_bytes(corpus)[0], vocab_size) if corpus.shards > 1 else 0


def id_bytes(corpus: Corpus, size: int, vocab_size: int) -> int:
    """The size of the ids of so many bytes of a corpus's text."""
    return corpus_stats(corpus).tokens(size, vocab_size) * (2 if vocab_size <= UINT16_IDS else 4)


# --- training runs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelCost:
    """What the accounting says of a model in training: bytes of a step whatever the batch, and more for a sequence.

    `state_bytes` are those of weights, gradients and moments, `validation_bytes` the largest tensors of a validation;
    FLOPs are those of a sequence forwards.
    """

    layers: int
    context_length: int
    parameters: int
    state_bytes: int
    fixed_bytes: int
    bytes_per_sequence: int
    validation_bytes: int
    forward_flops: int


@cache
def model_cost(model: ModelConfig, precision: str) -> ModelCost:
    """The cost of a model by its shape and the precision that it is trained in."""
    total = count_parameters(model).total
    return ModelCost(
        model.num_layers,
        model.context_length,
        total,
        4 * FLOAT32_BYTES * total,
        *step_memory(model, precision),
        validation_bytes(model),
        forward_flops(model),
    )


@dataclass(frozen=True)
class RunCost:
    """What one training run costs, if it does not diverge. A backward pass costs as much as two forward passes."""

    config: ModelConfig
    precision: str
    batch_size: int
    steps: int
    evaluated_sequences: float
    micro_batch_size: int | None = None

    @property
    def model(self) -> ModelCost:
        """What the accounting says of the run's model."""
        return model_cost(self.config, self.precision)

    @property
    def training_flops(self) -> int:
        """Matrix-multiply FLOPs of all steps."""
        return 3 * self.model.forward_flops * self.batch_size * self.steps

    @property
    def evaluation_flops(self) -> float:
        """Matrix-multiply FLOPs of the curve and of the whole validation split at the end."""
        return self.model.forward_flops * self.evaluated_sequences

    @property
    def memory_bytes(self) -> float:
        """Peak memory of the run's process on a CPU, or mostly of the GPU: torch, a step, a validation."""
        step = self.model.fixed_bytes + self.model.bytes_per_sequence * (self.micro_batch_size or self.batch_size)
        return TRAINING_PROCESS_BYTES + (1 + ALLOCATOR_SHARE) * step + self.model.validation_bytes

    @property
    def stored_bytes(self) -> int:
        """The files of a finished run: weights and metrics."""
        return FLOAT32_BYTES * self.model.parameters + METRICS_BYTES_PER_STEP * self.steps

    def seconds(self, device: Device) -> float:
        """The time of the whole job: its start, training and evaluation."""
        multiplies = (self.training_flops + self.evaluation_flops) / device.flops_per_second[self.precision]
        sequences = self.batch_size * self.steps + self.evaluated_sequences / 3
        handled = self.model.state_bytes * self.steps + self.model.bytes_per_sequence * sequences
        passes = self.steps + self.evaluated_sequences * self.model.context_length / EVAL_BATCH_TOKENS / 3
        rest = handled / device.bytes_per_second + self.model.layers * device.layer_seconds * passes
        return START_SECONDS + multiplies + rest


def run_cost(plan: Plan, run: PlannedRun) -> RunCost:
    """What a planned run costs."""
    vocab_size = plan.tokenizers[run.tokenizer][1]
    training = run.training
    corpus = plan.study.corpora[run.corpus]
    validation = corpus_stats(corpus).tokens(split_bytes(corpus)[1], vocab_size)
    evaluated = validation + (training.num_evaluations + 1) * min(training.eval_tokens, validation)
    return RunCost(
        ModelConfig(vocab_size=vocab_size, **run.model.model_dump()),
        training.precision,
        training.batch_size,
        training.steps(run.model.context_length),
        evaluated / run.model.context_length,
        None if training.micro_batch_size == "auto" else min(training.micro_batch_size, training.batch_size),
    )


def other_seconds(plan: Plan, stored: int, cores: int) -> float:
    """Seconds of all jobs that neither train nor deal with texts, `stored` of which copy a run from the store."""
    shown = plan.study.samples.models if plan.study.samples else ()
    jobs = len(plan.models) + len(plan.runs_by_experiment) + len(shown) + FIXED_JOBS
    return EXCLUSIVE_JOB_SECONDS + (JOB_SECONDS * jobs + CACHE_HIT_SECONDS * stored) / cores


# --- what jobs ask a cluster for -------------------------------------------------------------------------------------

# Half as much memory again as a job should need, and three times the time, on one core.
MEMORY_MARGIN = 1.5
TIME_MARGIN = 3
# Many clusters grant no more than a week; a training run that is stopped then goes on from its checkpoint.
LONGEST_MINUTES = 7 * 24 * 60


@dataclass(frozen=True)
class Request:
    """What a job asks a cluster for: memory in MB (1e6 bytes) and run time in minutes, both whole numbers."""

    mem_mb: int
    runtime: int


def request(needed_bytes: float, seconds: float, least_mb: int, least_minutes: int) -> Request:
    """The request of a job that should need so many bytes and seconds.

    >>> request(3e9, 36_000, least_mb=2000, least_minutes=60)
    Request(mem_mb=4500, runtime=1800)
    """
    minutes = max(least_minutes, math.ceil(TIME_MARGIN * seconds / 60))
    return Request(max(least_mb, math.ceil(MEMORY_MARGIN * needed_bytes / 1e6)), min(LONGEST_MINUTES, minutes))


def train_request(plan: Plan, run: PlannedRun) -> Request:
    """For a training run, as long as the CPU takes; the least memory leaves room for a GPU's driver."""
    cost = run_cost(plan, run)
    return request(cost.memory_bytes, cost.seconds(CPU_CORE), least_mb=4000, least_minutes=60)


def critical_path_seconds(plan: Plan) -> dict[str, float]:
    """For each experiment, the seconds of the longest chain of runs that wait for its best rate, on one core."""
    waiting: dict[str, list[PlannedRun]] = {name: [] for name in plan.runs_by_experiment}
    for run in plan.runs:
        if run.best_of:
            waiting[run.best_of].append(run)

    @cache
    def chain(experiment: str) -> float:
        runs = waiting[experiment]
        return max((run_cost(plan, run).seconds(CPU_CORE) + chain(run.experiment) for run in runs), default=0.0)

    return {name: chain(name) for name in plan.runs_by_experiment}


def count_request(corpus: Corpus) -> Request:
    """For counting one shard of a corpus."""
    seconds = split_bytes(corpus)[0] / corpus.shards / COUNTED_BYTES_PER_SECOND
    return request(count_memory_bytes(corpus), seconds, least_mb=1000, least_minutes=60)


def merge_request(corpus: Corpus) -> Request:
    """For training a tokenizer on a corpus."""
    return request(merge_memory_bytes(corpus), merge_seconds(corpus), least_mb=2000, least_minutes=60)


def encode_request(corpus: Corpus) -> Request:
    """For encoding a corpus, which takes the memory of a process alone."""
    return request(0, sum(split_bytes(corpus)) / ENCODED_BYTES_PER_SECOND, least_mb=1000, least_minutes=60)


def encode_shard_request(corpus: Corpus) -> Request:
    """For encoding one shard of a corpus's training text."""
    seconds = split_bytes(corpus)[0] / corpus.shards / ENCODED_BYTES_PER_SECOND
    return request(0, seconds, least_mb=1000, least_minutes=60)


def join_request(corpus: Corpus) -> Request:
    """For joining the shards of a corpus, whose ids take less room than its text."""
    return request(0, split_bytes(corpus)[0] / COPIED_BYTES_PER_SECOND, least_mb=1000, least_minutes=60)
