"""What a study file may say: its models, checked strictly, and the one line that tells what is wrong."""

import hashlib
import itertools
import json
import math
import os
import re
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, ValidationError, create_model
from pydantic import model_validator as check

from lmpipe.errors import InputError
from lmpipe.io.validation import format_validation_error, short_repr
from lmpipe.study.settings import (
    FiniteFloat,
    Fraction,
    Integer,
    ModelConfig,
    ModelSettings,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Settings,
    TrainingSettings,
)

MIN_VOCAB_SIZE = 257  # bytes and <|endoftext|>
# Snakemake takes what ends in 20 repetitions of anything for an endless loop of rules.
REPEATED_PATTERN = re.compile(r"(.+?)\1{19}")
# A dot stands only before a digit, as in gpt2_1.5b, so that no name looks like that of a file: results hold x.json.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[0-9][A-Za-z0-9_-]*)*")
MAX_NAME_CHARACTERS = 100
PACKAGE = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
URL = re.compile(r"https?://[A-Za-z0-9._-]+(:[0-9]{1,5})?/[!-~]{1,2000}")
# Snakemake takes braces for wildcards and <x> for variables, a command line takes - for an option; no JSON in UTF-8
# holds bytes that are no text, which Python shows as lone surrogates.
FORBIDDEN_PATH = re.compile(r"-|.*[{}<>\x00\ud800-\udfff]", re.DOTALL)
MAX_FILENAME_CHARACTERS = 100
# The sections of the report that speak of no experiment.
RESERVED_SECTIONS = {
    "unicode1",
    "unicode2",
    "train_bpe_tinystories",
    "train_bpe_expts_owt",
    "tokenizer_experiments",
    "transformer_accounting",
    "adamwAccounting",
    "learning_rate_tuning",
    "generate",
    "experiment_log",
}


def validate_name(value: Any) -> str:
    """Names become folders, wildcards and labels, so they are plain words.

    >>> plain_name("no_norm")
    'no_norm'
    """
    if (
        not isinstance(value, str)
        or not NAME.fullmatch(value)
        or len(value) > MAX_NAME_CHARACTERS
        or REPEATED_PATTERN.search(value)
    ):
        raise ValueError(
            f"expected a name of letters, digits, '_' and '-' ('.' before a digit) that starts with a letter or digit, "
            f"of at most {MAX_NAME_CHARACTERS} and without 20 repetitions, found {short_repr(value)}; rename it"
        )
    return value


def to_list(value: Any) -> Any:
    """Let a single value stand for a list of one."""
    return value if isinstance(value, list) else [value]


def validate_unique(values: list) -> list:
    """A list whose members all differ."""
    if len({json.dumps(value, default=str) for value in values}) != len(values):
        raise ValueError(f"expected each value once, found {short_repr(values)}; take the others out")
    return values


def validate_vocab_size(vocab_size: int) -> int:
    """A byte-level vocabulary holds all 256 bytes and the special tokens, whatever is merged."""
    if vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(
            f"expected at least {MIN_VOCAB_SIZE} (256 bytes and <|endoftext|>), found {vocab_size}; raise it"
        )
    return vocab_size


def validate_url(url: str) -> str:
    """An address that can be read or fetched."""
    if url.startswith("file:"):
        path = url.removeprefix("file:")
        if not path or FORBIDDEN_PATH.match(path):
            raise ValueError(
                f"expected a path in UTF-8 that does not start with '-' and has none of {{}}<>, "
                f"found {short_repr(path)}; "
                "rename the file, or give it a link with another name"
            )
    elif not URL.fullmatch(url):
        raise ValueError(
            f"expected file:PATH or https://HOST/PATH, found {short_repr(url)}; correct the "
            "address, and write spaces and "
            "letters with accents as %20 and the like"
        )
    return url


Name = Annotated[str, BeforeValidator(validate_name)]
Seed = Annotated[Integer, Field(ge=0, lt=2**32)]
Seeds = Annotated[list[Seed], Field(min_length=1), AfterValidator(validate_unique)]
VocabSize = Annotated[Integer, Field(le=2**31), AfterValidator(validate_vocab_size)]


