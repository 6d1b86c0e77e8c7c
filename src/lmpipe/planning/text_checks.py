"""Check of the text files of a study before its first job; files that passed are not opened again."""

import contextlib
import hashlib
import os
import shlex
import time
from collections import Counter
from datetime import datetime
from itertools import chain

from lmpipe.data.sources.readers import check_file
from lmpipe.errors import InputError
from lmpipe.kernels.runtime.disk_cache import cache_folder
from lmpipe.planning.plan import Plan
from lmpipe.planning.session import RESULTS
from lmpipe.study.corpora import FilesCorpus, SplitSettings
from lmpipe.study.text_files import SourceFile, text_format

MAX_CACHE_BYTES = 1 << 26
CHECK_VERSION = "1"  # a new one has all files opened again


def check_texts(plan: Plan, source: str) -> None:
    """Raise InputError for the first file of a study that is missing, named twice, no text or no tokenizer.

    `source` names the study file.
    """
    corpora = {name: corpus for name, corpus in plan.study.corpora.items() if isinstance(corpus, SplitSettings)}
    for name, path in plan.existing_tokenizers().items():
        from lmpipe.tokenizer.existing import check_vocab_size, read_tokenizer, tokenizer_files  # loads NumPy

        try:
            check_vocab_size(read_tokenizer(tokenizer_files(path)), path, plan.tokenizers[name][1])
        except InputError as error:
            raise InputError(source, f"corpora.{name}.tokenizer: {error.where} {error.problem}", error.remedy) from None
    with CheckedFiles() as checked:
        for name, corpus in corpora.items():
            try:
                if isinstance(corpus, FilesCorpus):
                    check_paths(corpus, plan.study.study)
                for file in chain.from_iterable(text.local_files for text in corpus.texts):
                    if ending := corpus.format_of(file.path):
                        checked.check(file, ending, corpus.text_key)
            except InputError as error:
                raise InputError(source, f"corpora.{name}: {error.where} {error.problem}", error.remedy) from None


def check_paths(corpus: FilesCorpus, study: str) -> None:
    """Raise InputError if a corpus has a file twice, results among its files, or settings that no file uses.

    A result of another study may be named alone, but is not meant by a folder or pattern.
    """
    paths = list(chain.from_iterable(corpus.split_paths().values()))
    for text in corpus.texts:
        folder = os.path.join(os.path.abspath(RESULTS / study if text.input_path else RESULTS), "")
        if results := [file.path for file in text.local_files if os.path.abspath(file.path).startswith(folder)]:
            problem, remedy = "is a result of a study", "name fewer files, for example by a pattern of a folder"
            raise InputError(results[0], problem, remedy)
    if repeated := [path for path, count in Counter(map(os.path.abspath, paths)).items() if count > 1]:
        raise InputError(os.path.relpath(repeated[0]), "is among its files twice", "remove one of the two")
    unpacked = Counter(map(unpacked_path, paths))
    if twins := [path for path in paths if text_format(path)[1] and unpacked[unpacked_path(path)] > 1]:
        raise InputError(twins[0], "is there unpacked, too, or packed twice", "remove all but one of them")
    formats = {text_format(path)[0] for path in paths}
    if corpus.documents != "delimiter" and ".txt" not in formats:
        raise InputError("documents", "is about plain texts, but no file is one", "remove it")
    if corpus.text_key != "text" and formats == {".txt"}:
        raise InputError("text_key", "is about records, but all files are plain texts", "remove it")


def unpacked_path(path: str) -> str:
    """Return the absolute path of a file without the ending of its compression."""
    return os.path.abspath(path).removesuffix(path[len(path) - len(text_format(path)[1]) :])


class CheckedFiles:
    """Files that passed a check in an earlier call, known by path, size and time of the last change.

    The cache file has a line for each. It grows at its end, so that simultaneous calls lose nothing.
    """

    def __enter__(self) -> "CheckedFiles":
        self.path = cache_folder() / "checked-texts"
        self.known: set[str] = set()
        with contextlib.suppress(OSError):
            self.known.update(self.path.read_text("ascii", "replace").splitlines())
        self.added: list[str] = []
        return self

    def check(self, file: SourceFile, ending: str, text_key: str) -> None:
        """Check a file unless it is known or empty; raise InputError if it is not what its name promises."""
        if not file.size:
            return
        if file.mtime_ns > time.time_ns():
            date = datetime.fromtimestamp(file.mtime_ns / 1e9).isoformat(" ", "minutes")
            # Snakemake takes what is made of it for outdated.
            raise InputError(file.path, f"is dated in the future ({date})", f"touch {shlex.quote(file.path)}")
        identity = "\0".join((CHECK_VERSION, os.path.abspath(file.path), str(file[1:]), ending, text_key))
        key = hashlib.blake2b(identity.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        if key not in self.known:
            check_file(file.path, ending, text_key)
            self.known.add(key)
            self.added.append(key)

    def __exit__(self, *_: object) -> None:
        if self.added:
            with contextlib.suppress(OSError), open(self.path, "a", encoding="ascii") as file:
                if file.tell() > MAX_CACHE_BYTES:
                    file.truncate(0)
                # The line before may be incomplete.
                file.writelines(f"\n{key}" for key in self.added)
