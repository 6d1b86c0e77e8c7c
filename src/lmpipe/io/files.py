"""Files that are either complete or absent: atomic writes, checksums."""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO

from lmpipe.errors import InputError
from lmpipe.io.hints import make_again, make_first
from lmpipe.io.locks import is_same_file

CHUNK_BYTES = 1 << 20
STANDARD_OUTPUT = "standard output"
DISK_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
DISK_ERRNOS = DISK_FULL_ERRNOS | {errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENAMETOOLONG, errno.EISDIR}
# An integer of more digits than that is no count of anything, and could not be turned into a float.
MAX_INT_DIGITS = 40
# What this process has written under its real name, in order: the records of provenance list it.
files_written: list[Path] = []


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w", size: int | None = None) -> Iterator[IO]:
    """Open a file for writing that appears under its name only when the block ends without an error.

    The text is UTF-8 with plain newlines. It is written to `NAME.tmp-...` in the same folder, flushed to disk and
    renamed; leftovers of a killed writer are removed by the next one, while two writers at once leave each other's
    files alone. `size` is how many bytes will be written, where that is known before: a full disk is then told with
    what is missing. Raises InputError where the disk is full or the name belongs to something that is no file.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: expected a file to write, found a folder or a device; name another path")
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
            # mkstemp makes files private; results should be as readable as any other file of this user.
            os.chmod(temporary, 0o666 & ~current_umask())
            # While it is open and so held: afterwards it would pass for a leftover.
            os.replace(temporary, path)
        files_written.append(path)
    except BaseException as error:
        written = remove_temp_file(temporary)
        if isinstance(error, OSError) and error.errno in DISK_ERRNOS and is_own_temp_file(error, path):
            raise disk_error(error, path, written, size) from None
        raise


def create_temp_file(path: Path) -> tuple[int, str]:
    """Make `NAME.tmp-...` beside a file: its descriptor, which holds a lock until it is closed, and its path."""
    while True:
        descriptor, temporary = tempfile.mkstemp(prefix=f"{path.name}.tmp-", dir=path.parent)
        with contextlib.suppress(OSError):  # some file systems know no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # In the moment before that it passed for a leftover, which another writer may have removed.
        if is_same_file(Path(temporary), descriptor):
            return descriptor, temporary
        os.close(descriptor)


def remove_stale_temp_files(path: Path) -> None:
    """Delete what interrupted calls of `atomic_write` of this file left behind: nobody holds it any more."""
    prefix = f"{path.name}.tmp-"
    with os.scandir(path.parent) as entries:
        for entry in entries:
            if entry.name.startswith(prefix):
                # Gone meanwhile, still held by its writer, or of unknown state where there are no locks: it stays.
                with contextlib.suppress(OSError), open(entry.path, "ab") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(entry.path)


def remove_temp_file(temporary: str | None) -> int:
    """Delete an unfinished file where there is one; how many bytes it had."""
    if temporary is None or not os.path.exists(temporary):
        return 0
    written = os.stat(temporary).st_size
    os.unlink(temporary)
    return written


def is_own_temp_file(error: OSError, path: Path) -> bool:
    """Whether an error came of writing a file: Python names the temporary one then, or none."""
    return error.filename is None or str(error.filename).startswith(f"{path}.tmp-")


def disk_error(error: OSError, path: Path, written: int, size: int | None) -> Exception:
    """An error of the disk with the name of the file; where the disk (quota, limit) is full, with what is missing."""
    if error.errno not in DISK_FULL_ERRNOS:
        return OSError(error.errno, error.strerror, str(path))
    expected, found = f"room for more than {written:,} bytes", "none"
    if size is not None:
        expected, found = f"room for {size:,} bytes", f"{written:,} ({size - written:,} bytes are missing)"
    return InputError(
        f"{path}: expected {expected}, found {found}: {error.strerror}; make space and give the same command again"
    )


def current_umask() -> int:
    """The permission bits that this process withholds from new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, atomically. NaN and infinity are refused: they are not JSON."""
    data = json_bytes(value)
    with atomic_write(path, "wb", len(data)) as file:
        file.write(data)


def json_bytes(value: Any) -> bytes:
    """What `write_json` writes for a value: the same bytes each time."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # A lone surrogate, which UTF-8 cannot hold, becomes the escape that JSON has for it.
    return text.encode("utf-8", "backslashreplace")


def read_json(path: str | Path, remedy: str = "") -> Any:
    """Read a JSON file; raise InputError where it is missing or damaged. `remedy` is that of a file no rule makes."""
    try:
        with open(path, encoding="utf-8") as file:
            return parse_json(file.read())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {make_first(path)}") from None
    except ValueError as error:
        raise InputError(f"{path}: expected JSON, found damaged text ({error}); {remedy or make_again(path)}") from None


def parse_json(text: str) -> Any:
    """The value of a JSON text, strictly: no NaN or infinity, no key twice; raises ValueError for anything else."""
    try:
        return json.loads(
            text,
            parse_constant=refuse_constant,
            parse_float=finite_float,
            parse_int=bounded_int,
            object_pairs_hook=distinct_keys,
        )
    except RecursionError:
        raise ValueError("brackets are nested too deeply") from None


def refuse_constant(name: str) -> None:
    """Refuse NaN and infinity."""
    raise ValueError(f"{name} is not JSON")


def finite_float(digits: str) -> float:
    """A number with a decimal point or an exponent; raises ValueError where it exceeds every float."""
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"the number {digits[:MAX_INT_DIGITS]} is too large")
    return number


def bounded_int(digits: str) -> int:
    """A whole number; raises ValueError where it is absurdly long."""
    if len(digits) > MAX_INT_DIGITS:
        raise ValueError(f"a number has {len(digits):,} digits")
    return int(digits)


def distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of some pairs; raises ValueError where a key stands twice, since one value would be lost."""
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        again = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {again[:60]!r} stands twice")
    return values


def open_text(path: str | Path) -> BinaryIO:
    """Open a text file for reading bytes; raises InputError where there is none, or something without a size."""
    if not os.path.isfile(path):
        found = "a folder, a pipe or a device" if os.path.exists(path) else "none"
        raise InputError(f"{path}: expected a text file, found {found}; check the path or make the corpus first")
    return open(path, "rb")


def atomic_write_all(contents: Mapping[Path, bytes]) -> None:
    """Write small files that belong together: where one cannot be written, all stay as they were."""
    with contextlib.ExitStack() as open_files:
        for path, data in contents.items():
            file = open_files.enter_context(atomic_write(path, "wb", len(data)))
            file.write(data)
            file.flush()


def check_no_overwrite(inputs: Sequence[str | Path], outputs: Sequence[str | Path]) -> None:
    """Raise InputError where an output would take the place of an input or of another output, which would be lost."""
    if len(set(map(Path, outputs))) < len(outputs):
        raise InputError(f"{outputs[0]}: expected two names for two outputs, found one; give --output another ending")
    for output in outputs:
        for path in inputs:
            if os.path.exists(path) and os.path.exists(output) and os.path.samefile(path, output):
                raise InputError(f"{output}: expected a name for the output, found that of an input; name another one")


def copy_atomic(source: str | Path, target: str | Path) -> None:
    """Copy a file so that the target is complete or unchanged."""
    with open(source, "rb") as reader, atomic_write(target, "wb", os.fstat(reader.fileno()).st_size) as writer:
        shutil.copyfileobj(reader, writer, CHUNK_BYTES)


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(CHUNK_BYTES):
            digest.update(block)
    return digest.hexdigest()
