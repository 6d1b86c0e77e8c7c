"""File locks; the system releases them however a process ends."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lmpipe.io.progress import log

locked_until_exit: dict[Path, contextlib.AbstractContextManager] = {}


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
    if (path := Path(path).absolute()) not in locked_until_exit:
        locked_until_exit[path] = file_lock(path, waiting)
        locked_until_exit[path].__enter__()


def is_same_file(path: Path, descriptor: int) -> bool:
    """Return whether an open file is the one of this name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