class TokenizerSettings(Settings):
    """A byte-level BPE tokenizer: 256 bytes, the special tokens, and merges up to vocab_size ids."""

    vocab_size: VocabSize


class CorpusSettings(Settings):
    """What every corpus says; `stands_for` is the text of the write-up that it is compared with, if any.

    The training text is counted and encoded in so many `shards`, which are jobs of their own.
    """

    tokenizer: TokenizerSettings
    stands_for: Literal["TinyStories", "OpenWebText"] | None = None
    shards: PositiveInt = 1

    def text_settings(self) -> dict[str, Any]:
        """Settings that decide the text, as JSON values, without the files of a `url` corpus."""
        return self.model_dump(mode="json", exclude={"tokenizer", "stands_for", "shards", "files", "valid"})

    def text_paths(self) -> list[str]:
        """Paths of the files that the text is read from; none if it is generated."""
        return []


class StoriesCorpus(CorpusSettings):
    """Stories made by the grammar of `lmpipe.data.sources.stories`."""

    source: Literal["stories"]
    documents: Annotated[PositiveInt, Field(ge=100)]
    seed: Seed = 0


def installed_package(package: str) -> str:
    """A package that is there before the first job starts, and has a version.

    Only top packages: to find one inside another, Python would run the other.
    """
    if not PACKAGE.fullmatch(package) or find_spec(package) is None:
        raise ValueError(
            f"package {short_repr(package)} is not installed; install it with pip, or take it off the list"
        )
    try:
        version(package)
    except PackageNotFoundError:
        raise ValueError(
            f"package {package!r} has no version of its own; name the distribution's top package"
        ) from None
    return package


class DocstringsCorpus(CorpusSettings):
    """The documentation text inside installed Python packages."""

    source: Literal["docstrings"]
    packages: Annotated[
        list[Annotated[str, AfterValidator(installed_package)]], Field(min_length=1), AfterValidator(validate_unique)
    ]

    def versions(self) -> dict[str, str]:
        """The packages' versions: a new release is a new corpus."""
        return {package: version(package) for package in self.packages}

    def text_settings(self) -> dict[str, Any]:
        """Settings that decide the text, and the versions of the packages."""
        return super().text_settings() | {"versions": self.versions()}


class TextFile(Settings):
    """One text: an address, or `file:` and a path relative to the folder where snakemake runs."""

    url: Annotated[str, AfterValidator(validate_url)]
    bytes: PositiveInt | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    text_bytes: PositiveInt | None = None

    @property
    def local_path(self) -> str | None:
        """The path of a `file:` text; None for one that is downloaded. Snakemake wants each slash once."""
        return re.sub("/+", "/", self.url.removeprefix("file:")) if self.url.startswith("file:") else None

    @property
    def path(self) -> str:
        """Path of the text on this machine, now or once it is downloaded."""
        return self.local_path or self.download_path

    @property
    def is_compressed(self) -> bool:
        """Whether the text is published as a .gz file."""
        return urlsplit(self.url).path.endswith(".gz")

    @property
    def published_bytes(self) -> int | None:
        """The size of the file at the address, where it is declared; a plain file is the text itself."""
        return self.bytes or (None if self.is_compressed else self.text_bytes)

    @property
    def download_path(self) -> str:
        """Where the text is kept once it is downloaded, shared by all studies: named by checksum, else by address."""
        key = (self.sha256 or hashlib.sha256(self.url.encode()).hexdigest())[:12]
        filename = re.sub(r"[^A-Za-z0-9._-]", "_", urlsplit(self.url).path.rpartition("/")[2]).removesuffix(".gz")
        return f"resources/{key}-{REPEATED_PATTERN.sub('', filename[-MAX_FILENAME_CHARACTERS:]) or 'text'}"

    @check(mode="after")
    def check_local(self) -> "TextFile":
        """Local texts must be there, and not empty, before the first job starts."""
        if self.local_path is None:
            return self
        if not os.path.isfile(self.local_path):
            raise ValueError(f"no text at {short_repr(self.local_path)}, seen from {Path.cwd()}; correct the path")
        if not os.access(self.local_path, os.R_OK):
            raise ValueError(
                f"the text {short_repr(self.local_path)} cannot be read; change its permissions with chmod"
            )
        if os.path.getsize(self.local_path) == 0:
            raise ValueError(f"the text {short_repr(self.local_path)} is empty; give it at least two documents")
        return self


