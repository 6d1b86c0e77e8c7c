"""The block `corpora` of a study file: the source of each text and the size of its tokenizer."""

import hashlib
import os
import re
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from lmpipe.io.validation import InvalidValueError, short_repr
from lmpipe.study.fields import (
    REPEATED_PATTERN,
    Fraction,
    Label,
    PositiveInt,
    Seed,
    Settings,
    VocabSize,
    to_list,
    validate_unique,
)

PACKAGE = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
URL = re.compile(r"https?://[A-Za-z0-9._-]+(:[0-9]{1,5})?/[!-~]{1,2000}")
# Braces and angle brackets mark wildcards and variables of the workflow, a leading - an option of a command. Python
# shows bytes that are not text as lone surrogates, which no JSON in UTF-8 can hold.
FORBIDDEN_PATH = re.compile(r"-|.*[{}<>\x00\ud800-\udfff]", re.DOTALL)
MAX_FILENAME_CHARACTERS = 100
SHA256 = "^[0-9a-f]{64}$"
# Context of a validation of which only results are read: texts and packages of the corpora need not be there.
RESULTS_ONLY = "results only"


def validate_url(url: str) -> str:
    """Return an address that can be read or fetched."""
    if url.startswith("file:"):
        path = url.removeprefix("file:")
        if not path or FORBIDDEN_PATH.match(path):
            raise InvalidValueError(
                f"is {short_repr(url)}, whose path is empty, is not UTF-8, starts with '-' or contains one of {{}}<>",
                "rename the file, or link to it under another name",
            )
    elif not URL.fullmatch(url):
        raise InvalidValueError(
            f"is {short_repr(url)}, which is neither file:PATH nor https://HOST/PATH",
            "correct the address; spaces and accented letters are written as %20 and the like",
        )
    return url


def validate_sha256(digest: str) -> str:
    """Return a SHA-256 in hexadecimal."""
    if not re.fullmatch(SHA256, digest):
        raise InvalidValueError(
            f"is {short_repr(digest)}", "use 64 hexadecimal digits in lower case, as sha256sum prints"
        )
    return digest


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


class TokenizerSettings(Settings):
    """A byte-level BPE tokenizer: 256 bytes, the special token, and merges."""

    vocab_size: VocabSize
    """Token ids in all."""


class CorpusSettings(Settings):
    """Keys that every corpus has."""

    tokenizer: TokenizerSettings
    """Tokenizer that is trained on the corpus."""
    label: Label | None = None
    """Name in the report; the corpus's key if not set."""
    stands_for: Literal["TinyStories", "OpenWebText"] | None = None
    """Text of the write-up that the corpus is compared with."""
    shards: PositiveInt = 1
    """Jobs that count and encode the training text; the results are the same bytes."""

    def text_settings(self) -> dict[str, Any]:
        """Return the settings that decide the text, as JSON values, without the files of a `url` corpus."""
        return self.model_dump(mode="json", exclude={"tokenizer", "label", "stands_for", "shards", "files", "valid"})

    def text_paths(self) -> list[str]:
        """Paths of the files that the text is read from; none if it is generated."""
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


