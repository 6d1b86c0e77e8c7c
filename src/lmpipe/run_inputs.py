"""What a training run starts from: its settings, resolved to numbers, and the opened token files."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from lmpipe import InputError
from lmpipe.files import read_json
from lmpipe.provenance import code_digest
from lmpipe.settings import ModelConfig, TrainingSettings
from lmpipe.tokenizer import Tokenizer
from lmpipe.tokens import TokenFile


@dataclass(frozen=True)
class RunInputs:
    """A run with everything resolved and opened; `config` is its config.json."""

    config: dict[str, Any]
    model: ModelConfig
    training: TrainingSettings
    seed: int
    train: TokenFile
    valid: TokenFile
    tokenizer: Tokenizer

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
            "tokens": [self.train.info["sha256"], self.valid.info["sha256"]],
            "tokenizer": self.tokenizer.sha256,
            "code": code_digest("train"),
        }


def resolve(settings: dict[str, Any], results: Path, best_path: str | Path | None) -> RunInputs:
    """Open a run's inputs and settle what depends on them: the vocabulary's size, and a rate taken from a sweep."""
    name = settings["tokenizer"]
    tokenizer = Tokenizer.from_folder(results / "tokenizers" / name)
    model = checked(ModelConfig, "model", settings["model"] | {"vocab_size": tokenizer.vocab_size})
    files = {
        split: TokenFile.open(results / "tokens" / name / f"{split}.bin", tokenizer.vocab_size)
        for split in ("train", "valid")
    }
    for file in files.values():
        check_tokenizer(file, tokenizer)
    max_lr, source = resolve_rate(settings["training"]["max_lr"], settings["training"]["batch_size"], best_path)
    training = checked(TrainingSettings, "training", settings["training"] | {"max_lr": max_lr})
    varied = {key: max_lr if key == "max_lr" else value for key, value in settings["varied"].items()}
    config = {key: settings[key] for key in ("study", "experiment", "run", "seed", "corpus")}
    config |= {
        "varied": varied,
        "tokenizer": {"name": name, "path": str(results / "tokenizers" / name), "sha256": tokenizer.sha256},
        "tokens": {split: token_record(file) for split, file in files.items()},
        "model": model.model_dump(mode="json"),
        "training": training.model_dump(mode="json"),
        "max_lr_from": source,
    }
    return RunInputs(config, model, training, settings["seed"], files["train"], files["valid"], tokenizer)


def checked(kind: type[BaseModel], place: str, values: dict[str, Any]) -> Any:
    """Settings as their model; raises InputError with the first thing that is wrong."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join([place, *map(str, first["loc"])])
        raise InputError(f"--settings: {path}: {first['msg']}, found {first['input']!r}; correct the study") from None


def check_tokenizer(file: TokenFile, tokenizer: Tokenizer) -> None:
    """Raise InputError unless a token file was encoded with this very tokenizer."""
    found = file.info["tokenizer"]["sha256"]
    if found != tokenizer.sha256:
        raise InputError(
            f"{file.path}: expected ids of the tokenizer {tokenizer.sha256[:12]}, found {found[:12]}; "
            "delete it and encode the corpus again"
        )


def token_record(file: TokenFile) -> dict[str, Any]:
    """What config.json says of a token file."""
    return {"path": str(file.path), "sha256": file.info["sha256"], "tokens": file.info["tokens"]}


def resolve_rate(
    wanted: float | dict[str, Any], batch_size: int, best_path: str | Path | None
) -> tuple[float, dict[str, Any] | None]:
    """The peak rate as a number, and where it was taken from.

    A best_of rate is the sweep's best, times `times`, or times `sqrt_rule` * sqrt(batch_size / its batch size)
    (Krizhevsky 2014, section 5). Raises InputError where the sweep's best.json is missing or another experiment's.
    """
    if not isinstance(wanted, dict):
        return wanted, None
    experiment = wanted["best_of"]
    if best_path is None:
        raise InputError(f"--best: expected the best.json of experiment {experiment!r}, found nothing; name its path")
    best = read_json(best_path)
    if best["experiment"] != experiment:
        raise InputError(f"{best_path}: expected the best of {experiment!r}, found that of {best['experiment']!r}")
    factor = wanted.get("times", 1)
    if "sqrt_rule" in wanted:
        factor = wanted["sqrt_rule"] * math.sqrt(batch_size / best["batch_size"])
    source = {"best_run": best["run"], "best_max_lr": best["max_lr"], "best_batch_size": best["batch_size"]}
    return best["max_lr"] * factor, wanted | source
