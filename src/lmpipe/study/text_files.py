"""Text files that a study names: local paths, folders and patterns, and addresses of files to download."""

import glob
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from lmpipe.errors import InputError
from lmpipe.io.files import open_text
from lmpipe.io.validation import InvalidValueError, short_repr
from lmpipe.study.fields import REPEATED_PATTERN, PositiveInt, Settings, to_list

RECORD_FORMATS = (".jsonl", ".csv", ".parquet")
FORMATS = (".txt", *RECORD_FORMATS)
OTHER_ENDINGS = {".json": ".jsonl", ".ndjson": ".jsonl"}  # as many datasets of the Hub call JSON Lines
COMPRESSIONS = (".gz", ".xz", ".zst")
ENDINGS = tuple(name + compression for name in FORMATS for compression in ("", *COMPRESSIONS))
HUB = "https://huggingface.co/"
URL = re.compile(r"https?://[A-Za-z0-9._-]+(:[0-9]{1,5})?/[!-~]{1,2000}")
HUB_FILE = re.compile(
    r"hf://datasets/(?P<name>[\w.-]+/[\w.-]+)@(?P<revision>(?:refs/(?:convert|pr)/)?[\w.-]+)/(?P<file>[!-~]{1,1000})",
    re.ASCII,
)
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|file:|hf:")
# Braces and angle brackets mark wildcards and variables of the workflow, a leading - an option of a command. Python
# shows bytes that are not text as lone surrogates, which no JSON in UTF-8 can hold.
FORBIDDEN_PATH = re.compile(r"-|.*[{}<>\x00\ud800-\udfff]", re.DOTALL)
MAX_FILENAME_CHARACTERS = 100
SHA256 = "^[0-9a-f]{64}$"
UNPACKED_RATIO = 3  # bytes of text for a byte of a compressed file, about


def text_format(path: str) -> tuple[str, str]:
    """Return the ending of a name's format and of its compression; all names but those of FORMATS are plain text.

    >>> text_format("a/b.JSONL.gz"), text_format("README"), text_format("c.md.xz"), text_format("d.json")
    (('.jsonl', '.gz'), ('.txt', ''), ('.txt', '.xz'), ('.jsonl', ''))
    """
    name, compression = os.path.splitext(path.lower())
    if compression not in COMPRESSIONS:
        name, compression = path.lower(), ""
    ending = os.path.splitext(name)[1]
    ending = OTHER_ENDINGS.get(ending, ending)
    return (ending if ending in FORMATS else ".txt"), compression


def open_plain_text(path: str | Path) -> BinaryIO:
    """Open a text file for reading bytes; raise InputError as `open_text` does, and for the name of another format."""
    if text_format(str(path)) != (".txt", ""):
        raise InputError(path, "is no plain text by its name", "write its texts to a .txt file, and name that")
    return open_text(path)


class SourceFile(NamedTuple):
    """A local file: path, size in bytes, and time of the last change."""

    path: str
    size: int
    mtime_ns: int


def list_files(path: str) -> list[SourceFile]:
    """Return the file of a path, the files of a pattern, or those of FORMATS in a folder and below it, sorted.

    Names that begin with a dot are left out, as in a shell. Raises InputError if there is no file.
    """
    if is_folder := os.path.isdir(path):
        paths = list(walk(path))
    elif os.path.exists(path):
        paths = [path]
    elif glob.has_magic(path):
        paths = sorted(glob.iglob(path, recursive=True))
    else:
        raise InputError(path, f"is no file or folder below {Path.cwd()}", "correct the path")
    files = [SourceFile(file, status.st_size, status.st_mtime_ns) for file, status in regular_files(paths)]
    if not files:
        kinds = f"{', '.join(FORMATS)} or one of these as {', '.join(COMPRESSIONS)}"
        problem = f"has no file that ends in {kinds}" if is_folder else "is or matches no file"
        raise InputError(path, problem, "name other files by a pattern, such as docs/**/*.md")
    return files


