"""A table of inputs that users may name, and what comes of each: `python -m tests.support.inputs` prints it.

An input is a set of files and keys of a corpus. It ends in the numbers of its documents, or in one line of refusal.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import random
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet
import zstandard

from lmpipe.data.corpus import make_corpus
from lmpipe.errors import InputError
from lmpipe.planning.plan import load_plan
from lmpipe.planning.text_checks import check_texts
from tests.support.corruptions import PNG
from tests.support.tiny_study import MODEL, TRAINING

END = "<|endoftext|>"
DOCUMENTS = 200


def sentences(count: int = DOCUMENTS, seed: int = 0) -> list[str]:
    """Return different texts with commas, quotes and other scripts."""
    rng = random.Random(seed)
    words = ["sun", "moon", "“sea”", "stone,", 'the "ship"', "Größe", "дом", "山", "and", "then"]
    return [f"{seed}.{number} " + " ".join(rng.choices(words, k=rng.randint(5, 30))) + "." for number in range(count)]


def plain(texts: Iterable[str]) -> bytes:
    """Return texts with delimiters."""
    return "".join(f"{text}\n{END}\n" for text in texts).encode()


def json_lines(texts: Iterable[str], key: str = "text") -> bytes:
    """Return texts as JSON Lines."""
    return "".join(json.dumps({"id": number, key: text}) + "\n" for number, text in enumerate(texts)).encode()


def table(texts: Iterable[str]) -> bytes:
    """Return texts as CSV."""
    file = io.StringIO(newline="")
    csv.writer(file).writerows([("id", "text"), *enumerate(texts)])
    return file.getvalue().encode()


def parquet(texts: Iterable[str]) -> bytes:
    """Return texts as a Parquet file."""
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": list(texts)}), file, row_group_size=50)
    return file.getvalue()


def zipped(data: bytes) -> bytes:
    """Return a ZIP archive with one file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", data)
    return file.getvalue()


class Input(NamedTuple):
    """Files by name, keys of the corpus, and the expected numbers of documents or a part of the refusal."""

    files: dict[str, bytes]
    expected: int | str
    settings: dict[str, Any] | None = None


TEXTS = sentences()
PROSE = "\n".join(TEXTS).encode()
LATIN = "Die Größe der Tür, naïve façade, été à Orléans.\n" * 200
GZIP = gzip.compress(plain(TEXTS))
ALL_FORMATS = {
    "a.txt.gz": gzip.compress(plain(TEXTS[:50])),
    "b.jsonl.zst": zstandard.compress(json_lines(TEXTS[50:100])),
    "c.csv.xz": lzma.compress(table(TEXTS[100:150])),
    "d.parquet": parquet(TEXTS[150:]),
}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"

