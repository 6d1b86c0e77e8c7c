"""Corpora: stories, docstrings or the user's own texts, written as documents and split into train and validation.

The text format is UTF-8 (other bytes are kept as they are) with `<|endoftext|>` after each document.
"""

import ast
import contextlib
import hashlib
import inspect
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import IO, Any, BinaryIO, assert_never

from lmpipe.data.sources.stories import stories
from lmpipe.errors import InputError
from lmpipe.io.files import CHUNK_BYTES, atomic_write, check_no_overwrite, open_text, write_json
from lmpipe.io.progress import progress
from lmpipe.study.schema import Corpus, DocstringsCorpus, StoriesCorpus, UrlCorpus

DELIMITER = b"<|endoftext|>"
# Embedded corpora keep one document in a hundred for validation.
EMBEDDED_VALID_SHARE = 0.01
# Folders of a package whose docstrings speak about tests, not about the package.
TEST_FOLDERS = {"test", "tests", "testing"}


def make_corpus(name: str, corpus: Corpus, folder: str | Path, threads: int = 1) -> None:
    """Write FOLDER/{train,valid}.txt and corpus.json of a study's corpus; downloads are read from resources/.

    `threads` is the number of processes that read packages. Raise InputError if a split would be empty.
    """
    paths = {split: Path(folder) / f"{split}.txt" for split in ("train", "valid")}
    check_no_overwrite(corpus.text_paths(), list(paths.values()))
    splits = split_corpus(corpus, threads)
    summaries = {}
    # Both texts get their names together, so that a failure leaves an earlier corpus as it was.
    with contextlib.ExitStack() as open_files:
        for split, blocks in splits.items():
            file = open_files.enter_context(atomic_write(paths[split], "wb"))
            summaries[split] = write_split(file, blocks)
            if not summaries[split]["documents"]:
                raise InputError(
                    f"{paths[split]}: expected at least one document, found none; give the corpus more text"
                )
        record = {
            "corpus": name,
            "source": corpus.source,
            "settings": {"name": name} | corpus.text_settings(),
            "splits": summaries,
            "versions": corpus.versions() if isinstance(corpus, DocstringsCorpus) else {},
        }
        write_json(Path(folder) / "corpus.json", record)


def split_corpus(corpus: Corpus, threads: int) -> dict[str, Iterator[bytes]]:
    """The text of both splits, as blocks of bytes."""
    match corpus:
        case StoriesCorpus():
            count = corpus.documents
            documents = with_progress(stories(count, corpus.seed), count)
        case DocstringsCorpus():
            found = docstrings(corpus.packages, threads)
            if len(found) < 2:
                raise InputError(f"packages: expected at least 2 docstrings, found {len(found)}; name larger packages")
            count, documents = len(found), iter(found)
        case UrlCorpus():
            paths = ([text.path for text in texts] for texts in (corpus.files, corpus.valid or []))
            return split_texts(*paths, corpus.valid_fraction)
        case _:
            assert_never(corpus)
    held_out = max(1, round(count * EMBEDDED_VALID_SHARE))
    # Both splits draw from one iterator: train is written first and leaves the rest.
    return {
        "train": map(as_document, islice(documents, count - held_out)),
        "valid": map(as_document, documents),
    }


def with_progress(documents: Iterable[str], count: int) -> Iterator[str]:
    """Documents as they come, with their progress."""
    with progress("making stories", count, "stories") as bar:
        for document in documents:
            yield document
            bar.advance(1)


def as_document(text: str) -> bytes:
    """A text as one document of a corpus file."""
    return text.encode() + b"\n" + DELIMITER + b"\n"


