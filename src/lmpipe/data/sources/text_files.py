"""Texts of the user as a corpus: files, read one after the other, and datasets, read as a stream by `datasets`."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from lmpipe.data.sources.first_bytes import missing_key
from lmpipe.data.sources.readers import TextReader, record_text
from lmpipe.errors import InputError, import_extra
from lmpipe.io.progress import track
from lmpipe.study.corpora import DatasetCorpus


def read_files(reader: TextReader, paths: Sequence[str], label: str) -> Iterator[bytes]:
    """Yield the text of files in order, in blocks, and report progress."""
    for path in track(paths, label, len(paths), "files"):
        yield from reader.read(path)


def distinct_files(paths: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the paths of each split without those of files that equal an earlier one of the split.

    Raises InputError if a file for validation equals one for training. Only files of equal size are read.
    """
    sizes = Counter(os.path.getsize(path) for path in chain.from_iterable(paths.values()))
    seen: dict[bytes, tuple[str, str]] = {}
    distinct: dict[str, list[str]] = {split: [] for split in paths}
    for split, path in ((split, path) for split, group in paths.items() for path in group):
        if sizes[os.path.getsize(path)] > 1:
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "blake2b").digest()
            first_split, first_path = seen.setdefault(digest, (split, path))
            if first_split != split:
                raise InputError(path, f"equals {first_path}, which is for training", "remove one of the two")
            if first_path != path:
                continue
        distinct[split].append(path)
    return distinct


def read_dataset(corpus: DatasetCorpus, split: str, reader: TextReader) -> Iterator[bytes]:
    """Yield the documents of a split, one for each record with text.

    Raises InputError if the library is not installed, or if it cannot read the dataset.
    """
    where = f"dataset {corpus.name}"
    datasets = import_extra("datasets", where)
    try:
        records = datasets.load_dataset(
            corpus.name,
            corpus.config,
            split=split,
            revision=corpus.revision,
            data_files=corpus.data_files,
            streaming=True,
        )
        if names := records.column_names:
            if corpus.text_key not in names:
                raise missing_key(corpus.text_key, names, where, f"the split {split}")
            records = records.select_columns([corpus.text_key])
        yield from reader.as_documents(record_text(record, corpus.text_key, where, "a record") for record in records)
    except InputError:
        raise
    except Exception as error:  # the library, the Hub's client and a dozen file formats have errors of their own
        problem = f"cannot be read ({' '.join(f'{type(error).__name__}: {error}'.split())[:300]})"
        raise InputError(where, problem, "correct name, config, split, revision or data_files") from None
