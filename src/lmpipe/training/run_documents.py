"""Documents of a training run: config.json, summary.json, best.json of a sweep, adoptions.json. Loads no torch."""

import hashlib
import json
from collections.abc import Mapping
from typing import Literal

from pydantic import JsonValue

from lmpipe.io.documents import Document
from lmpipe.provenance.environment import Environment
from lmpipe.study.settings import ModelConfig, TrainingSettings


class TokenizerReference(Document):
    """Tokenizer of a run."""

    name: str
    """Name in the study."""
    path: str
    """Folder, relative to the run's."""
    sha256: str
    """Digest of the vocabulary and the merges."""


class TokenFileReference(Document):
    """Token file of one split."""

    path: str
    """The .bin file, relative to the run's folder."""
    sha256: str
    """Checksum of the file."""
    tokens: int
    """Number of tokens."""


class TokenFileReferences(Document):
    """Token files of a run."""

    train: TokenFileReference
    """Training split."""
    valid: TokenFileReference
    """Validation split."""


class LearningRateSource(Document):
    """Sweep that a run's learning rate was taken from."""

    best_of: str
    """Experiment with the sweep."""
    scale: Literal["sqrt_batch_size"] | None
    """If set, the rate is also multiplied by the square root of the ratio of the batch sizes."""
    factor: float
    """Factor on the best rate."""
    best_run: str
    """Name of the sweep's best run."""
    best_max_lr: float
    """Peak learning rate of that run."""
    best_batch_size: int
    """Batch size of that run, in sequences."""
    interpolated_lr: float | None
    """Interpolated optimum of the sweep, used in place of `best_max_lr`; null if that was used."""


class RunConfig(Document):
    """config.json: everything that a run was trained with, resolved to numbers."""

    study: str
    """Name of the study."""
    experiment: str
    """Name of the experiment."""
    run: str
    """Name of the run in its experiment."""
    seed: int
    """Seed of the initial weights and the batches."""
    corpus: str
    """Name of the corpus."""
    overrides: dict[str, JsonValue]
    """Settings that distinguish this run in its experiment."""
    tokenizer: TokenizerReference
    """Tokenizer of the token files."""
    tokens: TokenFileReferences
    """Token files."""
    model: ModelConfig
    """The transformer."""
    training: TrainingSettings
    """Optimizer, schedule and batches."""
    lr_source: LearningRateSource | None
    """Origin of a best_of learning rate; null if the study gives a number."""

    @property
    def steps(self) -> int:
        """Planned optimizer steps."""
        return self.training.steps(self.model.context_length)

    @property
    def warmup_steps(self) -> int:
        """Steps with a rising learning rate."""
        return self.training.warmup_steps(self.model.context_length)

    @property
    def tokens_per_step(self) -> int:
        """Targets of one batch."""
        return self.training.batch_size * self.model.context_length

    def fingerprint(self, code: Mapping[str, str]) -> str:
        """Return a hash of everything that decides the result; names of studies, experiments and runs do not.

        `code` is the digest of the code that trains. Settings at their defaults are left out, so that a new setting
        does not change the fingerprint of a run without it.
        """
        content = {
            "model": self.model.model_dump(mode="json", exclude_defaults=True),
            "training": self.training.model_dump(mode="json", exclude_defaults=True),
            "seed": self.seed,
            "tokens": [self.tokens.train.sha256, self.tokens.valid.sha256],
            "tokenizer": self.tokenizer.sha256,
            "code": dict(code),
        }
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:20]


class InitDigest(Document):
    """Initial values of one weight matrix."""

    parameters: int
    """Number of elements."""
    sha256: str
    """First half of the SHA-256 of its float32 values."""