def write_split(file: IO[bytes], blocks: Iterable[bytes]) -> dict[str, Any]:
    """Write one split and say what went into it: bytes, documents, checksum."""
    size = documents = 0
    has_text = False
    digest = hashlib.sha256()
    tail = b""
    for block in blocks:
        has_text = has_text or bool(block.replace(DELIMITER, b"").strip())
        file.write(block)
        digest.update(block)
        size += len(block)
        # The tail is one byte shorter than a delimiter: one that lies across two blocks counts, and counts once.
        joined = tail + block
        documents += joined.count(DELIMITER)
        tail = joined[-len(DELIMITER) + 1 :]
    file.flush()
    return {"bytes": size, "documents": documents if has_text else 0, "sha256": digest.hexdigest()}


# --- the user's own texts


def split_texts(texts: Sequence[str], valid: Sequence[str], valid_fraction: float | None) -> dict[str, Iterator[bytes]]:
    """Train and validation text from files: from files of their own, or cut at a document end."""
    if not texts:
        raise InputError("--texts: expected at least one file, found none; name the corpus's texts")
    if valid:
        return {"train": blocks_of_all(texts), "valid": blocks_of_all(valid)}
    if valid_fraction is None:
        raise InputError("--valid: expected files, as valid_fraction is null, found none; give one or the other")
    index, offset = split_position(texts, 1 - valid_fraction)
    return {
        "train": concat_ranges([(text, 0, None) for text in texts[:index]] + [(texts[index], 0, offset)]),
        "valid": concat_ranges([(texts[index], offset, None)] + [(text, 0, None) for text in texts[index + 1 :]]),
    }


def blocks_of_all(texts: Sequence[str]) -> Iterator[bytes]:
    """All of several files."""
    return concat_ranges([(text, 0, None) for text in texts])


def concat_ranges(ranges: Iterable[tuple[str, int, int | None]]) -> Iterator[bytes]:
    """Byte ranges of files, one after the other; the end of each is the end of a document."""
    for path, start, stop in ranges:
        block = last = b""
        for block in read_range(path, start, stop):
            yield block
            last = (last + block).rstrip()[-len(DELIMITER) :]
        if last and last != DELIMITER:
            yield (b"" if block.endswith(b"\n") else b"\n") + DELIMITER + b"\n"


def read_range(path: str, start: int, stop: int | None) -> Iterator[bytes]:
    """The bytes of a file from start to stop, in blocks."""
    with open_text(path) as file:
        left = (os.fstat(file.fileno()).st_size if stop is None else stop) - start
        file.seek(start)
        while left > 0 and (block := file.read(min(CHUNK_BYTES, left))):
            yield block
            left -= len(block)


def split_position(texts: Sequence[str], train_share: float) -> tuple[int, int]:
    """Where validation begins: the index of a file, and the offset in it.

    The document end nearest to the wanted share of bytes is taken. A text without any document end is cut at a line,
    as one document on either side.
    """
    sizes = [Path(text).stat().st_size for text in texts]
    wanted = int(sum(sizes) * train_share)
    index = 0
    while index < len(texts) - 1 and wanted >= sizes[index]:
        wanted -= sizes[index]
        index += 1
    if sizes[index] == 0:
        raise InputError(f"{texts[index]}: expected text, found an empty file; take it off the list")
    with open_text(texts[index]) as text:
        for mark in (DELIMITER, b"\n", b" "):
            if ends := nearest_boundaries(text, mark, wanted):
                return index, min(ends, key=lambda end: abs(end - wanted))
            if mark == DELIMITER and len(texts) > 1:
                return max(index, 1), 0
    raise InputError(
        f"{texts[index]}: expected a document end, a line end or a space with text before and after it, found none to "
        "cut a part for validation at; give more text, or files under valid"
    )


def nearest_boundaries(text: BinaryIO, mark: bytes, wanted: int) -> list[int]:
    """The nearest places on either side of the wanted one that lie behind a mark and have text before and after."""
    nearest = []
    for starts in (find_backward(text, mark, wanted), find_forward(text, mark, wanted)):
        ends = (skip_line_end(text, start + len(mark)) for start in starts)
        nearest += islice((end for end in ends if has_text_around(text, end)), 1)
    return nearest


