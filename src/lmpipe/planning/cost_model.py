"""Cost model: bytes, FLOPs, memory and time of texts and training runs, before they exist.

Training follows the closed forms of lmpipe.model.accounting and lmpipe.model.activation_memory. Constants that cannot
be derived are measured or assumed, and are in cost_constants.toml.
"""

import math
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import assert_never

from lmpipe.model.accounting import FLOAT32_BYTES, count_parameters, forward_flops
from lmpipe.model.activation_memory import step_bytes, step_memory, validation_bytes
from lmpipe.planning.plan import Plan
from lmpipe.planning.stages import BY_RULE, PROBLEMS_OF
from lmpipe.study.corpora import Corpus, DatasetCorpus, DocstringsCorpus, FilesCorpus, SplitSettings, StoriesCorpus
from lmpipe.study.editions import write_up
from lmpipe.study.experiments import PlannedRun
from lmpipe.study.settings import EVAL_BATCH_TOKENS, ModelConfig

CONSTANTS = tomllib.loads(Path(__file__).with_name("cost_constants.toml").read_text(encoding="utf-8"))
TEXTS, MEMORY, JOBS = CONSTANTS["texts"], CONSTANTS["memory"], CONSTANTS["jobs"]
NUM_FIXED_JOBS = 3  # that every study has once: findings, report, provenance
GENERATED_VALID_FRACTION = 0.01
STORED_BYTES_PER_PRETOKEN = 20
METRICS_BYTES_PER_STEP = 75
CHECKPOINT_COPIES = 6  # two checkpoints, each with the weights and two moments
MAX_UINT16_IDS = 1 << 16


@dataclass(frozen=True)
class HardwareProfile:
    """Sustained rates of a device in training: FLOP/s of matrix multiplies by precision, and bytes/s of all other work.

    Bytes are those of weights, gradients, moments and activations; each layer takes `layer_seconds` in a step besides.
    """

    name: str
    machine: str
    date: object
    flops_per_second: dict[str, float]
    bytes_per_second: float
    layer_seconds: float


CPU_CORE = HardwareProfile(**CONSTANTS["hardware"]["cpu_core"])
H100 = HardwareProfile(**CONSTANTS["hardware"]["gpu"])


@dataclass(frozen=True)
class CorpusStats:
    """Statistics of a well-known corpus, from which those of similar texts are estimated."""

    bytes_per_token: float
    vocab_size: int
    text_bytes: int
    unique_pretokens: int
    heaps_exponent: float

    def estimate_tokens(self, text_bytes: int, vocab_size: int) -> int:
        """Estimate the tokens of a text; the bytes of a token grow with the logarithm of the vocabulary size."""
        return round(text_bytes / self.bytes_per_token * math.log(self.vocab_size) / math.log(vocab_size))

    def estimate_pretokens(self, text_bytes: int) -> int:
        """Estimate the unique pre-tokens of a text (Heaps' law)."""
        return round(self.unique_pretokens * (text_bytes / self.text_bytes) ** self.heaps_exponent)


def known_corpus(name: str) -> CorpusStats:
    """Return the statistics of a training text of the write-up."""
    text, fitted = write_up().texts[name], CONSTANTS["corpora"][name]
    return CorpusStats(
        text_bytes=text.train_bytes,
        unique_pretokens=text.unique_pretokens,
        vocab_size=text.vocab_size,
        **fitted,
    )


TINY_STORIES, OPEN_WEB_TEXT = map(known_corpus, ("TinyStories", "OpenWebText"))


# --- texts -----------------------------------------------------------------------------------------------------------


def corpus_stats(corpus: Corpus) -> CorpusStats:
    """Return the statistics of the known corpus that a corpus most resembles."""
    return TINY_STORIES if corpus.stands_for == "TinyStories" else OPEN_WEB_TEXT