def walk(folder: str) -> Iterator[str]:
    """Yield the files of a folder and below it whose names end in one of FORMATS, in order.

    Raises InputError for a folder that cannot be read, and for a link to a folder: it may lead in a circle.
    """
    for parent, folders, names in os.walk(folder, onerror=refuse_folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if link := next((name for name in folders if os.path.islink(os.path.join(parent, name))), None):
            remedy = "name that folder, too, or use a pattern such as texts/**/*.txt, which follows links"
            raise InputError(os.path.join(parent, link), "is a link to a folder, which is not followed", remedy)
        for name in sorted(names):
            if name.lower().endswith(ENDINGS) and not name.startswith("."):
                yield os.path.join(parent, name)


def refuse_folder(error: OSError) -> None:
    """Raise InputError for a folder that cannot be listed."""
    raise InputError(error.filename, f"cannot be read ({error.strerror})", "correct its permissions, or remove it")


def regular_files(paths: list[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield paths of regular files, with their status; raise InputError for a broken link."""
    for path in paths:
        try:
            status = os.stat(path)
        except OSError as error:
            raise InputError(path, f"cannot be read ({error.strerror})", "correct or remove it") from None
        if stat.S_ISREG(status.st_mode):
            yield path, status


def validate_path(path: str) -> str:
    """Return an address that can be fetched, or a local path with single slashes."""
    if URL.fullmatch(path) or HUB_FILE.fullmatch(path):
        return path
    if path.startswith("hf:"):
        raise InvalidValueError(f"is {short_repr(path)}", "write hf://datasets/OWNER/NAME@REVISION/path/of/file")
    if SCHEME.match(path):
        raise InvalidValueError(
            f"is {short_repr(path)}, which is neither a path nor https://HOST/PATH",
            "correct it; in an address, spaces and accented letters are written as %20 and the like",
        )
    if not path or FORBIDDEN_PATH.match(path):
        raise InvalidValueError(
            f"is {short_repr(path)}, a path that is empty, is not UTF-8, starts with '-' or contains one of {{}}<>",
            "rename the file, or link to it under another name",
        )
    return re.sub("/+", "/", path)


def validate_sha256(digest: str) -> str:
    """Return a SHA-256 in hexadecimal."""
    if not re.fullmatch(SHA256, digest):
        raise InvalidValueError(
            f"is {short_repr(digest)}", "use 64 hexadecimal digits in lower case, as sha256sum prints"
        )
    return digest


class TextFile(Settings):
    """Local files, or a file that is downloaded and checked."""

    path: Annotated[str, AfterValidator(validate_path)]
    """File, folder or pattern (`texts/**/*.jsonl.gz`), or `https://...`, or `hf://datasets/OWNER/NAME@REVISION/path`."""
    bytes: PositiveInt | None = None
    """Size of the file at the address."""
    sha256: Annotated[str, AfterValidator(validate_sha256), Field(json_schema_extra={"pattern": SHA256})] | None = None
    """Checksum of the file, unpacked if it is compressed."""
    text_bytes: PositiveInt | None = None
    """Size of the file, unpacked if it is compressed."""

    @property
    def url(self) -> str | None:
        """Address to fetch the file from; None for local files."""
        if match := HUB_FILE.fullmatch(self.path):
            name, revision, file = match.groups()
            return f"{HUB}datasets/{name}/resolve/{quote(revision, safe='')}/{quote(unquote(file))}"
        return self.path if URL.fullmatch(self.path) else None

    @property
    def is_compressed(self) -> bool:
        """True if the name of the file is that of a compressed one."""
        return bool(text_format(urlsplit(self.url).path if self.url else self.path)[1])

    @property
    def published_bytes(self) -> int | None:
        """Size of the file at the address if it is declared; a file that is not compressed is the text itself."""
        return self.bytes or (None if self.is_compressed else self.text_bytes)

    @property
    def download_path(self) -> str:
        """Path of the downloaded file, unpacked, shared by all studies: named by its checksum, or else by its address.

        The file's own name is part of it, with the ending of its format.
        """
        key = (self.sha256 or hashlib.sha256(self.url.encode()).hexdigest())[:12]
        filename = re.sub(r"[^A-Za-z0-9._-]", "_", urlsplit(self.url).path.rpartition("/")[2])
        if self.is_compressed:
            filename = filename.rpartition(".")[0]
        return f"resources/{key}-{REPEATED_PATTERN.sub('', filename[-MAX_FILENAME_CHARACTERS:]) or 'text'}"

    @property
    def input_path(self) -> str | None:
        """Path of the one file that is meant, now or once it is downloaded; None for a folder or a pattern."""
        return self.download_path if self.url else self.path if os.path.isfile(self.path) else None

    @cached_property
    def local_files(self) -> list[SourceFile]:
        """Local files; none for an address. Raises InputError if there should be some, but are none."""
        if self.url:
            return []
        files = list_files(self.path)
        if self.input_path and not files[0].size:
            raise InputError(self.path, "is empty", "use a text of at least two documents")
        if not self.input_path and (self.bytes or self.sha256 or self.text_bytes):
            raise InputError(self.path, "is not one file, but has sizes or a checksum", "remove them")
        return files

    @property
    def declared_bytes(self) -> int:
        """Size of the text as declared; 0 if it is not."""
        return self.text_bytes or (0 if self.is_compressed else self.bytes or 0)

    @property
    def estimated_bytes(self) -> int:
        """Size of the text: of its local files, or as declared."""
        sizes = (file.size * (UNPACKED_RATIO if text_format(file.path)[1] else 1) for file in self.local_files)
        return self.declared_bytes if self.url else sum(sizes)

    @property
    def paths(self) -> list[str]:
        """Paths of the files with text, once they are downloaded."""
        return [self.download_path] if self.url else [file.path for file in self.local_files if file.size]

    @property
    def identity(self) -> str | dict[str, Any]:
        """Path of a downloaded file, or number, bytes and digest of the local files.

        The digest covers paths, sizes and times of the last change: an older file in the place of another is noticed.
        """
        if self.url:
            return self.download_path
        files = self.local_files
        digest = hashlib.sha256(repr(files).encode()).hexdigest()[:16]
        return {"path": self.path, "files": len(files), "bytes": sum(file.size for file in files), "digest": digest}


TextFileOrPath = Annotated[
    TextFile,
    BeforeValidator(
        lambda value: {"path": value} if isinstance(value, str) else value, json_schema_input_type=str | TextFile
    ),
]
TextFiles = Annotated[
    list[TextFileOrPath],
    BeforeValidator(to_list, json_schema_input_type=str | TextFile | list[str | TextFile]),
    Field(min_length=1),
]
