"""Files that are complete or absent: atomic writes, JSON, checksums, and locks."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO

from lmpipe.errors import BUILD, REBUILD, InputError
from lmpipe.io.progress import log

CHUNK_BYTES = 1 << 20
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
STANDARD_OUTPUT = "standard output"
DISK_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
DISK_ERRNOS = DISK_FULL_ERRNOS | {errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENAMETOOLONG, errno.EISDIR}
# Lists that `collect_writes` fills.
_collectors: list[list[Path]] = []
_locked_until_exit: dict[Path, contextlib.AbstractContextManager] = {}


def refuse_non_file(path: Path) -> None:
    """Raise InputError if a name belongs to something other than a file."""
    if path.exists() and not path.is_file():
        raise InputError(path, f"is a {'directory' if path.is_dir() else 'device'}", "choose another path")


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w", size: int | None = None) -> Iterator[IO]:
    """Open a file for writing that appears under its name only if the block ends without an error.

    Text is UTF-8 with Unix line ends. It is written to `NAME.tmp-...` in the same folder, flushed to disk and renamed.
    The next writer of the file removes temporary files of killed ones; simultaneous writers do not disturb each other.
    `size` is the number of bytes to be written, if known: the error of a full disk then says how many are missing.
    Raises InputError if the disk is full or the name belongs to something other than a file.
    """
    path = Path(path)
    refuse_non_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale_temp_files(path)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    temporary = None
    try:
        descriptor, temporary = create_temp_file(path)
        with os.fdopen(descriptor, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            # mkstemp makes files private; results are as readable as any other file of this user.
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(temporary, 0o666 & ~mask)
            # Renamed while it is open and locked: after that, another writer could take it for stale.
            os.replace(temporary, path)
        for collector in _collectors:
            collector.append(path)
    except BaseException as error:
        written_bytes = 0
        if temporary is not None and os.path.exists(temporary):
            written_bytes = os.stat(temporary).st_size
            os.unlink(temporary)
        is_disk_error = isinstance(error, OSError) and error.errno in DISK_ERRNOS
        # An error about the temporary file names it, or no file.
        if is_disk_error and (error.filename is None or str(error.filename).startswith(f"{path}.tmp-")):
            raise disk_error(error, path, written_bytes, size) from None
        raise


@contextlib.contextmanager
def collect_writes() -> Iterator[list[Path]]:
    """Collect the paths of the files that `atomic_write` completes inside the block, in order."""
    paths: list[Path] = []
    _collectors.append(paths)
    try:
        yield paths
    finally:
        _collectors.pop()


@dataclass(frozen=True)
class JobResult:
    """Result of a subcommand: the file that it wrote or the folder that it filled, and further entries of its record.

    `inputs` are files, or folders for all files in them; `settings` are those of the study that decided the result;
    `facts` are further entries, which replace those of this process.
    """

    output: Path
    inputs: Sequence[str | Path] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def create_temp_file(path: Path) -> tuple[int, str]:
    """Create `NAME.tmp-...` beside a file; return its descriptor, which holds a lock until closed, and its path."""
    while True:
        descriptor, temporary = tempfile.mkstemp(prefix=f"{path.name}.tmp-", dir=path.parent)
        with contextlib.suppress(OSError):  # some file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Before it was locked, another writer may have removed it as stale.
        if is_same_file(Path(temporary), descriptor):
            return descriptor, temporary
        os.close(descriptor)


def remove_stale_temp_files(path: Path) -> None:
    """Delete the temporary files of a file that no process holds a lock on."""
    prefix = f"{path.name}.tmp-"
    with os.scandir(path.parent) as entries:
        for entry in entries:
            if entry.name.startswith(prefix):
                # A file stays if it is gone already, locked by its writer, or on a file system without locks.
                with contextlib.suppress(OSError), open(entry.path, "ab") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(entry.path)


def disk_error(error: OSError, path: Path, written_bytes: int, size: int | None) -> Exception:
    """Return an error of the disk that names the file, and if it is full (quota, limit) the bytes that are missing."""
    if error.errno not in DISK_FULL_ERRNOS:
        return OSError(error.errno, error.strerror, str(path))
    missing = f"{written_bytes:,} bytes were written"
    if size:
        missing = f"{size - written_bytes:,} of {size:,} bytes are missing"
    return InputError(path, f"does not fit ({error.strerror}): {missing}", "free some space and repeat the command")


def write_all(file: IO[bytes], block: bytes, path: Path, size: int | None = None) -> None:
    """Append a block to an unbuffered file; `path` and the `size` to come are those of an error of the disk."""
    left = memoryview(block)
    while left:
        try:
            left = left[file.write(left) :]
        except OSError as error:
            raise disk_error(error, path, file.tell(), size) from None


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, atomically; raise ValueError for NaN and infinity, which JSON does not have."""
    data = json_bytes(value)
    with atomic_write(path, "wb", len(data)) as file:
        file.write(data)