def find_backward(text: BinaryIO, mark: bytes, place: int) -> Iterator[int]:
    """Where marks begin before a place, going back; the first may reach beyond it."""
    while place > 0:
        start = max(0, place - CHUNK_BYTES)
        block = read_at(text, start, place + len(mark) - 1)
        found = block.rfind(mark)
        while found >= 0:
            yield start + found
            found = block.rfind(mark, 0, found + len(mark) - 1)
        place = start


def find_forward(text: BinaryIO, mark: bytes, place: int) -> Iterator[int]:
    """Where marks begin from a place on."""
    while block := read_at(text, place, place + CHUNK_BYTES + len(mark) - 1):
        found = block.find(mark)
        while found >= 0:
            yield place + found
            found = block.find(mark, found + 1)
        place += CHUNK_BYTES


def has_text_around(text: BinaryIO, place: int) -> bool:
    """Whether there is more than white space and delimiters on both sides, not far away."""
    sides = (read_at(text, max(0, place - CHUNK_BYTES), place), read_at(text, place, place + CHUNK_BYTES))
    return all(side.replace(DELIMITER, b"").strip() for side in sides)


def skip_line_end(text: BinaryIO, offset: int) -> int:
    """The offset behind a line end that starts here, else the offset itself."""
    for line_end in (b"\r\n", b"\n"):
        if read_at(text, offset, offset + len(line_end)) == line_end:
            return offset + len(line_end)
    return offset


def read_at(text: BinaryIO, start: int, stop: int) -> bytes:
    """The bytes of a file from start to stop, or to its end; mapping it would keep all that a long search went over."""
    return os.pread(text.fileno(), stop - start, start)


# --- the documentation inside installed packages


def docstrings(packages: Sequence[str], threads: int) -> list[str]:
    """Every different docstring of the packages' modules, classes and functions, in an order that mixes packages.

    Packages are read, not imported. The order is that of the texts' checksums, so that the validation split resembles
    the training split.
    """
    sources = [source for package in packages for source in package_sources(package)]
    found: set[str] = set()
    with progress("reading docstrings", len(sources), "files") as bar:
        for documents in map_files(docstrings_of, sources, threads):
            found.update(documents)
            bar.advance(1)
    return sorted(found, key=lambda text: hashlib.sha256(text.encode()).digest())


def package_sources(package: str) -> list[Path]:
    """The Python files of an installed package, but for its tests."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):  # of a module inside a package that is not there, or of a program's own
        spec = None
    if spec is None:
        raise InputError(f"package {package!r} is not installed; install it with pip, or take it off the list")
    if not spec.submodule_search_locations:
        if not os.path.isfile(spec.origin or "") or Path(spec.origin).suffix != ".py":
            raise InputError(f"package {package!r}: expected Python source, found none; take it off the list")
        return [Path(spec.origin)]
    folders = [Path(location) for location in spec.submodule_search_locations]
    files = [(folder, file) for folder in folders for file in sorted(folder.rglob("*.py"))]
    return [file for folder, file in files if not TEST_FOLDERS.intersection(file.relative_to(folder).parts)]


def map_files(function: Any, paths: Sequence[Path], threads: int) -> Iterator[Any]:
    """Apply a function to many files, in order, on several cores where there are some."""
    if threads == 1:
        yield from map(function, paths)
        return
    with ProcessPoolExecutor(threads) as pool:
        yield from pool.map(function, paths, chunksize=16)


def docstrings_of(path: Path) -> list[str]:
    """The docstrings of one source file; none where this Python cannot read it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            return []
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = (ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, documented))
    cleaned = (inspect.cleandoc(text) for text in texts if text)
    return [text for text in cleaned if text and is_plain(text)]


def is_plain(text: str) -> bool:
    """Whether a text can be a document: encodable, and without a delimiter of its own."""
    return DELIMITER.decode() not in text and not any("\ud800" <= character <= "\udfff" for character in text)
