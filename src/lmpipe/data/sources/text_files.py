"""Text files of the user as a corpus: read one after the other, and split by documents."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from lmpipe.data.sources.readers import TextReader
from lmpipe.errors import InputError
from lmpipe.io.progress import progress


def read_files(reader: TextReader, paths: Sequence[str], label: str) -> Iterator[bytes]:
    """Yield the text of files in order, in blocks, and report progress."""
    with progress(label, len(paths), "files") as bar:
        for path in paths:
            yield from reader.read(path)
            bar.advance(1)


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
