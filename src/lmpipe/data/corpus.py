"""Corpora: documents of one source, split into train.txt and valid.txt.

The format is UTF-8 (other bytes are kept as they are) with `<|endoftext|>` after each document.
"""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, assert_never

from lmpipe.data.documents import CorpusInfo, CorpusSplits, SplitInfo
from lmpipe.data.sources.docstrings import docstrings
from lmpipe.data.sources.first_bytes import check_file
from lmpipe.data.sources.stories import stories
from lmpipe.data.sources.text_files import DELIMITER, split_texts
from lmpipe.errors import InputError
from lmpipe.io.files import atomic_write, check_no_overwrite
from lmpipe.io.progress import progress
from lmpipe.study.corpora import Corpus, DocstringsCorpus, StoriesCorpus, UrlCorpus

GENERATED_VALID_SHARE = 0.01  # of the documents of generated corpora


def make_corpus(name: str, corpus: Corpus, folder: str | Path, processes: int = 1) -> CorpusInfo:
    """Write FOLDER/{train,valid}.txt and corpus.json of a study's corpus; downloads are read from resources/.

    `processes` is the number of processes that read packages. Raises InputError if a split would be empty, or if a
    file is not the declared text.
    """
    folder = Path(folder)
    paths = {split: folder / f"{split}.txt" for split in ("train", "valid")}
    check_no_overwrite(corpus.text_paths(), list(paths.values()))
    splits = {}
    # Both texts are renamed together, so a failure leaves an earlier corpus as it was.
    with contextlib.ExitStack() as open_files:
        for split, blocks in split_corpus(corpus, processes).items():
            file = open_files.enter_context(atomic_write(paths[split], "wb"))
            splits[split] = write_split(file, blocks, paths[split])
        settings = corpus.text_settings()
        info = CorpusInfo(
            corpus=name,
            source=corpus.source,
            settings={"name": name} | settings,
            splits=CorpusSplits(**splits),
            versions=settings.get("versions", {}),
        )
        info.write(folder / "corpus.json")
    return info


def split_corpus(corpus: Corpus, processes: int) -> dict[str, Iterator[bytes]]:
    """Return the text of both splits, in blocks; train must be consumed first."""
    match corpus:
        case StoriesCorpus():
            count = corpus.documents
            documents = with_progress(stories(count, corpus.seed), count)
        case DocstringsCorpus():
            texts = docstrings(corpus.packages, processes)
            count, documents = len(texts), iter(texts)
            if count < 2:
                problem = f"contain {count} docstrings, but a corpus needs at least 2"
                raise InputError("packages", problem, "name larger packages")
        case UrlCorpus():
            from lmpipe.data.download import verify_file  # loads requests

            for text in corpus.texts:
                verify_file(text, Path(text.path))
                check_file(text.path)
            paths = ([text.path for text in texts] for texts in (corpus.files, corpus.valid or []))
            return split_texts(*paths, corpus.valid_fraction)
        case _:
            assert_never(corpus)
    held_out = max(1, round(count * GENERATED_VALID_SHARE))
    # Both splits draw from one iterator.
    return {
        "train": map(as_document, islice(documents, count - held_out)),
        "valid": map(as_document, documents),
    }


def with_progress(documents: Iterable[str], count: int) -> Iterator[str]:
    """Yield documents and report the progress of generating them."""
    with progress("generating stories", count, "stories") as bar:
        for document in documents:
            yield document
            bar.advance(1)


def as_document(text: str) -> bytes:
    """Return a text as one document of a corpus file."""
    return text.encode() + b"\n" + DELIMITER + b"\n"


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
