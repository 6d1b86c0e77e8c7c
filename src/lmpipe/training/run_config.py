"""What a training run starts from: its settings, resolved to numbers, and the opened token files."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmpipe.data.token_dataset import TokenDataset, check_length
from lmpipe.errors import InputError
from lmpipe.io.hints import make_again
from lmpipe.io.validation import short_repr
from lmpipe.provenance.code_digest import code_digest
from lmpipe.study.documents import BEST, read_shape
from lmpipe.study.experiments import BestOf
from lmpipe.study.planned_run import PlannedRun
from lmpipe.study.settings import ModelConfig, TrainingSettings
from lmpipe.tokenizer.vocabulary import Vocabulary


@dataclass(frozen=True)
class RunInputs:
    """A run with everything resolved and opened; `config` is its config.json."""

    config: dict[str, Any]
    model: ModelConfig
    training: TrainingSettings
    seed: int
    train: TokenDataset
    valid: TokenDataset
    tokenizer: Vocabulary

    @property
    def steps(self) -> int:
        """Planned optimizer steps."""
        return self.training.steps(self.model.context_length)

    @property
    def warmup_steps(self) -> int:
        """Steps on which the rate climbs."""
        return round(self.training.warmup_fraction * self.steps)

    @property
    def tokens_per_step(self) -> int:
        """Targets of one batch."""
        return self.training.batch_size * self.model.context_length

    def identity(self) -> dict[str, Any]:
        """All that decides the result. Names of studies, experiments, runs and tokenizers do not."""
        return {
            "model": self.model.model_dump(mode="json"),
            "training": self.training.model_dump(mode="json"),
            "seed": self.seed,
            "tokens": [self.train.info.sha256, self.valid.info.sha256],
            "tokenizer": self.tokenizer.sha256,
            "code": code_digest("training.run"),
        }


def resolve(run: PlannedRun, results: Path, best_path: str | Path | None, output: Path) -> RunInputs:
    """Open a run's inputs and settle what depends on them: the vocabulary's size, and a rate taken from a sweep.

    Paths in `config` start at the run's folder `output`, so that they stay true wherever the study is moved.
    """
    name = run.tokenizer
    tokenizer = Vocabulary.from_folder(results / "tokenizers" / name)
    model = ModelConfig(vocab_size=tokenizer.vocab_size, **run.model.model_dump())
    files = {
        split: TokenDataset.open(results / "tokens" / name / f"{split}.bin", tokenizer.vocab_size)
        for split in ("train", "valid")
    }
    for file in files.values():
        check_tokenizer(file, tokenizer)
    check_length(len(files["train"].tokens), model.context_length)
    max_lr, source = resolve_rate(run.training.max_lr, run.training.batch_size, best_path)
    training = TrainingSettings.model_validate(run.training.model_dump() | {"max_lr": max_lr})
    config = {
        "study": run.study,
        "experiment": run.experiment,
        "run": run.name,
        "seed": run.seed,
        "corpus": run.corpus,
        "overrides": {key: max_lr if key == "max_lr" else value for key, value in run.overrides.items()},
        "tokenizer": {
            "name": name,
            "path": os.path.relpath(results / "tokenizers" / name, output),
            "sha256": tokenizer.sha256,
        },
        "tokens": {split: token_record(file, output) for split, file in files.items()},
        "model": model.model_dump(mode="json"),
        "training": training.model_dump(mode="json"),
        "lr_source": source,
    }
    return RunInputs(config, model, training, run.seed, files["train"], files["valid"], tokenizer)


def check_tokenizer(file: TokenDataset, tokenizer: Vocabulary) -> None:
    """Raise InputError unless a token file was encoded with this very tokenizer."""
    found = file.info.tokenizer.sha256
    if found != tokenizer.sha256:
        raise InputError(
            f"{file.path}: expected ids of the tokenizer {tokenizer.sha256[:12]}, found {found[:12]}; "
            "delete it and encode the corpus again"
        )


def token_record(file: TokenDataset, output: Path) -> dict[str, Any]:
    """What config.json says of a token file."""
    return {"path": os.path.relpath(file.path, output), "sha256": file.info.sha256, "tokens": file.info.tokens}


def resolve_rate(
    wanted: float | BestOf, batch_size: int, best_path: str | Path | None
) -> tuple[float, dict[str, Any] | None]:
    """The peak rate as a number, and where it was taken from.

    A best_of rate is the sweep's best, times `factor`, and with `scale: sqrt_batch_size` times sqrt(batch_size / its
    batch size) (Krizhevsky 2014, section 5). Raises InputError if the sweep's best.json is missing
    or another experiment's.
    """
    if not isinstance(wanted, BestOf):
        return wanted, None
    experiment = wanted.best_of
    if best_path is None:
        raise InputError(f"--best: expected the best.json of experiment {experiment!r}, found nothing; name its path")
    best = read_shape(best_path, BEST)
    if best["experiment"] != experiment:
        raise InputError(
            f"{best_path}: expected the best of {experiment!r}, found that of {short_repr(best['experiment'])}; "
            f"{make_again(best_path)}"
        )
    factor = wanted.factor or 1
    if wanted.scale is not None:
        factor *= math.sqrt(batch_size / best["batch_size"])
    source = {"best_run": best["run"], "best_max_lr": best["max_lr"], "best_batch_size": best["batch_size"]}
    return best["max_lr"] * factor, wanted.model_dump(exclude_none=True) | source