def split_bytes(corpus: Corpus) -> tuple[int, int]:
    """Return the sizes of a corpus's training and validation text; undeclared files and those of a Hub count as 0."""
    match corpus:
        case FilesCorpus() | DatasetCorpus():
            return corpus.split_bytes
        case StoriesCorpus():
            size = TEXTS["story_bytes"] * corpus.documents
        case DocstringsCorpus():
            size = TEXTS["package_bytes"] * len(corpus.packages)
        case unknown:
            assert_never(unknown)
    held_out = round(size * GENERATED_VALID_FRACTION)
    return size - held_out, held_out


def joined_bytes(corpus: Corpus) -> int:
    """Return the size of the temporary file in which a text is joined before it is split; 0 if it is not."""
    return sum(split_bytes(corpus)) if isinstance(corpus, SplitSettings) and corpus.valid_fraction else 0


def text_seconds(plan: Plan) -> float:
    """Estimate the seconds on one core to make, count, merge, encode and evaluate all texts, one after the other."""
    corpora = plan.study.corpora
    sizes = {name: split_bytes(corpus) for name, corpus in corpora.items()}
    evaluated = sum(valid for _, valid in sizes.values())
    seconds = len(corpora) * TEXTS["yardstick_seconds"]
    for name, corpus in corpora.items():
        # Texts that are read from files have no rate of generation.
        rates = [TEXTS.get(f"{step}_bytes_per_second", math.inf) for step in ("copy", "overlap", corpus.source)]
        seconds += sum(sum(sizes[name]) / rate for rate in rates) + sizes[name][0] / TEXTS["count_bytes_per_second"]
    for name, _ in plan.tokenizers.values():
        encoded = sum(sizes[name]) + evaluated
        seconds += merge_seconds(corpora[name]) + encoded / TEXTS["encode_bytes_per_second"]
    return seconds