class TextFile(Settings):
    """A text file: local, or downloaded and checked."""

    url: Annotated[str, AfterValidator(validate_url)]
    """`https://...`, or `file:PATH`, relative to the folder where the workflow runs."""
    bytes: PositiveInt | None = None
    """Size of the file at the address."""
    sha256: Annotated[str, AfterValidator(validate_sha256), Field(json_schema_extra={"pattern": SHA256})] | None = None
    """Checksum of the decompressed text."""
    text_bytes: PositiveInt | None = None
    """Size of the decompressed text."""

    @property
    def local_path(self) -> str | None:
        """Path of a `file:` text, with single slashes; None for a text that is downloaded."""
        return re.sub("/+", "/", self.url.removeprefix("file:")) if self.url.startswith("file:") else None

    @property
    def path(self) -> str:
        """Path of the text on this machine, now or once it is downloaded."""
        return self.local_path or self.download_path

    @property
    def is_compressed(self) -> bool:
        """True if the text is published as a .gz file."""
        return urlsplit(self.url).path.endswith(".gz")

    @property
    def published_bytes(self) -> int | None:
        """Size of the file at the address if it is declared; a plain file is the text itself."""
        return self.bytes or (None if self.is_compressed else self.text_bytes)

    @property
    def download_path(self) -> str:
        """Path of the downloaded text, shared by all studies: named by its checksum, or else by its address."""
        key = (self.sha256 or hashlib.sha256(self.url.encode()).hexdigest())[:12]
        filename = re.sub(r"[^A-Za-z0-9._-]", "_", urlsplit(self.url).path.rpartition("/")[2]).removesuffix(".gz")
        return f"resources/{key}-{REPEATED_PATTERN.sub('', filename[-MAX_FILENAME_CHARACTERS:]) or 'text'}"

    @model_validator(mode="after")
    def check_local(self, info: ValidationInfo) -> "TextFile":
        """Require that a local text exists, can be read and is not empty; not if only results of the study are read."""
        if (path := self.local_path) is None or info.context == RESULTS_ONLY:
            return self
        if not os.path.isfile(path):
            raise InvalidValueError(
                f"is {short_repr(path)}, which is not a file below {Path.cwd()}", "correct the path"
            )
        if not os.access(path, os.R_OK):
            raise InvalidValueError(f"is {short_repr(path)}, which cannot be read", "change its permissions with chmod")
        if os.path.getsize(path) == 0:
            raise InvalidValueError(f"is {short_repr(path)}, which is empty", "use a text of at least two documents")
        return self


def text_file(value: Any) -> Any:
    """Return an address alone as the block of a text file."""
    return {"url": value} if isinstance(value, str) else value


TextFiles = Annotated[
    list[Annotated[TextFile, BeforeValidator(text_file, json_schema_input_type=str | TextFile)]],
    BeforeValidator(to_list, json_schema_input_type=str | TextFile | list[str | TextFile]),
    Field(min_length=1),
]


class UrlCorpus(CorpusSettings):
    """Texts of your own, local or downloaded, with `<|endoftext|>` between documents.

    `shards` is the number of `files` unless it is set.
    """

    source: Literal["url"]
    """Kind of source."""
    files: TextFiles
    """Texts for training."""
    valid: TextFiles | None = None
    """Texts for validation."""
    valid_fraction: Annotated[Fraction, Field(gt=0, lt=1)] | None = None
    """Fraction of the documents of `files` that is the validation split, in place of `valid`."""

    @property
    def texts(self) -> list[TextFile]:
        """Files for training, then those for validation."""
        return [*self.files, *(self.valid or [])]

    def text_paths(self) -> list[str]:
        """Paths of the files: those for training, then those for validation."""
        return [text.path for text in self.texts]

    @model_validator(mode="before")
    @classmethod
    def set_shards(cls, value: Any) -> Any:
        """Set the number of shards to that of the files unless it is given."""
        files = value.get("files") if isinstance(value, dict) else None
        is_set = not isinstance(files, list) or len(files) < 2 or "shards" in value
        return value if is_set else {**value, "shards": len(files)}

    @model_validator(mode="after")
    def check_split(self) -> "UrlCorpus":
        """Require either files for validation or a fraction of the training text."""
        if self.valid is None and self.valid_fraction is None:
            raise InvalidValueError(
                "has no validation split", "add valid (files of their own) or valid_fraction (such as 0.1)"
            )
        if self.valid is not None and self.valid_fraction is not None:
            raise InvalidValueError("has both valid and valid_fraction", "remove one of them")
        return self


Corpus = Annotated[StoriesCorpus | DocstringsCorpus | UrlCorpus, Field(discriminator="source")]
