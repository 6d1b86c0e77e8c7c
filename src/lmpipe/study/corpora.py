"""The block `corpora` of a study file: the source of each text and the size of its tokenizer."""

import hashlib
import re
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from lmpipe.errors import InputError
from lmpipe.io.validation import InvalidValueError, short_repr
from lmpipe.study.fields import (
    MIN_VOCAB_SIZE,
    Fraction,
    Label,
    PositiveInt,
    Seed,
    Settings,
    VocabSize,
    validate_unique,
)
from lmpipe.study.text_files import SourceFile, TextFile, TextFiles, validate_path

PACKAGE = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# Context of a validation of which only results are read: packages of the corpora need not be there.
RESULTS_ONLY = "results only"
END_OF_TEXT = "<|endoftext|>"
DocumentUnit = Literal["delimiter", "lines", "blank_lines", "files"]
MIN_SHARD_BYTES = 64_000_000
MAX_SHARDS = 1000  # so that their paths fit into one command line


def installed_package(package: str, info: ValidationInfo) -> str:
    """Return a top-level package that is installed and has a version; nothing is imported."""
    if info.context == RESULTS_ONLY:
        return package
    # Only top-level names: to find one inside another package, Python would run that package.
    if not PACKAGE.fullmatch(package) or find_spec(package) is None:
        raise InvalidValueError(
            f"is {short_repr(package)}, which is not installed", "install it with pip, or remove it"
        )
    try:
        version(package)
    except PackageNotFoundError:
        raise InvalidValueError(
            f"is {package!r}, which has no version", "use the top-level package of a distribution"
        ) from None
    return package


def hides_end_of_text(token: str) -> bool:
    """Return True if a special token can overlap a following `<|endoftext|>`, which would then end no document.

    >>> hides_end_of_text("<|user|>"), hides_end_of_text("a <"), hides_end_of_text("<|endoftext|>!")
    (False, True, True)
    """
    beginnings = (END_OF_TEXT[:length] for length in range(1, len(END_OF_TEXT)))
    return END_OF_TEXT in token or token.endswith(tuple(beginnings))


def validate_special_token(token: str) -> str:
    """Return a special token that may be used beside the end of text."""
    if not token.isprintable() or hides_end_of_text(token):
        raise InvalidValueError(
            f"is {short_repr(token)}, which is not printable or overlaps {END_OF_TEXT}", "choose another text"
        )
    return token


SpecialToken = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(validate_special_token)]


class TokenizerSettings(Settings):
    """A byte-level BPE tokenizer: 256 bytes, the special tokens, and merges."""

    vocab_size: VocabSize
    """Token ids in all."""
    special_tokens: Annotated[list[SpecialToken], AfterValidator(validate_unique)] = Field(default_factory=list)
    """Texts beside `<|endoftext|>` that are one token each and never part of another."""
    path: Annotated[str, AfterValidator(validate_path)] | None = None
    """Existing tokenizer with GPT-2's pattern in place of a trained one: a folder, or a `tokenizer.json`."""

    @model_validator(mode="after")
    def check_special_tokens(self) -> "TokenizerSettings":
        """Require room for the special tokens, which an existing tokenizer has already."""
        least = MIN_VOCAB_SIZE + len(self.special_tokens)
        if self.vocab_size < least:
            raise InvalidValueError(f"has vocab_size = {self.vocab_size}", f"use at least {least}, with special_tokens")
        if self.path and self.special_tokens:
            raise InvalidValueError("has both path and special_tokens", "remove special_tokens: those of path count")
        return self


class CorpusSettings(Settings):
    """Keys that every corpus has."""

    tokenizer: TokenizerSettings
    """Tokenizer of the corpus, which is trained on it."""
    label: Label | None = None
    """Name in the report; the corpus's key if not set."""
    stands_for: Literal["TinyStories", "OpenWebText"] | None = None
    """Text of the write-up that the corpus is compared with."""
    shards: PositiveInt | None = None
    """Jobs that count and encode the training text, to the same bytes; 1 by default, or for large files more."""

    @property
    def num_shards(self) -> int:
        """Number of shards of the training text."""
        return self.shards or 1

    def text_settings(self, exclude_defaults: bool = False) -> dict[str, Any]:
        """Return the settings that decide the text, as JSON values, without its files."""
        omitted = {"tokenizer", "label", "stands_for", "shards", "files", "valid"}
        return self.model_dump(mode="json", exclude=omitted, exclude_defaults=exclude_defaults)

    def text_paths(self) -> list[str]:
        """Paths of the files that the workflow knows as inputs; none if the text is generated."""
        return []


class StoriesCorpus(CorpusSettings):
    """Children's stories from a seeded grammar."""

    source: Literal["stories"]
    """Kind of source."""
    documents: Annotated[PositiveInt, Field(ge=100)]
    """Stories to generate."""
    seed: Seed = 0
    """Seed of the grammar."""


class DocstringsCorpus(CorpusSettings):
    """Docstrings and comments of installed Python packages, which are read and never imported."""

    source: Literal["docstrings"]
    """Kind of source."""
    packages: Annotated[
        list[Annotated[str, AfterValidator(installed_package)]], Field(min_length=1), AfterValidator(validate_unique)
    ]
    """Top-level packages."""

    def versions(self) -> dict[str, str]:
        """Versions of the packages; a new release is a new corpus."""
        return {package: version(package) for package in self.packages}

    def text_settings(self) -> dict[str, Any]:
        """Return the settings that decide the text, and the versions of the packages."""
        return super().text_settings() | {"versions": self.versions()}