def text_file(value: Any) -> Any:
    """Let an address alone stand for a text file."""
    return {"url": value} if isinstance(value, str) else value


TextFiles = Annotated[
    list[Annotated[TextFile, BeforeValidator(text_file)]], BeforeValidator(to_list), Field(min_length=1)
]


class UrlCorpus(CorpusSettings):
    """Texts of the user's own, local or downloaded; documents are separated by `<|endoftext|>`.

    Unless it is said, there are as many shards as `files`.
    """

    source: Literal["url"]
    files: TextFiles
    valid: TextFiles | None = None
    valid_fraction: Annotated[Fraction, Field(gt=0, lt=1)] | None = None

    @property
    def texts(self) -> list[TextFile]:
        """Files for training, then those for validation."""
        return [*self.files, *(self.valid or [])]

    def text_paths(self) -> list[str]:
        """Paths of the files: those for training, then those for validation."""
        return [text.path for text in self.texts]

    @check(mode="before")
    @classmethod
    def shard_for_each_file(cls, value: Any) -> Any:
        """The number of shards, where it is not given."""
        files = value.get("files") if isinstance(value, dict) else None
        is_given = not isinstance(files, list) or len(files) < 2 or "shards" in value
        return value if is_given else {**value, "shards": len(files)}

    @check(mode="after")
    def check_split(self) -> "UrlCorpus":
        """Validation text comes from its own files or from a share of the training text, not both."""
        if (self.valid is None) == (self.valid_fraction is None):
            found = "neither" if self.valid is None else "both"
            raise ValueError(
                f"expected either valid or valid_fraction, found {found}; give either valid (files of their own) or "
                "valid_fraction (such as 0.1)"
            )
        return self


Corpus = Annotated[StoriesCorpus | DocstringsCorpus | UrlCorpus, Field(discriminator="source")]


class BestOf(Settings):
    """Learning rate of the best finished run of another experiment, times `factor`.

    `scale: sqrt_batch_size` also multiplies it by the square root of the ratio of the batch sizes (Krizhevsky 2014,
    section 5). In a sweep, `factor` may be a list.
    """

    best_of: Name
    scale: Literal["sqrt_batch_size"] | None = None
    factor: PositiveFloat | None = None

    @property
    def label(self) -> str:
        """Label of the value in the name of a run.

        >>> BestOf(best_of="learning_rate", scale="sqrt_batch_size", factor=0.5).label
        'sqrt_batch_size-0.5'
        """
        if self.factor is not None:
            return f"{self.scale or 'factor'}-{self.factor!r}"
        return self.scale or f"best_of-{self.best_of}"


def max_lr_tag(value: Any) -> str:
    """Tell a best_of block from a number."""
    return "best_of" if isinstance(value, dict | BestOf) else "number"


LearningRate = Annotated[
    Annotated[PositiveFloat, Tag("number")] | Annotated[BestOf, Tag("best_of")], Discriminator(max_lr_tag)
]


def optional_fields(*models: type[Settings]) -> dict[str, Any]:
    """The fields of other models, each of them optional and without a value of its own."""
    fields = {}
    for model in models:
        for key, field in model.model_fields.items():
            annotation = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
            fields[key] = (annotation | None, None)
    return fields


# Everything that an experiment or a run may set for itself.
Overrides = create_model(
    "Overrides",
    __base__=Settings,
    __doc__="Settings that an experiment or a run changes.",
    **optional_fields(ModelSettings, TrainingSettings)
    | {"corpus": (Name | None, None), "vocab_size": (VocabSize | None, None), "max_lr": (LearningRate | None, None)},
)


def sweep_values(value: Any) -> Any:
    """Return the values of one swept setting; a best_of block with a list of factors becomes a list of blocks."""
    if isinstance(value, dict):
        return [{**value, "factor": factor} for factor in to_list(value["factor"])] if "factor" in value else [value]
    if not isinstance(value, list) or not value:
        raise ValueError(f"expected a list of values, such as [1, 2], found {short_repr(value)}; put it in brackets")
    return value


