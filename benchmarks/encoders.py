"""Encoding of a corpus into a file, by lmpipe or a peer: python -m benchmarks.encoders NAME CORPUS FOLDER OUTPUT.

FOLDER contains a tokenizer as lmpipe saves it. The ids are written to OUTPUT as little-endian uint16 and flushed to
disk, as lmpipe does. Prints JSON: peak_memory_bytes, tokens, sha256 of the ids (null for a peer that drops separators),
sha256_without_separators, and checking_seconds, the time of computing the checksums after the work.
"""

import hashlib
import json
import os
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.trainers import BLOCK_BYTES, END_OF_TEXT, PATTERN, peak_memory_bytes, print_json, texts

BATCH_CHARACTERS = 1 << 23  # enough for all cores, and little of the peers' memory
DROP_SEPARATORS = {"gigatoken"}


def vocabulary(folder: str) -> dict[str, int]:
    """Token ids in GPT-2's file format."""
    return json.loads(Path(folder, "vocab.json").read_bytes())


def batches(documents: Iterator[str]) -> Iterator[list[str]]:
    """Texts in lists of about BATCH_CHARACTERS."""
    while batch := list(islice(documents, 1)):
        characters = len(batch[0])
        while characters < BATCH_CHARACTERS and (text := next(documents, None)) is not None:
            batch.append(text)
            characters += len(text)
        yield batch


def write_ids(corpus: str, output: str, separator: int, encode: Callable[[list[str]], Iterable[Sequence[int]]]) -> None:
    """Encode the texts of a corpus in batches, with the id of a separator between them, in constant memory."""
    between = array("H")
    with open(output, "wb") as file:
        for batch in batches(texts(corpus)):
            ids = array("H")
            for text_ids in encode(batch):
                ids.extend(between)
                ids.extend(text_ids)
                between = array("H", [separator])
            file.write(ids)


def lmpipe(corpus: str, folder: str, output: str) -> None:
    """Encode with lmpipe, which also writes a description of the ids."""
    from lmpipe.data.encode import encode_file
    from lmpipe.tokenizer.tokenizer import Tokenizer

    encode_file(corpus, Tokenizer.from_folder(folder), output, f"{output}.json", "bench")


def gigatoken(corpus: str, folder: str, output: str) -> None:
    """Encode with Gigatoken, which reads the file itself and keeps all ids in memory."""
    import awkward
    import numpy as np
    from gigatoken import TextFileSource, Tokenizer

    source = TextFileSource([corpus], separator=END_OF_TEXT.encode())
    encoded = Tokenizer(str(Path(folder, "tokenizer.json"))).encode_files(source)
    np.asarray(awkward.flatten(encoded)).astype(np.uint16).tofile(output)


def snaptokens(corpus: str, folder: str, output: str) -> None:
    """Encode with snaptokens, which returns the ids of a batch as packed uint32."""
    import numpy as np
    from snaptokens import Tokenizer

    tokenizer, separator = Tokenizer.from_file(str(Path(folder, "tokenizer.json"))), vocabulary(folder)[END_OF_TEXT]
    with open(output, "wb") as file:
        for number, batch in enumerate(batches(texts(corpus))):
            packed, offsets = tokenizer.encode_batch_flat(batch, add_special_tokens=False)
            starts = np.frombuffer(offsets, "<u8")[:-1].astype(np.int64)
            ids = np.frombuffer(packed, "<u4").astype("<u2")
            np.insert(ids, starts if number else starts[1:], separator).tofile(file)


def tiktoken(corpus: str, folder: str, output: str) -> None:
    """Encode with OpenAI's tiktoken, with a thread for each core."""
    from tiktoken import Encoding
    from tiktoken.load import load_tiktoken_bpe

    separator, threads = vocabulary(folder)[END_OF_TEXT], len(os.sched_getaffinity(0))
    ranks = load_tiktoken_bpe(f"{folder}/ranks.tiktoken")
    encoding = Encoding("bench", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: separator})
    write_ids(corpus, output, separator, lambda batch: encoding.encode_ordinary_batch(batch, num_threads=threads))


def tokenizers(corpus: str, folder: str, output: str) -> None:
    """Encode with Hugging Face tokenizers, which uses all cores by default."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))

    def encode(batch: list[str]) -> Iterator[list[int]]:
        return (encoding.ids for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False))

    write_ids(corpus, output, vocabulary(folder)[END_OF_TEXT], encode)


ENCODERS: dict[str, Callable[[str, str, str], None]] = {
    encoder.__name__: encoder for encoder in (lmpipe, gigatoken, snaptokens, tiktoken, tokenizers)
}


def encode(name: str, corpus: str, folder: str, output: str) -> dict[str, Any]:
    """Encode once; return peak memory, the number of ids, and their SHA-256 with and without separators."""
    import numpy as np

    ENCODERS[name](corpus, folder, output)
    with open(output, "rb+") as file:
        os.fsync(file.fileno())
    peak, start, separator = peak_memory_bytes(), time.perf_counter(), vocabulary(folder)[END_OF_TEXT]
    all_ids, text_ids = hashlib.sha256(), hashlib.sha256()
    with open(output, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            ids = np.frombuffer(block, "<u2")
            all_ids.update(block)
            text_ids.update(ids[ids != separator].tobytes())
        tokens = file.tell() // 2
    digest = None if name in DROP_SEPARATORS else all_ids.hexdigest()
    result = {"tokens": tokens, "sha256": digest, "sha256_without_separators": text_ids.hexdigest()}
    return {"peak_memory_bytes": peak, **result, "checking_seconds": time.perf_counter() - start}


if __name__ == "__main__":
    print_json(lambda: encode(*sys.argv[1:]))