class SplitSettings(CorpusSettings):
    """Keys of corpora whose documents are read from files or a dataset."""

    valid_fraction: Annotated[Fraction, Field(gt=0, lt=1)] | None = None
    """Fraction of the text that is the validation split, if no other text is."""
    shuffle: bool = True
    """Shuffle the documents before `valid_fraction` of them is split off."""
    seed: Seed = 0
    """Seed of the shuffle."""
    text_key: Annotated[str, Field(min_length=1)] = "text"
    """Key or column of a record that has its text."""

    def text_settings(self) -> dict[str, Any]:
        """Return the settings that decide the text; those at their default are left out."""
        return {"source": self.source, **super().text_settings(exclude_defaults=True)}

    def check_validation(self, key: str) -> None:
        """Require either a separate validation text, under `key`, or a fraction."""
        has_text = getattr(self, key) is not None
        if not has_text and self.valid_fraction is None:
            raise InvalidValueError(
                "has no validation split", f"add {key} (a separate text) or valid_fraction (such as 0.1)"
            )
        if has_text and self.valid_fraction is not None:
            raise InvalidValueError(f"has both {key} and valid_fraction", "remove one of them")


class FilesCorpus(SplitSettings):
    """Texts of your own, local or downloaded; in plain texts, `<|endoftext|>` ends a document."""

    source: Literal["files"]
    """Kind of source."""
    files: TextFiles
    """Texts for training: `.txt`, `.jsonl`, `.csv` or `.parquet`, also as `.gz`, `.xz` or `.zst`."""
    valid: TextFiles | None = None
    """Texts for validation."""
    documents: DocumentUnit = "delimiter"
    """A document of a plain text: up to the delimiter, a line, between blank lines, or a file."""

    @property
    def texts(self) -> list[TextFile]:
        """Files for training, then those for validation."""
        return [*self.files, *(self.valid or [])]

    @cached_property
    def local_files(self) -> list[list[SourceFile]]:
        """Local files of each of `texts`; raises InputError if one has none."""
        return [text.files() for text in self.texts]

    @cached_property
    def split_bytes(self) -> tuple[int, int]:
        """Estimated size of the training and the validation text; undeclared downloads and missing files count as 0."""
        try:
            local_files = self.local_files
        except InputError:  # the results of a study are read without its texts
            local_files = [[] for _ in self.texts]
        sizes = [text.estimate_bytes(files) for text, files in zip(self.texts, local_files, strict=True)]
        train_bytes, valid_bytes = sum(sizes[: len(self.files)]), sum(sizes[len(self.files) :])
        held_out = round(train_bytes * (self.valid_fraction or 0))
        return train_bytes - held_out, valid_bytes + held_out

    @cached_property
    def num_shards(self) -> int:
        """Number of shards: as set, or one for each 64 MB, but no more than there are files."""
        if self.shards:
            return self.shards
        num_files = sum(max(1, len(files)) for files in self.local_files[: len(self.files)])
        return max(1, min(num_files, self.split_bytes[0] // MIN_SHARD_BYTES, MAX_SHARDS))

    def text_paths(self) -> list[str]:
        """Paths of the files that are named one by one, or downloaded."""
        return [text.input_path for text in self.texts if text.input_path]

    def split_paths(self) -> dict[str, list[str]]:
        """Paths of all files with text, by split."""
        paths = [
            [text.download_path] if text.url else [file.path for file in files if file.size]
            for text, files in zip(self.texts, self.local_files, strict=True)
        ]
        parts = {"train": paths[: len(self.files)], "valid": paths[len(self.files) :]}
        return {split: [path for group in groups for path in group] for split, groups in parts.items()}

    def file_identities(self) -> list[list[Any]]:
        """Return the path of each downloaded file, and number, bytes and digest of the files of each path, by split.

        The digest covers paths, sizes and times of the last change: an older file in the place of another is noticed.
        """
        identities = [
            text.download_path
            if text.url
            else {
                "path": text.path,
                "files": len(files),
                "bytes": sum(file.size for file in files),
                "digest": hashlib.sha256(repr(files).encode()).hexdigest()[:16],
            }
            for text, files in zip(self.texts, self.local_files, strict=True)
        ]
        return [identities[: len(self.files)], identities[len(self.files) :]]

    @model_validator(mode="after")
    def check_split(self) -> "FilesCorpus":
        """Require either files for validation or a fraction of the training text."""
        self.check_validation("valid")
        return self


DataFiles = str | list[str]


class DatasetCorpus(SplitSettings):
    """A dataset of the Hub, read as a stream by the library `datasets`, whose `load_dataset` takes these keys."""

    source: Literal["dataset"]
    """Kind of source."""
    name: Annotated[str, Field(min_length=1)]
    """Name on the Hub, local folder, or format of `data_files` (`json`, `csv`, `parquet`, `text`)."""
    config: str | None = None
    """Configuration, such as a language."""
    split: Annotated[str, Field(min_length=1)] = "train"
    """Split for training."""
    valid_split: Annotated[str, Field(min_length=1)] | None = None
    """Split for validation."""
    revision: str | None = None
    """Commit, branch or tag on the Hub."""
    data_files: DataFiles | dict[str, DataFiles] | None = None
    """Files of the dataset, by split if there are several."""

    @model_validator(mode="after")
    def check_split(self) -> "DatasetCorpus":
        """Require either a split for validation or a fraction of the training split."""
        self.check_validation("valid_split")
        return self


Corpus = Annotated[StoriesCorpus | DocstringsCorpus | FilesCorpus | DatasetCorpus, Field(discriminator="source")]