class RunSettings(Overrides):
    """Settings of a run, and a sweep over others."""

    sweep: dict[str, Annotated[list[Any], BeforeValidator(sweep_values)]] = Field(default_factory=dict)

    @check(mode="after")
    def check_sweep(self) -> "RunSettings":
        """Each key of a sweep is a setting, has valid values, and is not set as well."""
        for key, values in self.sweep.items():
            try:
                for value in values:
                    Overrides.model_validate({key: value})
            except ValidationError as error:
                raise ValueError(f"sweep: {format_validation_error(error, {key: value})}") from None
            if getattr(self, key) is not None:
                raise ValueError(f"{key} is both set and swept; keep one of them")
        return self

    def changes(self) -> dict[str, Any]:
        """What is set here, by key."""
        return {key: getattr(self, key) for key in Overrides.model_fields if getattr(self, key) is not None}

    @property
    def points(self) -> int:
        """Number of combinations of the sweep's values."""
        return math.prod(map(len, self.sweep.values()))

    def grid(self) -> list[dict[str, Any]]:
        """Return every combination of the sweep's values; one empty combination without a sweep."""
        columns = []
        for key, values in self.sweep.items():
            columns.append([(key, getattr(Overrides.model_validate({key: value}), key)) for value in values])
        return [dict(combination) for combination in itertools.product(*columns)]


def experiment_name(name: str) -> str:
    """A name whose section of the report belongs to the experiment."""
    if name in RESERVED_SECTIONS:
        raise ValueError(f"{name} is a section of the report that needs no experiment; choose another name")
    return name


ExperimentName = Annotated[Name, AfterValidator(experiment_name)]


class ExperimentSettings(RunSettings):
    """An experiment: settings that its runs share, and the runs.

    `target_loss`, in nats per validation token, is what the best run should reach. It belongs to the report: no run
    knows it.
    """

    seeds: Seeds | None = None
    target_loss: PositiveFloat | None = None
    runs: dict[Name, RunSettings] | None = None

    @check(mode="after")
    def check_runs(self) -> "ExperimentSettings":
        """A run does not set a key that its experiment sweeps: one of the two would be ignored."""
        for name, run in (self.runs or {}).items():
            for key in self.sweep:
                if getattr(run, key) is not None:
                    raise ValueError(f"{key} is swept for all runs, and set in runs.{name}; keep one of them")
        return self

    @property
    def runs_for_each_seed(self) -> int:
        """How many runs there are for each seed."""
        named = self.runs.values() if self.runs else [RunSettings()]
        return self.points * sum(run.points for run in named)


class AccountingSettings(Settings):
    """Models to account for on paper, and the memory of the device in gigabytes (1e9 bytes)."""

    models: dict[Name, ModelConfig] = Field(default_factory=dict)
    device_memory_gb: PositiveFloat = 80.0


class SamplesSettings(Settings):
    """What to generate, from which run for each corpus (`experiment/run`)."""

    models: dict[Name, str]
    prompts: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    max_new_tokens: PositiveInt = 256
    temperature: Annotated[list[NonNegativeFloat], Field(min_length=1), AfterValidator(validate_unique)]
    top_p: Annotated[
        list[Annotated[FiniteFloat, Field(gt=0, le=1)]], Field(min_length=1), AfterValidator(validate_unique)
    ]


class Study(Settings):
    """A study file, complete in itself."""

    study: Name
    seeds: Seeds
    corpora: Annotated[dict[Name, Corpus], Field(min_length=1)]
    model: ModelSettings
    training: TrainingSettings
    experiments: Annotated[dict[ExperimentName, ExperimentSettings], Field(min_length=1)]
    accounting: AccountingSettings = AccountingSettings()
    samples: SamplesSettings | None = None


def read_study(config: dict[str, Any], source: str) -> Study:
    """Check the models of a study file; `source` names the file in messages.

    Raises InputError with one line that names the file, the key path, what was found and the remedy.
    """
    try:
        return Study.model_validate(config)
    except ValidationError as error:
        raise InputError(f"{source}: {format_validation_error(error, config)}") from None