INPUTS = {
    "plain text": Input({"a.txt": plain(TEXTS)}, 200),
    "plain text as .gz": Input({"a.txt.gz": GZIP}, 200),
    "plain text as .xz": Input({"a.txt.xz": lzma.compress(plain(TEXTS))}, 200),
    "plain text as .zst": Input({"a.txt.zst": zstandard.compress(plain(TEXTS))}, 200),
    "JSON Lines": Input({"a.jsonl": json_lines(TEXTS)}, 200),
    "JSON Lines as .gz, other key": Input(
        {"a.jsonl.gz": gzip.compress(json_lines(TEXTS, "body"))}, 200, {"text_key": "body"}
    ),
    "CSV with commas and quotes": Input({"a.csv": table(TEXTS)}, 200),
    "CSV as .zst": Input({"a.csv.zst": zstandard.compress(table(TEXTS))}, 200),
    "Parquet": Input({"a.parquet": parquet(TEXTS)}, 200),
    "Parquet as .gz": Input({"a.parquet.gz": gzip.compress(parquet(TEXTS))}, 200),
    "a folder of four formats": Input(
        {f"texts/{name}": data for name, data in ALL_FORMATS.items()}, 200, {"files": "texts"}
    ),
    "a pattern": Input({f"texts/{name}": data for name, data in ALL_FORMATS.items()}, 50, {"files": "texts/*.jsonl*"}),
    "a line is a document": Input({"a.txt": PROSE}, 200, {"documents": "lines"}),
    "Windows line ends": Input({"a.txt": plain(TEXTS).replace(b"\n", b"\r\n")}, 200),
    "byte-order marks in two files": Input(
        {f"{name}.txt": b"\xef\xbb\xbf" + plain(TEXTS[start : start + 100]) for name, start in (("a", 0), ("b", 100))},
        200,
    ),
    "a few malformed bytes": Input({"a.txt": plain(TEXTS) + b"\xff\xfe\n"}, 201),
    "UTF-16 with a mark": Input({"a.txt": plain(TEXTS).decode().encode("utf-16")}, "UTF-16"),
    "UTF-16 without a mark": Input({"a.txt": plain(TEXTS).decode().encode("utf-16-be")}, "UTF-16BE"),
    "UTF-32 without a mark": Input({"a.txt": plain(TEXTS).decode().encode("utf-32-le")}, "UTF-32LE"),
    "Latin-1": Input({"a.txt": LATIN.encode("latin-1")}, "not UTF-8"),
    "gzip named .txt": Input({"a.txt": GZIP}, ".gz"),
    "Parquet named .txt": Input({"a.txt": parquet(TEXTS)}, ".parquet"),
    "JSON Lines named .txt": Input({"a.txt": json_lines(TEXTS)}, "JSON"),
    "plain text named .jsonl": Input({"a.jsonl": plain(TEXTS)}, "JSON record"),
    "a JSON array named .jsonl": Input({"a.jsonl": json.dumps([{"text": "a"}], indent=1).encode()}, "JSON record"),
    "plain text named .gz": Input({"a.txt.gz": plain(TEXTS)}, "no .gz file"),
    "a ZIP archive": Input({"a.txt": zipped(PROSE)}, "ZIP"),
    "a bzip2 file": Input({"a.txt": bz2.compress(PROSE)}, "bzip2"),
    "an image": Input({"a.txt": PNG}, "binary"),
    "a pointer of Git LFS": Input({"a.parquet": POINTER}, "Git LFS"),
    "gzip, cut": Input({"a.txt.gz": GZIP[:-50]}, "damaged"),
    "Zstandard, cut": Input({"a.txt.zst": zstandard.compress(plain(TEXTS))[:-50]}, "damaged"),
    "xz, a byte changed": Input(
        {"a.txt.xz": lzma.compress(plain(TEXTS))[:-40] + b"\0" + lzma.compress(plain(TEXTS))[-39:]}, "damaged"
    ),
    "Parquet, cut": Input({"a.parquet": parquet(TEXTS)[:-50]}, "damaged"),
    "JSON Lines, cut": Input({"a.jsonl": json_lines(TEXTS)[:-20]}, "line 200 is not a JSON record"),
    "JSON Lines without the key": Input({"a.jsonl": json_lines(TEXTS, "content")}, "set text_key to one of"),
    "CSV with an open quote": Input({"a.csv": table(TEXTS) + b'9,"open\n'}, "is not valid CSV"),
    "an empty file": Input({"a.txt": b""}, "is empty"),
    "one word": Input({"a.txt": b"word"}, "valid_fraction"),
    "one document of many lines": Input({"a.txt": PROSE}, 2),
    "one line of 1 MB": Input({"a.txt": b"A" * 1_000_000}, "valid_fraction"),
    "two plain files, 10 %": Input({"a.txt": PROSE, "b.txt": "\n".join(sentences(seed=1)).encode()}, 3),
    "300 small files": Input(
        {f"texts/{number}.txt": text.encode() for number, text in enumerate(sentences(300))}, 300, {"files": "texts"}
    ),
    "equal files in a folder": Input({f"texts/{name}.txt": plain(TEXTS) for name in "abc"}, 200, {"files": "texts"}),
    "the same path twice": Input({"a.txt": plain(TEXTS)}, "twice", {"files": ["a.txt", "./a.txt"]}),
    "equal files in both splits": Input(
        {"a.txt": plain(TEXTS), "b.txt": plain(TEXTS)},
        "equals",
        {"files": "a.txt", "valid": "b.txt", "valid_fraction": None},
    ),
    "a missing file": Input({}, "is no file or folder", {"files": "none.txt"}),
    "a broken link": Input({"texts/a.txt": plain(TEXTS)}, "cannot be read", {"files": "texts/*"}),
}


class Outcome(NamedTuple):
    """Documents of both splits, their share and the shards; or the refusal, and the moment of it."""

    documents: int = 0
    valid_share: float = 0.0
    num_shards: int = 0
    refusal: str = ""
    is_early: bool = False


def outcome(row: Input) -> Outcome:
    """Write an input to the working directory, and make a corpus of it."""
    for name, data in row.files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(data)
    if row.expected == "cannot be read":
        Path("texts/link.txt").symlink_to("nowhere")
    corpus = {"source": "files", "files": sorted(row.files), "valid_fraction": 0.1, "tokenizer": {"vocab_size": 300}}
    study = {"study": "x", "seeds": [0], "corpora": {"mine": corpus | (row.settings or {})}, "model": MODEL}
    plan = load_plan(study | {"training": TRAINING, "experiments": {"x": {"corpus": "mine"}}}, "study.yaml")
    try:
        check_texts(plan, "study.yaml")
    except InputError as error:
        return Outcome(refusal=str(error), is_early=True)
    try:
        info = make_corpus("mine", plan.study.corpora["mine"], Path("corpus"))
    except InputError as error:
        return Outcome(refusal=str(error))
    splits = info.splits
    documents = splits.train.documents + splits.valid.documents
    return Outcome(documents, splits.valid_share, plan.study.corpora["mine"].num_shards)


def main() -> None:
    """Print the table as Markdown."""
    print("| input | size | comes to |\n|---|---|---|")
    for name, row in INPUTS.items():
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            os.environ["LMPIPE_CACHE"] = f"{folder}/cache"
            result = outcome(row)
            os.chdir("/")
        moment = "before the first job" if result.is_early else "by make_corpus"
        text = f"refused {moment}: {result.refusal}"
        if not result.refusal:
            text = f"{result.documents} documents, {result.valid_share:.1%} for validation, {result.num_shards} shard"
        size = sum(map(len, row.files.values()))
        print(f"| {name} | {len(row.files)} files, {size:,} bytes | {text.replace(END, 'END').replace('|', '/')} |")


if __name__ == "__main__":
    sys.exit(main())
