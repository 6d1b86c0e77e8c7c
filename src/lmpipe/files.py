"""Files that are either complete or absent: atomic writes, checksums, downloads."""

import contextlib
import gzip
import hashlib
import http.client
import json
import os
import shutil
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from lmpipe import InputError
from lmpipe.progress import progress

CHUNK_BYTES = 1 << 20


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Open a file for writing that appears under its name only when the block ends without an error.

    The text is UTF-8 with plain newlines. It is written to `NAME.tmp-...` in the same folder, flushed to disk and
    renamed; leftovers of a killed writer are removed by the next one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    descriptor, temporary = tempfile.mkstemp(prefix=f"{path.name}.tmp-", dir=path.parent)
    try:
        with os.fdopen(descriptor, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; results should be as readable as any other file of this user.
        os.chmod(temporary, 0o666 & ~current_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def current_umask() -> int:
    """The permission bits that this process withholds from new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def remove_leftovers(path: Path) -> None:
    """Delete what an interrupted `atomic_write` of this file left behind."""
    prefix = f"{path.name}.tmp-"
    with os.scandir(path.parent) as entries:
        for entry in entries:
            if entry.name.startswith(prefix):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(entry.path)


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, atomically. NaN and infinity are refused: they are not JSON."""
    with atomic_write(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; raise InputError where it is missing or damaged."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; make it first (snakemake --cores 1 {path})") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: expected JSON, found damaged text ({error}); delete the file and make it again"
        ) from None


def copy_atomic(source: str | Path, target: str | Path) -> None:
    """Copy a file so that the target is complete or unchanged."""
    with open(source, "rb") as reader, atomic_write(target, "wb") as writer:
        shutil.copyfileobj(reader, writer, CHUNK_BYTES)


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(CHUNK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def download(url: str, path: str | Path, text_bytes: int | None = None, sha256: str | None = None) -> None:
    """Fetch a text, decompressing gzip, and give it its name only once its size and checksum are right.

    Raises InputError for what the server refuses and for a text that is not the declared one.
    """
    size, digest = 0, hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=60) as response, atomic_write(path, "wb") as file:
            compressed = urllib.parse.urlsplit(url).path.endswith(".gz")
            total = None if compressed else int(response.headers.get("Content-Length") or 0)
            reader = gzip.GzipFile(fileobj=response) if compressed else response
            with progress(f"downloading {Path(path).name}", text_bytes or total or 0, "bytes") as bar:
                while block := reader.read(CHUNK_BYTES):
                    file.write(block)
                    digest.update(block)
                    size += len(block)
                    bar.advance(len(block))
            check_text(url, size, text_bytes if compressed else text_bytes or total, digest.hexdigest(), sha256)
    except (urllib.error.URLError, http.client.HTTPException, EOFError, zlib.error, TimeoutError) as error:
        raise InputError(f"{url}: the download failed ({error}); try again later, or put the text at {path}") from None


def check_text(url: str, size: int, text_bytes: int | None, digest: str, sha256: str | None) -> None:
    """Raise InputError unless a text has the size and the checksum that were declared for it."""
    if text_bytes and size != text_bytes:
        raise InputError(f"{url}: expected {text_bytes:,} bytes of text, found {size:,}; download it again")
    if sha256 and digest != sha256:
        raise InputError(f"{url}: expected sha256 {sha256}, found {digest}; the published text is another one")