def unique_pretokens(corpus: Corpus, shards: int = 1) -> int:
    """Estimate the unique pre-tokens of a corpus's training text, or of one of its shards."""
    return corpus_stats(corpus).estimate_pretokens(split_bytes(corpus)[0] // shards)


def merge_seconds(corpus: Corpus) -> float:
    """Estimate the seconds to train a tokenizer on a corpus whose pre-tokens are counted."""
    return unique_pretokens(corpus) * TEXTS["merge_seconds_per_pretoken"]


def count_memory_bytes(corpus: Corpus) -> float:
    """Estimate the peak memory of counting one shard of a corpus."""
    return MEMORY["text_process"] + MEMORY["count_per_pretoken"] * unique_pretokens(corpus, corpus.num_shards)


def pretoken_file_bytes(corpus: Corpus) -> int:
    """Estimate the size of the pre-token counts of all shards of a corpus."""
    return STORED_BYTES_PER_PRETOKEN * corpus.num_shards * unique_pretokens(corpus, corpus.num_shards)


def merge_memory_bytes(corpus: Corpus) -> float:
    """Estimate the peak memory of training a tokenizer on a corpus."""
    return MEMORY["text_process"] + MEMORY["merge_per_pretoken"] * unique_pretokens(corpus)


def token_file_bytes(corpus: Corpus, vocab_size: int) -> int:
    """Estimate the size of both token files of a tokenizer."""
    return _id_bytes(corpus, sum(split_bytes(corpus)), vocab_size)


def shard_file_bytes(corpus: Corpus, vocab_size: int) -> int:
    """Estimate the size of the temporary shards of a tokenizer's training tokens; 0 without shards."""
    return _id_bytes(corpus, split_bytes(corpus)[0], vocab_size) if corpus.num_shards > 1 else 0


def _id_bytes(corpus: Corpus, size: int, vocab_size: int) -> int:
    return corpus_stats(corpus).estimate_tokens(size, vocab_size) * (2 if vocab_size <= MAX_UINT16_IDS else 4)


# --- training runs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelCost:
    """Memory and FLOPs of a model in training.

    `state_bytes` are those of weights, gradients and moments; a step saves `fixed_bytes` and `bytes_per_sequence` of
    activations; `validation_bytes` are the largest tensors of a validation; `forward_flops` are those of one sequence.
    """

    parameters: int
    state_bytes: int
    fixed_bytes: int
    bytes_per_sequence: int
    validation_bytes: int
    forward_flops: int


@cache
def model_cost(model: ModelConfig, precision: str) -> ModelCost:
    """Return the cost of a model that is trained in a precision."""
    total = count_parameters(model).total
    return ModelCost(
        total,
        4 * FLOAT32_BYTES * total,
        *step_memory(model, precision),
        validation_bytes(model),
        forward_flops(model),
    )


@dataclass(frozen=True)
class RunCost:
    """Cost of one training run that does not diverge; a backward pass costs as much as two forward passes."""

    config: ModelConfig
    precision: str
    batch_size: int
    steps: int
    evaluated_sequences: float
    micro_batch_size: int | None = None

    @property
    def model(self) -> ModelCost:
        """Cost of the run's model."""
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
        """Peak memory of the run's process on a CPU: torch, a step, a validation."""
        step = self.model.fixed_bytes + self.model.bytes_per_sequence * (self.micro_batch_size or self.batch_size)
        return MEMORY["training_process"] + (1 + MEMORY["allocator_share"]) * step + self.model.validation_bytes

    @property
    def gpu_memory_bytes(self) -> int:
        """Peak memory of the GPU that the run is trained on: a step and a validation."""
        step = step_bytes(self.config, self.precision, self.micro_batch_size or self.batch_size, on_gpu=True)
        return step + validation_bytes(self.config, on_gpu=True)

    @property
    def stored_bytes(self) -> int:
        """Size of a finished run's files: weights and metrics."""
        return FLOAT32_BYTES * self.model.parameters + METRICS_BYTES_PER_STEP * self.steps

    def seconds(self, hardware: HardwareProfile) -> float:
        """Estimate the time of the whole job: start, training and evaluation."""
        multiplies = (self.training_flops + self.evaluation_flops) / hardware.flops_per_second[self.precision]
        sequences = self.batch_size * self.steps + self.evaluated_sequences / 3
        moved_bytes = self.model.state_bytes * self.steps + self.model.bytes_per_sequence * sequences
        passes = self.steps + self.evaluated_sequences * self.config.context_length / EVAL_BATCH_TOKENS / 3
        fixed = moved_bytes / hardware.bytes_per_second + self.config.num_layers * hardware.layer_seconds * passes
        return JOBS["start"] + multiplies + fixed


def run_cost(plan: Plan, run: PlannedRun) -> RunCost:
    """Return the cost of a planned run; it does not depend on the learning rate."""
    vocab_size = plan.tokenizers[run.tokenizer][1]
    training = run.training
    corpus = plan.study.corpora[run.corpus]
    validation = corpus_stats(corpus).estimate_tokens(split_bytes(corpus)[1], vocab_size)
    evaluated = validation + training.num_evaluations * min(training.eval_tokens, validation)
    return RunCost(
        ModelConfig(vocab_size=vocab_size, **run.model.model_dump()),
        training.precision,
        training.batch_size,
        training.steps(run.model.context_length),
        evaluated / run.model.context_length,
        None if training.micro_batch_size == "auto" else min(training.micro_batch_size, training.batch_size),
    )


def fixed_seconds(plan: Plan, num_cache_hits: int, cores: int) -> float:
    """Estimate the seconds of all jobs that neither train nor process texts; `num_cache_hits` copy a stored run."""
    rules = [rule for rule in PROBLEMS_OF if BY_RULE[rule].records(plan)]
    alone = [JOBS["exclusive"][rule] for rule in rules if rule in JOBS["exclusive"]]
    jobs = len(plan.runs_by_experiment) + len(plan.sampled_corpora()) + NUM_FIXED_JOBS + len(rules) - len(alone)
    return sum(alone) + (JOBS["fixed"] * jobs + JOBS["cache_hit"] * num_cache_hits) / cores