def json_bytes(value: Any) -> bytes:
    """Return the bytes that `write_json` writes for a value."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # UTF-8 cannot hold a lone surrogate, as in the path of a file that is not UTF-8, and pydantic refuses its escape in
    # JSON: it becomes the text of the escape.
    return LONE_SURROGATE.sub(lambda match: rf"\\u{ord(match[0]):04x}", text).encode()


def read_json(path: str | Path) -> Any:
    """Read a JSON file; raise InputError if it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(path, "is missing", BUILD) from None
    except RecursionError:
        raise InputError(path, "is not valid JSON (it is nested too deeply)", REBUILD) from None
    except ValueError as error:
        raise InputError(path, f"is not valid JSON ({error})", REBUILD) from None


def open_text(path: str | Path) -> BinaryIO:
    """Open a text file for reading bytes; raise InputError if it is missing or not a file."""
    if not os.path.exists(path):
        raise InputError(path, "is missing", "check the path")
    if not os.path.isfile(path):
        kind = "directory" if os.path.isdir(path) else "pipe or a device"
        raise InputError(path, f"is a {kind}", "name a text file")
    return open(path, "rb")


def atomic_write_all(contents: Mapping[Path, bytes]) -> None:
    """Write small files that belong together; if one cannot be written, none is changed."""
    with contextlib.ExitStack() as open_files:
        for path, data in contents.items():
            file = open_files.enter_context(atomic_write(path, "wb", len(data)))
            file.write(data)
            file.flush()


def check_no_overwrite(inputs: Sequence[str | Path], outputs: Sequence[str | Path]) -> None:
    """Raise InputError if an output would replace an input or another output."""
    if len(set(map(Path, outputs))) < len(outputs):
        raise InputError(outputs[0], "is the name of two outputs", "give --output another ending")
    for output in outputs:
        for path in inputs:
            if os.path.exists(path) and os.path.exists(output) and os.path.samefile(path, output):
                raise InputError(output, "is also an input", "choose another output")


def copy_atomic(source: str | Path, target: str | Path) -> None:
    """Copy a file; the target is complete or unchanged."""
    with open(source, "rb") as reader, atomic_write(target, "wb", os.fstat(reader.fileno()).st_size) as writer:
        shutil.copyfileobj(reader, writer, CHUNK_BYTES)


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- locks: the system releases them however a process ends -----------------------------------------------------------


@contextlib.contextmanager
def file_lock(path: str | Path, waiting: str | None = None) -> Iterator[IO[bytes]]:
    """Open a file for appending, and create it if it is missing, for this process alone.

    While another process holds it, log `waiting` and wait; without that text, raise BlockingIOError.
    """
    path = Path(path)
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting is None:
                    raise
                log(waiting)
                fcntl.flock(file, fcntl.LOCK_EX)
            # If the last holder renamed or removed the file, this lock is on a file of another name.
            if is_same_file(path, file.fileno()):
                yield file
                return


def lock_until_exit(path: str | Path, waiting: str) -> None:
    """Lock a file for this process until it ends; log `waiting` while another process holds it."""
    if (path := Path(path).absolute()) not in _locked_until_exit:
        _locked_until_exit[path] = file_lock(path, waiting)
        _locked_until_exit[path].__enter__()


def is_same_file(path: Path, descriptor: int) -> bool:
    """Return True if an open file is the one of this name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