class RunSummary(Document):
    """summary.json: the result of a training run. Losses are in nats per token, null if not finite."""

    status: Literal["finished", "diverged", "not_learning"]
    """`diverged`: a loss was not finite or rose by 0.5 nats; `not_learning`: no better than the unigram entropy."""
    reason: str | None
    """Explanation of a status other than `finished`."""
    steps: int
    """Optimizer steps that changed the weights."""
    planned_steps: int
    """Optimizer steps of the complete run."""
    detected_step: int | None
    """Step at which divergence was detected; null if the run did not diverge."""
    divergence_step: int | None
    """Last step before that whose training loss was not above that of the first step."""
    tokens: int
    """Training tokens of all steps."""
    initial_loss: float | None
    """Training loss of the first step."""
    final_train_loss: float | None
    """Mean training loss of the last 20 steps."""
    validation_loss: float | None
    """Loss on the whole validation split after training."""
    validation_loss_se: float | None
    """Standard error of validation_loss over the documents of the split; null if it has one."""
    best_validation_loss: float | None
    """Lowest validation loss of the learning curve."""
    perplexity: float | None
    """exp(validation_loss)."""
    bits_per_byte: float | None
    """Loss on the validation split in bits per byte of text, without the end-of-text tokens."""
    validation_tokens: int
    """Targets in the validation split."""
    validation_bytes: int
    """Bytes of text of these targets."""
    init_digests: dict[str, InitDigest]
    """Each weight matrix before training; equal digests mean paired runs."""
    batches_sha256: str
    """Digest of all batches; equal digests mean runs on the same batches."""
    unigram_entropy: float
    """Entropy of the training tokens' frequencies, in nats per token."""
    parameters: int
    """Number of trained parameters."""
    train_seconds: float
    """Time of all training steps, without compilation, evaluation and checkpoints."""
    compile_seconds: float
    """Time to compile or load kernels, and of torch.compile; no other time includes it."""
    tokens_per_second: float
    """Training throughput."""
    peak_memory_bytes: int
    """Peak memory of the GPU, or on a CPU of the process."""
    memory_before_bytes: int
    """Memory of the GPU, or on a CPU of the process, before the model was built."""
    device: str
    """Model name of the processor or GPU."""
    threads: int
    """Threads of each process."""
    processes: int
    """Processes that shared each batch."""
    compile: bool
    """True if the step was compiled with torch.compile."""
    micro_batch_size: int
    """Sequences computed at a time in each process."""
    deterministic: bool | None = None
    """True if the run repeats to the byte on this device: torch enforces it on GPUs, not on MPS. Null in older runs."""
    precision: str
    """Type of matrix products: float32 or bfloat16."""
    num_resumes: int
    """Times that the run resumed from a checkpoint."""
    code: dict[str, str]
    """Digest of each module, and version of each package, that computed the run."""
    environment: Environment
    """Versions, hardware and commit."""


class BestRun(Document):
    """best.json: the run of an experiment with the lowest mean final loss."""

    experiment: str
    """Name of the experiment."""
    run: str
    """Name of the run."""
    seeds: list[int]
    """Seeds of the run."""
    max_lr: float
    """Peak learning rate."""
    interpolated_lr: float | None
    """Rate at the minimum of a parabola through the best run and the next rates; null if that is not between them."""
    batch_size: int
    """Batch size, in sequences."""
    ranked_by: Literal["validation_loss", "bits_per_byte"]
    """Metric that decided."""
    validation_loss: float
    """Mean final loss over the seeds, in nats per token."""
    bits_per_byte: float
    """The same in bits per byte of text."""


class AdoptedRun(Document):
    """A run whose replayed steps and evaluation changed code repeats to the byte."""

    run: str
    """The run: EXPERIMENT/NAME/seedN."""
    old_fingerprint: str
    """Its fingerprint with the code that trained it."""
    new_fingerprint: str
    """Its fingerprint with the code that adopted it, under which the run store has it."""
    old_code: dict[str, str]
    """Digests of the modules, and versions of the packages, that changed: those that trained the run."""
    new_code: dict[str, str]
    """Those that adopted it."""
    replayed_run: str
    """Run of the same configuration that was replayed."""
    replayed_steps: int
    """Steps of it that were trained again."""
    adopted_at: str
    """Time in UTC (ISO 8601)."""


class Adoptions(Document):
    """adoptions.json: the runs of a study that changed code has adopted, in order."""

    runs: tuple[AdoptedRun, ...]
    """Adopted runs."""
