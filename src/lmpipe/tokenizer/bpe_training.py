"""Training byte-level BPE: the merge loop over counted pre-tokens (Sennrich et al. 2016; handout, section 2)."""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmpipe.errors import InputError
from lmpipe.io.files import write_json
from lmpipe.io.progress import progress
from lmpipe.kernels.bpe.merge_loop import MergeLoop
from lmpipe.provenance.environment import peak_memory_bytes
from lmpipe.study.documents import SHARD, read_shape
from lmpipe.tokenizer.pretoken_counts import PretokenCounts, count_pretokens_arrays, load_counts, sum_counts
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT, encode_utf8
from lmpipe.tokenizer.vocabulary import MAX_VOCAB_SIZE, Vocabulary

BYTES = 256


def train_bpe(
    input_path: str | Path, vocab_size: int, special_tokens: Sequence[str]
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """Train on a text file of any bytes; see `merge_pretokens` for what is returned."""
    vocab = initial_vocabulary(vocab_size, special_tokens)
    return merge_pretoken_arrays(count_pretokens_arrays(input_path, special_tokens, in_order=False), vocab, vocab_size)


def initial_vocabulary(vocab_size: int, special_tokens: Sequence[str]) -> dict[int, bytes]:
    """The ids before any merge: the 256 bytes, then the special tokens, each once.

    Raises InputError if they do not fit into vocab_size, or if it exceeds what Vocabulary can hold.
    """
    tokens = list(dict.fromkeys([*(bytes([byte]) for byte in range(BYTES)), *map(encode_utf8, special_tokens)]))
    if vocab_size < len(tokens):
        raise InputError(
            f"vocab_size: expected at least {len(tokens)} (256 bytes and {len(tokens) - BYTES} special tokens), "
            f"found {vocab_size}; raise it"
        )
    if vocab_size > MAX_VOCAB_SIZE:
        raise InputError(f"vocab_size: expected at most {MAX_VOCAB_SIZE}, found {vocab_size}; lower it")
    return dict(enumerate(tokens))


def merge_pretokens(
    counts: Mapping[bytes, int], vocab_size: int, special_tokens: Sequence[str]
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """Merge the most frequent pair of neighbouring tokens again and again, until there are vocab_size tokens.

    Of equally frequent pairs the lexicographically greater pair of byte strings comes first. Returns the vocabulary
    (ids: 256 bytes, special tokens, merges in order) and the merges. Both are shorter where the text runs out of pairs.
    Raises InputError where vocab_size is too small.

    >>> merge_pretokens({b"low": 5, b"lower": 2}, 258, [])[1]
    [(b'o', b'w'), (b'l', b'ow')]
    """
    arrays = PretokenCounts.of(counts)
    vocab = initial_vocabulary(vocab_size, special_tokens)
    return merge_pretoken_arrays((arrays.text, arrays.lengths, arrays.counts), vocab, vocab_size)


def merge_pretoken_arrays(
    words: tuple[np.ndarray, np.ndarray, np.ndarray], vocab: dict[int, bytes], vocab_size: int
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """Merge as merge_pretokens, from arrays and the vocabulary before any merge, which is extended."""
    wanted = vocab_size - len(vocab)
    merging = MergeLoop(words, len(vocab), wanted)
    del words
    merges = []
    try:
        with progress("merging", wanted, "merges") as bar:
            pairs = merging.run(bar.advance)
    finally:
        merging.close()
    for left, right in pairs.tolist():
        merges.append((vocab[left], vocab[right]))
        vocab[len(vocab)] = vocab[left] + vocab[right]
    return vocab, merges


def train_tokenizer(
    counts_paths: Iterable[str | Path], folder: str | Path, name: str, corpus: str, vocab_size: int
) -> dict[str, Any]:
    """Train a tokenizer from the counted shards of a corpus and save it with its training.json, which is returned.

    `counts_paths` are the .npz files of `count_shard`, each with its .json beside it. Raises InputError for damaged
    counts, an empty corpus or a vocab_size that is too small.
    """
    counts_paths = [Path(path) for path in counts_paths]
    special_tokens = (END_OF_TEXT,)
    initial_vocabulary(vocab_size, special_tokens)
    shards = [read_shape(path.with_suffix(".json"), SHARD) for path in counts_paths]
    started = time.perf_counter()
    counts = sum_counts(load_counts(path) for path in counts_paths)
    if not counts:
        raise InputError(f"{corpus}: expected text to train on, found none; give the corpus documents")
    vocab, merges = merge_pretokens(counts, vocab_size, special_tokens)
    merge = {"wall_seconds": time.perf_counter() - started, "peak_memory_bytes": peak_memory_bytes()}
    started = time.perf_counter()
    tokenizer = Vocabulary(vocab, merges, list(special_tokens))
    tokenizer.save(folder)
    save = {"wall_seconds": time.perf_counter() - started, "peak_memory_bytes": peak_memory_bytes()}
    stages = {"count": count_stage(shards), "merge": merge, "save": save}
    training = {
        "tokenizer": name,
        "corpus": corpus,
        "vocab_size": tokenizer.vocab_size,
        "merges": len(merges),
        "special_tokens": list(special_tokens),
        "sha256": tokenizer.sha256,
        "stages": stages,
        "wall_seconds": sum(stage["wall_seconds"] for stage in stages.values()),
        "peak_memory_bytes": max(stage["peak_memory_bytes"] for stage in stages.values()),
        "bytes": sum(shard["bytes"] for shard in shards),
        "pretokens": sum(shard["pretokens"] for shard in shards),
        "unique_pretokens": len(counts),
    }
    write_json(Path(folder) / "training.json", training)
    return training


def count_stage(shards: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The cost of counting: seconds of all shards together, memory of the largest."""
    return {
        "wall_seconds": sum(shard["wall_seconds"] for shard in shards),
        "peak_memory_bytes": max((shard["peak_memory_bytes"] for shard in shards), default=0),
    }
