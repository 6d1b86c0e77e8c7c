import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lmpipe.kernels.bpe import merge_loop
from lmpipe.kernels.bpe.merge_loop import MergeLoop
from lmpipe.kernels.bpe.structs import PAIRS_FULL, POOL_FULL, TEXT_FULL
from lmpipe.tokenizer.bpe_training import merge_pretokens
from lmpipe.tokenizer.pretoken_counts import PretokenCounts
from tests.reference import naive_bpe

DENSE_WORDS = st.lists(st.text(alphabet="ab", min_size=1, max_size=24), max_size=12)
VARIED_WORDS = st.lists(st.binary(min_size=1, max_size=40) | st.sampled_from([b"low", b"lower", b"newest", b"widest"]))
COUNTS = st.one_of(DENSE_WORDS.map(lambda words: [word.encode() for word in words]), VARIED_WORDS).flatmap(
    lambda words: st.fixed_dictionaries(dict.fromkeys(words, st.integers(1, 9)))
)


def train(counts: dict[bytes, int], first: int, num_merges: int) -> list[bytes]:
    """Return the tokens of the merges, with ids from `first` upwards."""
    tokens = {byte: bytes([byte]) for byte in range(256)}
    pairs = MergeLoop(PretokenCounts.from_mapping(counts).arrays, first, num_merges).run(lambda merges: None)
    for number, (left, right) in enumerate(pairs.tolist(), start=first):
        tokens[number] = tokens[left] + tokens[right]
    return list(tokens.values())[256:]


def naive(counts: dict[bytes, int], num_merges: int) -> list[bytes]:
    return [left + right for left, right in naive_bpe.merge_words(counts, num_merges)]


@pytest.mark.parametrize("first", [256, 65_530], ids=["narrow", "wide"])
@given(counts=COUNTS, num_merges=st.integers(0, 40), extra_pairs=st.sampled_from([1, 1000]))
@settings(max_examples=settings.default.max_examples // 2)
@example(counts={b"a" * 100: 3, b"ab" * 50: 2, b"a": 7, b"aaa": 1}, num_merges=40, extra_pairs=1)
@example(counts={b"x" * 17: 1, b"y" * 33: 2, b"xy" * 16 + b"x": 1}, num_merges=40, extra_pairs=1000)
@example(counts={}, num_merges=5, extra_pairs=1)
def test_merges_equal_the_naive_reference(first, counts, num_merges, extra_pairs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge_loop, "MIN_COUNT_FACTOR", 1e-9 if extra_pairs == 1 else 0.4)
        patch.setattr(merge_loop, "PAIRS_PER_MERGE", 0)
        patch.setattr(merge_loop, "EXTRA_PAIRS", extra_pairs)
        assert train(counts, first, num_merges) == naive(counts, num_merges)


def test_full_buffers_grow(monkeypatch):
    generator = random.Random(0)
    counts = {bytes(generator.choices(range(97, 117), k=12)): generator.randint(1, 99) for _ in range(300)}
    make_room, reasons = merge_loop.MergeLoop.make_room, set()

    def noted(self, reason):
        reasons.add(reason)
        make_room(self, reason)

    monkeypatch.setattr(merge_loop.MergeLoop, "make_room", noted)
    for name in ("HEADROOM", "BYTES_PER_TOKEN", "INITIAL_COUNTERS"):
        monkeypatch.setattr(merge_loop, name, 1)
    assert train(counts, 256, 300) == naive(counts, 300)
    assert reasons == {POOL_FULL, TEXT_FULL, PAIRS_FULL}


def test_one_word_with_every_pair_of_bytes():
    word = bytes(byte for left in range(256) for right in range(256) for byte in (left, right))
    assert train({word: 1, b"zz" * 400: 1}, 256, 1) == [b"zz"]


def test_very_long_words_and_very_large_counts():
    counts = {b"ab" * 50_000: 1 << 40, b"c" * 100_000: 3}
    _, merges = merge_pretokens(counts, 300, [])
    assert merges[:3] == [(b"a", b"b"), (b"ab", b"ab"), (b"abab", b"abab")]
    assert max(len(left + right) for left, right in merges) >= 50_000
