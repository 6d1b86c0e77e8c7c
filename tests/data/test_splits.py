"""Splits: shuffled by seed, near the fraction, without a document lost, changed or in both."""

import random
import tracemalloc
from itertools import chain, pairwise, repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmpipe.data.sources.readers import end_document
from lmpipe.data.sources.splits import JoinedText
from lmpipe.errors import InputError

END = "<|endoftext|>"


def document(text):
    return f"{text}\n{END}\n".encode()


def split(blocks, folder, fraction, seed):
    return {name: b"".join(part) for name, part in JoinedText(blocks, folder).split(fraction, seed).items()}


def documents_of(text):
    return [part.strip() for part in text.decode().split(END) if part.strip()]


def numbered(count, length=40):
    return [f"{number} " + "word " * length for number in range(count)]


def test_documents_are_shuffled_by_seed_and_none_is_lost(tmp_path):
    texts = [text.strip() for text in numbered(1000)]
    blocks = [document(text) for text in texts]
    first, again, other = (split(blocks, tmp_path, 0.1, seed) for seed in (0, 0, 1))
    assert first == again and first != other
    train, valid = (documents_of(first[name]) for name in ("train", "valid"))
    assert sorted(train + valid) == sorted(texts)
    assert train + valid != texts and valid != texts[-len(valid) :]
    assert 99 <= len(valid) <= 101
    places = [texts.index(text) for text in valid]
    assert min(places) < 100 and max(places) > 900, "from the whole text"


def test_without_a_seed_the_order_is_kept(tmp_path):
    blocks = [document(text) for text in numbered(100)]
    result = split(blocks, tmp_path, 0.25, None)
    assert result["train"] + result["valid"] == b"".join(blocks)
    assert len(documents_of(result["valid"])) == 25


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=60),
    fraction=st.floats(0.02, 0.98),
    seed=st.one_of(st.none(), st.integers(0, 5)),
)
def test_the_fraction_is_held_within_one_document_or_one_percent(tmp_path_factory, lengths, fraction, seed):
    texts = ["".join(f"line {number} of a long document\n" for number in range(length)) for length in lengths]
    blocks = [document(text.rstrip()) for text in texts]
    total = sum(map(len, blocks))
    try:
        result = split(blocks, tmp_path_factory.mktemp("split"), fraction, seed)
    except InputError:
        assert total < 2000, "only a tiny text has no place to cut"
        return
    deviation = abs(len(result["valid"]) - fraction * total)
    assert deviation <= max(0.01 * total, max(map(len, blocks)) / 2 + 30, 130)
    words = sorted(" ".join(documents_of(result["train"] + result["valid"])).split())
    assert words == sorted(" ".join(texts).split())


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_two_plain_files_give_ten_percent_and_not_half(tmp_path, seed):
    blocks = [document("\n".join(f"{name} line {number}" for number in range(5000))) for name in ("first", "second")]
    result = split(blocks, tmp_path, 0.1, seed)
    assert 0.09 < len(result["valid"]) / sum(map(len, result.values())) < 0.11
    assert len(documents_of(result["train"])) == 2 and len(documents_of(result["valid"])) == 1


@pytest.mark.parametrize("text", ["", " \n ", "word", "A" * 100_000, f"{END}\n{END}\n"])
def test_what_cannot_be_split_is_refused(tmp_path, text):
    with pytest.raises(InputError):
        split(end_document([text.encode()]), tmp_path, 0.1, 0)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_ends_of_documents_do_not_depend_on_blocks(tmp_path_factory, cuts):
    text = f"one\n{END}\r\ntwo{END}three\n{END}\n \n{END}\n{END}four\n{END}".encode()
    offsets = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    blocks = [text[start:stop] for start, stop in pairwise(offsets)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmpipe.data.sources.splits.CHUNK_BYTES", 1)
        joined = JoinedText(blocks, tmp_path_factory.mktemp("ends"))
        patch.undo()
        assert joined.ends == JoinedText([text], tmp_path_factory.mktemp("ends")).ends
    assert len(joined.ends) == 4 and joined.ends[-1] == len(text)


@pytest.mark.parametrize("text", [b"x" * 999 + f"\n{END}\n".encode(), b" " * 1000], ids=["documents", "white space"])
def test_memory_is_that_of_an_index(tmp_path, text):
    first = f"one\n{END}\n".encode()
    blocks = chain([first], repeat(text, 100_000), [first])
    tracemalloc.start()
    result = JoinedText(blocks, tmp_path).split(0.1, 0)
    sizes = {name: sum(map(len, part)) for name, part in result.items()}
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(sizes.values()) == 100_000 * len(text) + 2 * len(first)
    assert peak < 20_000_000, "100 MB of text"


def test_shuffled_documents_are_spread_evenly(tmp_path):
    random.seed(0)
    result = split([document(f"{number:05}") for number in range(2000)], tmp_path, 0.5, 7)
    numbers = [int(text) for text in documents_of(result["train"])]
    assert abs(sum(numbers) / len(numbers) - 1000) < 60
