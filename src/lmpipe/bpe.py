"""Training byte-level BPE: the merge loop over counted pre-tokens (Sennrich et al. 2016; handout, section 2)."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from operator import add
from pathlib import Path
from typing import Any

from lmpipe import InputError
from lmpipe.files import write_json
from lmpipe.pretokenize import END_OF_TEXT, count_pretokens, load_counts, merge_counts, to_bytes
from lmpipe.progress import progress
from lmpipe.provenance import peak_memory_bytes
from lmpipe.shapes import SHARD, read_shape
from lmpipe.tokenizer import MOST_IDS, Tokenizer

BYTES = 256
LONG_WORD = 1 << 16
DESCENDING = bytes(range(255, -1, -1))


def train_bpe(
    input_path: str | Path, vocab_size: int, special_tokens: Sequence[str]
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """Train on a text file of any bytes; see `merge_pretokens` for what is returned."""
    initial_vocabulary(vocab_size, special_tokens)
    return merge_pretokens(count_pretokens(input_path, special_tokens), vocab_size, special_tokens)


def initial_vocabulary(vocab_size: int, special_tokens: Sequence[str]) -> dict[int, bytes]:
    """The ids before any merge: the 256 bytes, then the special tokens, each once.

    Raises InputError if they do not fit into vocab_size, or if it exceeds what Tokenizer can hold.
    """
    tokens = list(dict.fromkeys([*(bytes([byte]) for byte in range(BYTES)), *map(to_bytes, special_tokens)]))
    if vocab_size < len(tokens):
        raise InputError(
            f"vocab_size: expected at least {len(tokens)} (256 bytes and {len(tokens) - BYTES} special tokens), "
            f"found {vocab_size}; raise it"
        )
    if vocab_size > MOST_IDS:
        raise InputError(f"vocab_size: expected at most {MOST_IDS}, found {vocab_size}; lower it")
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
    vocab = initial_vocabulary(vocab_size, special_tokens)
    merges = []
    pairs = Pairs(counts, vocab)
    with progress("merging", vocab_size - len(vocab), "merges") as shown:
        while len(vocab) < vocab_size and (pair := pairs.most_frequent()):
            left, right = (vocab[ord(symbol)] for symbol in pair)
            merges.append((left, right))
            vocab[len(vocab)] = left + right
            pairs.merge(pair, chr(len(vocab) - 1))
            shown.advance(1)
    return vocab, merges


class Pairs:
    """The words of a text as tokens, and how often each pair of neighbours occurs.

    A word is a str with one character for each token, chr(id): so a pair is a text of two characters, and Python's own
    `split` and `join` replace it, from left to right, at the speed of C. Each word stands once, with its count.
    """

    def __init__(self, counts: Mapping[bytes, int], vocab: dict[int, bytes]):
        self.vocab = vocab
        self.words = [pretoken.decode("latin-1") for pretoken in counts]
        self.word_counts = list(counts.values())
        self.counts: dict[str, int] = defaultdict(int)
        # A pair's words may since have lost it; they never gain it without being entered.
        self.words_with: dict[str, list[int]] = defaultdict(list)
        for index, (word, count) in enumerate(zip(self.words, self.word_counts, strict=True)):
            for pair, times in Counter(map(add, word, word[1:])).items():
                self.counts[pair] += times * count
                self.words_with[pair].append(index)
        self.heap = [(-count, *self.rank_of_ties(pair), pair) for pair, count in self.counts.items()]
        heapify(self.heap)

    def rank_of_ties(self, pair: str) -> tuple[str, str]:
        """Two texts that sort ascending as the pair's byte strings sort descending."""
        # Turned bytes reverse the order; a character above all of them puts a prefix after what continues it.
        left, right = (self.vocab[ord(symbol)].translate(DESCENDING).decode("latin-1") for symbol in pair)
        return left + "\u0100", right + "\u0100"

    def most_frequent(self) -> str | None:
        """The pair to merge next; None when no word has two tokens left.

        A pair that exists can only become rarer, because every new pair holds the new token. So a count on the heap
        is never too small, and one that is too large is corrected when it comes to the top.
        """
        while self.heap:
            negative, left, right, pair = heappop(self.heap)
            count = self.counts.get(pair, 0)
            if count == -negative:
                return pair
            if count > 0:
                heappush(self.heap, (-count, left, right, pair))
        return None

    def merge(self, pair: str, merged: str) -> None:
        """Replace a pair by its merged token in every word that has it."""
        changes: dict[str, int] = defaultdict(int)
        for index in self.words_with.pop(pair):
            word = self.words[index]
            if joints := word.count(pair):
                self.note_changes(parts_between(word, pair), joints, pair, merged, index, changes)
                self.words[index] = word.replace(pair, merged)
        changes[pair] = -self.counts[pair]
        for changed, change in changes.items():
            self.counts[changed] += change
            if merged in changed:
                heappush(self.heap, (-change, *self.rank_of_ties(changed), changed))
            elif not self.counts[changed]:
                del self.counts[changed]
                self.words_with.pop(changed, None)

    def note_changes(
        self, parts: Iterable[str], joints: int, pair: str, merged: str, index: int, changes: dict[str, int]
    ) -> None:
        """Note which pairs a word loses and gains around the merged tokens that now join its parts at `joints`."""
        count = self.word_counts[index]
        gained = set()
        for place, part in enumerate(parts):
            if part and place:
                changes[pair[1] + part[0]] -= count
                changes[new := merged + part[0]] += count
                gained.add(new)
            if part and place < joints:
                changes[part[-1] + pair[0]] -= count
                changes[new := part[-1] + merged] += count
                gained.add(new)
            if not part and 0 < place < joints:
                changes[pair[1] + pair[0]] -= count
                changes[new := merged + merged] += count
                gained.add(new)
        for new in gained:
            self.words_with[new].append(index)


def parts_between(word: str, pair: str) -> Iterable[str]:
    """The parts of a word between the places of a pair, as `split` gives them; of a long word one at a time.

    >>> list(parts_between("abcab", "ab"))
    ['', 'c', '']
    """
    return word.split(pair) if len(word) <= LONG_WORD else split_lazily(word, pair)


def split_lazily(word: str, pair: str) -> Iterator[str]:
    """As `split`, in constant memory: a list of the parts would take twenty times that of the word."""
    start = 0
    while (end := word.find(pair, start)) >= 0:
        yield word[start:end]
        start = end + len(pair)
    yield word[start:]


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
    counts = merge_counts(load_counts(path) for path in counts_paths)
    if not counts:
        raise InputError(f"{corpus}: expected text to train on, found none; give the corpus documents")
    vocab, merges = merge_pretokens(counts, vocab_size, special_tokens)
    merge = {"wall_seconds": time.perf_counter() - started, "peak_memory_bytes": peak_memory_bytes()}
    started = time.perf_counter()
    tokenizer = Tokenizer(vocab, merges, list(special_tokens))
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
