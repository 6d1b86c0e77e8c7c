"""The block `corpora` of a study file: the source of each text and the size of its tokenizer."""

import glob
import os
import re
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import chain
from typing import Annotated, Any, ClassVar, Literal

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
    to_list,
    validate_unique,
)
from lmpipe.study.text_files import SCHEME, TextFile, TextFiles, text_format, validate_path

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
    """Keys of corpora whose documents are read from files or a dataset; `valid_key` is that of a validation text."""

    valid_key: ClassVar[str]
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

    @model_validator(mode="after")
    def check_split(self) -> "SplitSettings":
        """Require either a separate validation text or a fraction of the training text."""
        key = self.valid_key
        if getattr(self, key) is None and self.valid_fraction is None:
            problem = "has no validation split"
            raise InvalidValueError(problem, f"add {key} (a separate text) or valid_fraction (such as 0.1)")
        if getattr(self, key) is not None and self.valid_fraction is not None:
            raise InvalidValueError(f"has both {key} and valid_fraction", "remove one of them")
        return self

    @property
    def split_texts(self) -> dict[str, list[TextFile]]:
        """Files for training and for validation, as far as they are known before they are read."""
        raise NotImplementedError

    @property
    def texts(self) -> list[TextFile]:
        """Files for training, then those for validation."""
        return list(chain.from_iterable(self.split_texts.values()))

    @cached_property
    def split_bytes(self) -> tuple[int, int]:
        """Estimated size of the training and the validation text; files that are not here or declared count as 0."""
        try:
            sizes = [sum(text.estimated_bytes for text in texts) for texts in self.split_texts.values()]
        except InputError:  # the results of a study are read without its texts
            return 0, 0
        held_out = round(sizes[0] * (self.valid_fraction or 0))
        return sizes[0] - held_out, sizes[1] + held_out

    def file_identities(self) -> list[list[Any]]:
        """Return the identity of each text, by split."""
        return [[text.identity for text in texts] for texts in self.split_texts.values()]

    def format_of(self, path: str) -> str | None:
        """Return the ending of the format in which a file is read; None if it is not known."""
        return text_format(path)[0]


class FilesCorpus(SplitSettings):
    """Texts of your own, local or downloaded; in plain texts, `<|endoftext|>` ends a document."""

    valid_key = "valid"
    source: Literal["files"]
    """Kind of source."""
    files: TextFiles
    """Texts for training: `.txt`, `.jsonl`, `.csv` or `.parquet`, also as `.gz`, `.xz` or `.zst`."""
    valid: TextFiles | None = None
    """Texts for validation."""
    documents: DocumentUnit = "delimiter"
    """A document of a plain text: up to the delimiter, a line, between blank lines, or a file."""

    @property
    def split_texts(self) -> dict[str, list[TextFile]]:
        """Files for training and for validation."""
        return {"train": self.files, "valid": self.valid or []}

    @cached_property
    def num_shards(self) -> int:
        """Number of shards: as set, or one for each 64 MB, but no more than there are files."""
        if self.shards:
            return self.shards
        num_files = sum(max(1, len(text.local_files)) for text in self.files)
        return max(1, min(num_files, self.split_bytes[0] // MIN_SHARD_BYTES, MAX_SHARDS))

    def text_paths(self) -> list[str]:
        """Paths of the files that are named one by one, or downloaded."""
        return [text.input_path for text in self.texts if text.input_path]

    def split_paths(self) -> dict[str, list[str]]:
        """Paths of all files with text, by split."""
        return {split: [path for text in texts for path in text.paths] for split, texts in self.split_texts.items()}


DataFiles = str | list[str]
# Endings of what the formats of `datasets` read. JSON need not be one record a line there.
DATASET_FORMATS = {"json": ".json", "csv": ".csv", "parquet": ".parquet", "text": ".txt"}


class DatasetCorpus(SplitSettings):
    """A dataset of the Hub, read as a stream by the library `datasets`, whose `load_dataset` takes these keys."""

    valid_key = "valid_split"
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

    @cached_property
    def split_texts(self) -> dict[str, list[TextFile]]:
        """Local files for training and for validation; none of a dataset on the Hub."""
        folder = "" if self.name in DATASET_FORMATS else self.name
        texts: dict[str, list[TextFile]] = {"train": [], "valid": []}
        if os.path.isdir(folder or "."):
            data_files = self.data_files or (["**"] if folder else [])
            files = data_files if isinstance(data_files, dict) else {"": data_files}
            train, valid = (split.partition("[")[0] for split in (self.split, self.valid_split or self.split))
            for split, paths in files.items():
                local = [os.path.join(glob.escape(folder), path) for path in to_list(paths) if not SCHEME.match(path)]
                is_valid = split == valid != train
                texts["valid" if is_valid else "train"] += [TextFile.model_construct(path=path) for path in local]
        return texts

    def format_of(self, path: str) -> str | None:
        """Return the ending of the format that `name` is; None for a folder."""
        return DATASET_FORMATS.get(self.name)


Corpus = Annotated[StoriesCorpus | DocstringsCorpus | FilesCorpus | DatasetCorpus, Field(discriminator="source")]
