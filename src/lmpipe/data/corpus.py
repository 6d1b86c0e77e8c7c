"""Corpora: documents of one source, split into train.txt and valid.txt.

The format is UTF-8 (other bytes are kept as they are) with `<|endoftext|>` after each document.
"""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, assert_never

from lmpipe.data.documents import CorpusInfo, CorpusSplits, SplitInfo
from lmpipe.data.overlap import NGRAM_WORDS, measure_overlap
from lmpipe.data.sources.docstrings import docstrings
from lmpipe.data.sources.readers import DELIMITER, TextReader, as_document
from lmpipe.data.sources.splits import JoinedText
from lmpipe.data.sources.stories import stories
from lmpipe.data.sources.text_files import distinct_files, read_dataset, read_files
from lmpipe.errors import InputError
from lmpipe.io.files import atomic_write, check_no_overwrite
from lmpipe.io.progress import log, track
from lmpipe.study.corpora import Corpus, DatasetCorpus, DocstringsCorpus, FilesCorpus, SplitSettings, StoriesCorpus

GENERATED_VALID_SHARE = 0.01  # of the documents of generated corpora


def make_corpus(name: str, corpus: Corpus, folder: str | Path, processes: int = 1) -> CorpusInfo:
    """Write FOLDER/{train,valid}.txt and corpus.json of a study's corpus; downloads are read from resources/.

    `processes` is the number of processes that read packages. Raises InputError if a split would be empty, or if a
    file is not the declared text.
    """
    folder = Path(folder)
    paths = {split: folder / f"{split}.txt" for split in ("train", "valid")}
    check_no_overwrite(corpus.text_paths(), list(paths.values()))
    text, splits = open_corpus(corpus, folder, processes), {}
    # Both texts are renamed together, so a failure leaves an earlier corpus as it was.
    with contextlib.ExitStack() as open_files:
        for split, blocks in text.splits.items():
            file = open_files.enter_context(atomic_write(paths[split], "wb"))
            splits[split] = write_split(file, blocks, paths[split])
    settings = corpus.text_settings()
    info = CorpusInfo(
        corpus=name,
        source=corpus.source,
        settings={"name": name} | settings,
        splits=CorpusSplits(**splits),
        versions=settings.get("versions", {}),
        files=text.files,
        equal_files=text.equal_files,
        blank_records=text.reader.blank_records,
        ngram_overlap=measure_overlap(**paths),
    )
    info.write(folder / "corpus.json")
    log(describe(info))
    return info


def describe(info: CorpusInfo) -> str:
    """Return sizes, overlap and omissions of a corpus in one line."""
    parts = [f"{split} {size.documents:,} documents, {size.bytes:,} bytes" for split, size in info.splits]
    parts[-1] += f" ({info.splits.valid_share:.2%} of all)"
    parts += [f"{info.ngram_overlap:.2%} of the validation {NGRAM_WORDS}-grams are in train"]
    parts += [f"files read: {info.files:,}"] if info.files else []
    parts += [f"equal files left out: {info.equal_files:,}"] if info.equal_files else []
    parts += [f"blank records left out: {info.blank_records:,}"] if info.blank_records else []
    return f"{info.corpus}: {'; '.join(parts)}"


@dataclass(frozen=True)
class CorpusText:
    """Text of both splits, in blocks; train must be consumed first. `files` were read, `equal_files` were left out."""

    splits: dict[str, Iterator[bytes]]
    files: int = 0
    equal_files: int = 0
    reader: TextReader = field(default_factory=TextReader)


def open_corpus(corpus: Corpus, folder: Path, processes: int) -> CorpusText:
    """Return the text of a corpus; temporary files are in `folder`."""
    match corpus:
        case StoriesCorpus():
            count = corpus.documents
            documents = track(stories(count, corpus.seed), "generating stories", count, "stories")
            return generated_splits(documents, count)
        case DocstringsCorpus():
            texts = docstrings(corpus.packages, processes)
            if len(texts) < 2:
                problem = f"contain {len(texts)} docstrings, but a corpus needs at least 2"
                raise InputError("packages", problem, "name larger packages")
            return generated_splits(iter(texts), len(texts))
        case FilesCorpus():
            return open_files(corpus, folder)
        case DatasetCorpus():
            reader = TextReader()
            names = {"train": corpus.split} | ({"valid": corpus.valid_split} if corpus.valid_split else {})
            splits = {split: read_dataset(corpus, name, reader) for split, name in names.items()}
            return CorpusText(split_text(corpus, splits, folder), reader=reader)
        case _:
            assert_never(corpus)


def generated_splits(documents: Iterator[str], count: int) -> CorpusText:
    """Return the text of `count` documents, of which the last ones are for validation."""
    held_out = max(1, round(count * GENERATED_VALID_SHARE))
    blocks = (as_document(document.encode()) for document in documents)
    # Both splits draw from one iterator.
    return CorpusText({"train": islice(blocks, count - held_out), "valid": blocks})


def open_files(corpus: FilesCorpus, folder: Path) -> CorpusText:
    """Return the text of files; raise InputError if one is not the declared text, or in both splits."""
    from lmpipe.data.download import verify_file  # loads requests

    for text in corpus.texts:
        if text.input_path:
            verify_file(text, Path(text.input_path))
    paths = corpus.split_paths()
    distinct = distinct_files(paths)
    num_files, num_distinct = (sum(map(len, groups.values())) for groups in (paths, distinct))
    reader = TextReader(corpus.documents, corpus.text_key)
    splits = {split: read_files(reader, group, f"reading files for {split}") for split, group in distinct.items()}
    return CorpusText(split_text(corpus, splits, folder), num_distinct, num_files - num_distinct, reader)


def split_text(corpus: SplitSettings, splits: dict[str, Iterator[bytes]], folder: Path) -> dict[str, Iterator[bytes]]:
    """Return the text of both splits: unchanged, or the training text split by valid_fraction."""
    if corpus.valid_fraction is None:
        return splits
    return JoinedText(splits["train"], folder).split(corpus.valid_fraction, corpus.seed if corpus.shuffle else None)


def write_split(file: IO[bytes], blocks: Iterable[bytes], path: Path) -> SplitInfo:
    """Write one split and return its size; raise InputError if it has no document."""
    size = documents = 0
    has_text = False
    digest = hashlib.sha256()
    tail = b""
    for block in blocks:
        has_text = has_text or bool(block.replace(DELIMITER, b"").strip())
        file.write(block)
        digest.update(block)
        size += len(block)
        # The tail is one byte shorter than a delimiter, so one across two blocks counts exactly once.
        joined = tail + block
        documents += joined.count(DELIMITER)
        tail = joined[-len(DELIMITER) + 1 :]
    file.flush()
    if not has_text or not documents:
        raise InputError(path, "would have no documents", "give the corpus more text")
    return SplitInfo(bytes=size, documents=documents, sha256=digest.hexdigest())
