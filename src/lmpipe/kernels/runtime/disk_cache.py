"""Cache of compiled code and derived tables in a private folder of the user, shared by all processes."""

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from lmpipe.errors import InputError
from lmpipe.io.files import atomic_write
from lmpipe.io.progress import log

CHECKSUM_BYTES = 32


def cached(name: str, key: str, make: Callable[[], bytes]) -> bytes:
    """Return the content of a key from the cache; call `make` if it is missing or damaged.

    Processes that need the same content wait for the first one. If the folder cannot be written (a full or read-only
    disk), the content is made for this process alone, with one notice.
    """
    data = None
    try:
        path = cache_folder() / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.bin"
        if (data := read_checked(path)) is None:
            with file_lock(path.with_suffix(".lock")):
                if (data := read_checked(path)) is None:
                    data = make()
                    with atomic_write(path, "wb") as file:
                        file.write(hashlib.sha256(data).digest() + data)
    except (OSError, InputError) as error:
        log_uncached(str(error))
    return make() if data is None else data


_notices: list[str] = []


def log_uncached(reason: str) -> None:
    """Log, once in a process, that compiled kernels are not kept for other processes."""
    if not _notices:
        notice = f"lmpipe: the kernels are compiled for this process alone ({reason})"
        log(f"{notice}; set XDG_CACHE_HOME or LMPIPE_CACHE to a folder that can be written")
        _notices.append(notice)


def read_checked(path: Path) -> bytes | None:
    """Return the content of a cache file; None if there is none or its checksum is wrong."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    checksum, data = data[:CHECKSUM_BYTES], data[CHECKSUM_BYTES:]
    return data if hashlib.sha256(data).digest() == checksum else None


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold a lock file while the block runs. On a file system without locks, two processes may do the same work."""
    with open(path, "w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cache_folder(name: str = "kernels") -> Path:
    """Return a folder of the cache: in LMPIPE_CACHE, XDG_CACHE_HOME/lmpipe, ~/.cache/lmpipe or a temporary one.

    Code is loaded from there, so it must belong to this user, and no one else may write to it.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(os.environ.get("LMPIPE_CACHE") or Path(home) / "lmpipe")
    temporary = Path(tempfile.gettempdir()) / f"lmpipe-{os.getuid()}"
    for folder in (root / name, temporary / name):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if is_private(folder):
                return folder
        except OSError:
            continue
    return Path(tempfile.mkdtemp(prefix="lmpipe-"))


def is_private(folder: Path) -> bool:
    """Return whether a folder is this user's, who can write to it, and no one else can."""
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022 and os.access(folder, os.W_OK)
