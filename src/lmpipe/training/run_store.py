"""The run store: each distinct training run is done once, in a folder named by a digest of all that decides its result.

Runs of several experiments that come to the same settings share a folder; a killed run goes on there.
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmpipe.errors import InputError
from lmpipe.io.files import copy_atomic, write_json
from lmpipe.io.locks import file_lock
from lmpipe.io.progress import log
from lmpipe.study.paths import CONFIG, METRICS, SUMMARY, WEIGHTS
from lmpipe.training.progress_file import PROGRESS_FILE

DIGEST_CHARACTERS = 20
IS_DIGEST = re.compile("[0-9a-f]+")
LOCK = "lock"
WAITING = "waiting for the process that trains this run"
COMPILED = "compiled"


def digest_of(identity: Any) -> str:
    """The name of a run's folder: a hash of everything that decides the result, as canonical JSON."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:DIGEST_CHARACTERS]


@dataclass(frozen=True)
class StoredRun:
    """One folder of the store: checkpoints while the run is under way, then its three shared result files."""

    folder: Path

    @classmethod
    def of(cls, results: str | Path, digest: str) -> "StoredRun":
        """The folder of a digest in a study's store; it is made where it is missing."""
        folder = Path(results) / "store" / digest
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder)

    @property
    def digest(self) -> str:
        """The digest that names the folder."""
        return self.folder.name

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie while the run is under way."""
        return self.folder / "checkpoints"

    @property
    def compiled(self) -> Path:
        """Where what torch compiles is kept, for all runs of the store."""
        return self.folder.parent / COMPILED

    @property
    def is_finished(self) -> bool:
        """Whether the results are complete: the summary is written last."""
        return all((self.folder / name).exists() for name in (METRICS, WEIGHTS, SUMMARY))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process alone; another one that wants it waits, and then finds the work done."""
        with file_lock(self.folder / LOCK, f"{WAITING} ({self.folder})"):
            yield

    def finish(self, summary: dict[str, Any]) -> None:
        """Declare the results complete and drop the checkpoints, which nothing needs any more."""
        write_json(self.folder / SUMMARY, summary)
        self.clean()

    def clean(self) -> None:
        """Remove what only an unfinished run needs."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        (self.folder / PROGRESS_FILE).unlink(missing_ok=True)

    def publish(self, output: str | Path, config: dict[str, Any]) -> None:
        """Copy the finished files to a run's own folder, with the configuration under which it asked for them."""
        # A process that was killed after the summary did not come to it.
        self.clean()
        # The largest first: where there is no room for it, nothing is changed.
        for name in (WEIGHTS, METRICS, SUMMARY):
            copy_atomic(self.folder / name, Path(output) / name)
        write_json(Path(output) / CONFIG, config)


def forget(results: str | Path) -> None:
    """Empty the store of a study; its published results stay, and runs asked for again are trained anew.

    Raises InputError where there is no store, and, removing nothing more, where a run is under way.
    """
    store = Path(results) / "store"
    if not store.is_dir():
        raise InputError(f"{results}: expected a study's results folder with a store, found none; check the path")
    folders = sorted(path for path in store.iterdir() if IS_DIGEST.fullmatch(path.name))
    for folder in folders:
        try:
            with file_lock(folder / LOCK):
                shutil.rmtree(folder)
        except BlockingIOError:
            raise InputError(f"{folder}: expected no run under way, found one; let it end or stop it") from None
    shutil.rmtree(store / COMPILED, ignore_errors=True)
    (store / COMPILED).with_suffix(".lock").unlink(missing_ok=True)
    log(f"{store}: {len(folders)} runs forgotten")
