"""Training of byte-level BPE: merges of counted pre-tokens (Sennrich et al. 2016; handout, section 2)."""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path

from lmpipe.errors import InputError
from lmpipe.io.progress import progress
from lmpipe.io.validation import require_type
from lmpipe.kernels.bpe import merge_loop, pretoken_table
from lmpipe.tokenizer.documents import PretokenShard, StageCost, TokenizerTraining
from lmpipe.tokenizer.pretoken_counts import PretokenCounts, count_pretokens, load_counts, sum_counts
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT, special_bytes
from lmpipe.tokenizer.vocabulary import MAX_VOCAB_SIZE, Vocabulary, cost_since, save_tokenizer

NUM_BYTES = 256


def train_bpe(
    input_path: str | Path, vocab_size: int, special_tokens: Sequence[str] | None = None
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """Train on a text file of any bytes; return the vocabulary and the merges, as `merge_pretokens` does.

    Raises InputError for a file that cannot be read and for a vocab_size that is too small.
    """
    require_type("input_path", input_path, (str, os.PathLike), "the path of a text file")
    special_tokens = special_tokens or ()
    initial_vocabulary(vocab_size, special_tokens)  # raises errors before the long count
    return merge_pretokens(count_pretokens(input_path, special_tokens, in_order=False), vocab_size, special_tokens)


def initial_vocabulary(vocab_size: int, special_tokens: Sequence[str]) -> dict[int, bytes]:
    """Return the ids before any merge: 256 bytes, then the special tokens without repetitions.

    Raises InputError if they do not fit into vocab_size, or if Vocabulary cannot hold that many ids.
    """
    require_type("vocab_size", vocab_size, Integral, "a whole number")
    tokens = [bytes([byte]) for byte in range(NUM_BYTES)]
    tokens = list(dict.fromkeys([*tokens, *special_bytes(special_tokens)]))
    if vocab_size < len(tokens):
        reserved = f"{NUM_BYTES} bytes and {len(tokens) - NUM_BYTES} special tokens"
        raise InputError("vocab_size", f"is {vocab_size}, too small for {reserved}", f"use at least {len(tokens)}")
    if vocab_size > MAX_VOCAB_SIZE:
        raise InputError("vocab_size", f"is {vocab_size}", f"use at most {MAX_VOCAB_SIZE}")
    return dict(enumerate(tokens))


def merge_pretokens(
    counts: Mapping[bytes, int], vocab_size: int, special_tokens: Sequence[str]
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """Merge the most frequent pair of adjacent tokens until the vocabulary has vocab_size tokens.

    Ties go to the lexicographically greater pair of byte strings. Returns the vocabulary (ids: 256 bytes, special
    tokens, merges in order) and the merges; both are shorter if the text runs out of pairs. Raises InputError if
    vocab_size is too small.

    >>> merge_pretokens({b"low": 5, b"lower": 2}, 258, [])[1]
    [(b'o', b'w'), (b'l', b'ow')]
    """
    vocab = initial_vocabulary(vocab_size, special_tokens)
    num_merges = vocab_size - len(vocab)
    loop, merges = merge_loop.MergeLoop(PretokenCounts.from_mapping(counts).arrays, len(vocab), num_merges), []
    del counts  # the loop has its own records of them
    with progress("merging", num_merges, "merges") as bar:
        pairs = loop.run(bar.advance)
    for left, right in pairs.tolist():
        merges.append((vocab[left], vocab[right]))
        vocab[len(vocab)] = vocab[left] + vocab[right]
    return vocab, merges


def train_tokenizer(
    counts_paths: Iterable[str | Path],
    folder: str | Path,
    name: str,
    corpus: str,
    vocab_size: int,
    special_tokens: Sequence[str] = (),
) -> TokenizerTraining:
    """Train a tokenizer from the counted shards of a corpus and save it in a folder, with its training.json.

    `counts_paths` are the .npz files of `count_shard`, each with its .json beside it; `special_tokens` are those beside
    the end of text, for which the shards were counted. Raises InputError for damaged
    counts, an empty corpus, or a vocab_size that is too small, or too large for the text.
    """
    counts_paths = [Path(path) for path in counts_paths]
    special_tokens = (END_OF_TEXT, *special_tokens)
    initial_vocabulary(vocab_size, special_tokens)
    shards = [PretokenShard.read(path.with_suffix(".json")) for path in counts_paths]
    count = StageCost(
        wall_seconds=sum(shard.wall_seconds for shard in shards),
        peak_memory_bytes=max((shard.peak_memory_bytes for shard in shards), default=0),
    )
    started = time.perf_counter()
    pretoken_table.load_kernels()
    merge_loop.load_kernels(vocab_size)
    compile_seconds = sum(shard.compile_seconds for shard in shards) + time.perf_counter() - started
    started = time.perf_counter()
    counts = sum_counts(load_counts(path) for path in counts_paths)
    if not counts:
        raise InputError(corpus, "has no text to train on", "give the corpus documents")
    vocab, merges = merge_pretokens(counts, vocab_size, special_tokens)
    if len(vocab) < vocab_size:  # models are planned with vocab_size ids
        problem = f"has pairs to merge for {len(vocab):,} ids only, but vocab_size is {vocab_size:,}"
        raise InputError(corpus or "the text", problem, f"use vocab_size: {len(vocab)}, or give more text")
    return save_tokenizer(
        Vocabulary(vocab, merges, list(special_tokens)),
        folder,
        count=count,
        merge=cost_since(started),
        tokenizer=name,
        corpus=corpus,
        compile_seconds=compile_seconds,
        bytes=sum(shard.bytes for shard in shards),
        pretokens=sum(shard.pretokens for shard in shards),
        unique_pretokens=len(counts),
    )
