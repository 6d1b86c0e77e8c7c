"""Check of the text files of a study before its first job; files that passed are not opened again."""

import contextlib
import hashlib
import os

from lmpipe.data.sources.first_bytes import check_file
from lmpipe.errors import InputError
from lmpipe.kernels.runtime.disk_cache import cache_folder
from lmpipe.planning.plan import Plan
from lmpipe.study.corpora import UrlCorpus

KEY_BYTES = 16
MAX_CACHE_BYTES = 1 << 26
CHECK_VERSION = "1"  # a new one has all files opened again


def check_texts(plan: Plan, source: str) -> None:
    """Raise InputError for the first text file of a study that is not text; `source` names the study file."""
    with CheckedFiles() as checked:
        for name, corpus in plan.study.corpora.items():
            if isinstance(corpus, UrlCorpus):
                for key, texts in (("files", corpus.files), ("valid", corpus.valid or ())):
                    for path in filter(None, (text.local_path for text in texts)):
                        try:
                            checked.check(path)
                        except InputError as error:
                            problem = f"corpora.{name}.{key}: {error.where} {error.problem}"
                            raise InputError(source, problem, error.remedy) from None


class CheckedFiles:
    """Files that passed a check in an earlier call, known by path, size and time of the last change.

    The cache file holds a digest of KEY_BYTES for each. It grows at its end, so that simultaneous calls lose nothing.
    """

    def __enter__(self) -> "CheckedFiles":
        self.path = cache_folder() / "checked-texts"
        try:
            data = self.path.read_bytes()
        except OSError:
            data = b""
        data = data if len(data) <= MAX_CACHE_BYTES else b""
        self.known = {data[start : start + KEY_BYTES] for start in range(0, len(data), KEY_BYTES)}
        self.added: list[bytes] = []
        return self

    def check(self, path: str) -> None:
        """Check a file unless it is known; raise InputError if it is not the text that its name promises."""
        status = os.stat(path)
        identity = f"{CHECK_VERSION}\0{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}"
        key = hashlib.blake2b(identity.encode("utf-8", "surrogateescape"), digest_size=KEY_BYTES).digest()
        if key not in self.known:
            check_file(path)
            self.known.add(key)
            self.added.append(key)

    def __exit__(self, *_: object) -> None:
        if self.added:
            with contextlib.suppress(OSError), open(self.path, "ab") as file:
                if file.tell() > MAX_CACHE_BYTES or file.tell() % KEY_BYTES:
                    file.truncate(0)
                file.write(b"".join(self.added))
