"""Inputs of a training run: its settings, resolved to numbers, and its opened token files. Loads no torch."""

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

from pydantic import JsonValue

from lmpipe.data.token_dataset import TokenDataset, check_length
from lmpipe.errors import InputError
from lmpipe.io.documents import Document
from lmpipe.provenance.code_digest import code_digest
from lmpipe.study.experiments import BestOf
from lmpipe.study.paths import StudyPaths
from lmpipe.study.planned_run import PlannedRun
from lmpipe.study.settings import ModelConfig, TrainingSettings
from lmpipe.tokenizer.vocabulary import Vocabulary

FINGERPRINT_CHARACTERS = 20


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


class GridPoint(Document):
    """One run of a sweep, over all seeds."""

    run: str
    """Name of the run."""
    max_lr: float
    """Peak learning rate."""
    batch_size: int
    """Batch size, in sequences."""
    validation_loss: float | None
    """Mean final loss over the seeds, in nats per token; null unless all finished."""
    bits_per_byte: float | None
    """The same in bits per byte of text."""
    statuses: list[str]
    """Status of each seed's run."""


class BestRun(GridPoint):
    """best.json: the run of an experiment with the lowest mean final loss."""

    experiment: str
    """Name of the experiment."""
    seeds: list[int]
    """Seeds of the run."""
    ranked_by: Literal["validation_loss", "bits_per_byte"]
    """Metric that decided."""
    candidates: list[GridPoint]
    """All runs of the experiment."""


@dataclass(frozen=True)
class RunInputs:
    """A run with every setting resolved and every file opened."""

    config: RunConfig
    train: TokenDataset
    valid: TokenDataset
    tokenizer: Vocabulary

    @property
    def model(self) -> ModelConfig:
        """The transformer's shape."""
        return self.config.model

    @property
    def training(self) -> TrainingSettings:
        """Optimizer, schedule and batches."""
        return self.config.training

    @property
    def seed(self) -> int:
        """Seed of the initial weights and the batches."""
        return self.config.seed

    @property
    def steps(self) -> int:
        """Planned optimizer steps."""
        return self.training.steps(self.model.context_length)

    @property
    def warmup_steps(self) -> int:
        """Steps with a rising learning rate."""
        return round(self.training.warmup_fraction * self.steps)

    @property
    def tokens_per_step(self) -> int:
        """Targets of one batch."""
        return self.training.batch_size * self.model.context_length

    def fingerprint(self) -> str:
        """Return a hash of everything that decides the result; names of studies, experiments and runs do not."""
        content = {
            "model": self.model.model_dump(mode="json"),
            "training": self.training.model_dump(mode="json"),
            "seed": self.seed,
            "tokens": [self.train.info.sha256, self.valid.info.sha256],
            "tokenizer": self.tokenizer.sha256,
            "code": code_digest("training.run"),
        }
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:FINGERPRINT_CHARACTERS]


def load_run(run: PlannedRun, results: Path, best_path: str | Path | None, output: Path) -> RunInputs:
    """Open a run's inputs and resolve its vocabulary size and learning rate; raise InputError if something is wrong.

    Paths in the configuration are relative to the run's folder `output`, so that a study can be moved.
    """
    paths = StudyPaths(results)
    tokenizer_folder = paths.tokenizer(run.tokenizer)
    tokenizer = Vocabulary.from_folder(tokenizer_folder)
    train, valid = (open_tokens(paths.tokens(run.tokenizer, split), tokenizer) for split in ("train", "valid"))
    check_length(len(train.tokens), run.model.context_length)
    max_lr, lr_source = resolve_learning_rate(run.training.max_lr, run.training.batch_size, best_path)
    config = RunConfig(
        study=run.study,
        experiment=run.experiment,
        run=run.name,
        seed=run.seed,
        corpus=run.corpus,
        overrides={key: max_lr if key == "max_lr" else value for key, value in run.overrides.items()},
        tokenizer=TokenizerReference(
            name=run.tokenizer, path=os.path.relpath(tokenizer_folder, output), sha256=tokenizer.sha256
        ),
        tokens=TokenFileReferences(train=refer_to(train, output), valid=refer_to(valid, output)),
        model=ModelConfig(vocab_size=tokenizer.vocab_size, **run.model.model_dump()),
        training=TrainingSettings.model_validate(run.training.model_dump() | {"max_lr": max_lr}),
        lr_source=lr_source,
    )
    return RunInputs(config, train, valid, tokenizer)


def open_tokens(path: Path, tokenizer: Vocabulary) -> TokenDataset:
    """Open a token file; raise InputError unless it was encoded with exactly this tokenizer."""
    file = TokenDataset.open(path, tokenizer.vocab_size)
    encoder = file.info.tokenizer.sha256
    if encoder != tokenizer.sha256:
        problem = f"was encoded with tokenizer {encoder[:12]}, not with {tokenizer.sha256[:12]}"
        raise InputError(path, problem, "delete it and encode the corpus again")
    return file


def refer_to(file: TokenDataset, output: Path) -> TokenFileReference:
    """Return the entry of config.json for a token file."""
    return TokenFileReference(path=os.path.relpath(file.path, output), sha256=file.info.sha256, tokens=file.info.tokens)


def resolve_learning_rate(
    max_lr: float | BestOf, batch_size: int, best_path: str | Path | None
) -> tuple[float, LearningRateSource | None]:
    """Return the peak learning rate as a number, and the sweep that it was taken from, if any.

    A best_of rate is the sweep's best, times `factor`, and with `scale: sqrt_batch_size` times sqrt(batch_size / its
    batch size) (Krizhevsky 2014, section 5). Raises InputError if the sweep's best.json is missing or another
    experiment's.
    """
    if not isinstance(max_lr, BestOf):
        return max_lr, None
    experiment = max_lr.best_of
    if best_path is None:
        raise InputError("--best", f"the best.json of experiment {experiment} is missing", "give its path")
    best = BestRun.read(best_path)
    if best.experiment != experiment:
        remedy = f"give the best.json of {experiment}"
        raise InputError(best_path, f"is the best run of {best.experiment}, not of {experiment}", remedy)
    factor = max_lr.factor or 1
    source = LearningRateSource(
        best_of=experiment,
        scale=max_lr.scale,
        factor=factor,
        best_run=best.run,
        best_max_lr=best.max_lr,
        best_batch_size=best.batch_size,
    )
    match max_lr.scale:
        case None:
            pass
        case "sqrt_batch_size":
            factor *= math.sqrt(batch_size / best.batch_size)
        case _:
            assert_never(max_lr.scale)
    return best.max_lr * factor, source
