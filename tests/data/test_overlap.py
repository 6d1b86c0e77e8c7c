"""Overlap of two texts beside that of sets of n-grams in plain Python."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmpipe.data import overlap
from lmpipe.data.overlap import NGRAM_WORDS, measure_overlap

END = "<|endoftext|>"
WORDS = [f"word{number}" for number in range(40)]


def write(folder, **texts):
    paths = {name: folder / f"{name}.txt" for name in texts}
    for name, documents in texts.items():
        paths[name].write_text("".join(f"{document}\n{END}\n" for document in documents), encoding="utf-8")
    return paths


def ngrams(documents):
    """Count the n-grams of documents; a shorter document is one."""
    lower = [re.sub("[A-Z]", lambda letter: letter[0].lower(), text) for text in documents]
    words = [re.findall("[a-z0-9\x80-\U0010ffff]+", text) for text in lower]
    starts = [(part, range(max(1, len(part) - NGRAM_WORDS + 1))) for part in words if part]
    return Counter(tuple(part[start : start + NGRAM_WORDS]) for part, range_ in starts for start in range_)


def expected(train, valid):
    seen, counts = ngrams(train), ngrams(valid)
    return sum(count for ngram, count in counts.items() if ngram in seen) / max(1, counts.total())


def test_overlap_by_hand(tmp_path):
    train = [" ".join(WORDS[:20]), "The end."]
    # Of 8 n-grams, 13 words each, the first three are in the training text; then come a short document and a new one.
    valid = [" ".join([*WORDS[5:20], "other", *WORDS[:4]]), "the END", "New."]
    assert measure_overlap(**write(tmp_path, train=train, valid=valid)) == pytest.approx((3 + 1) / (8 + 2))


def test_case_punctuation_and_white_space_do_not_count(tmp_path):
    train, valid = " ".join(WORDS), ",\n ".join(WORDS).upper() + "!"
    assert measure_overlap(**write(tmp_path, train=[train], valid=[valid])) == 1


def test_no_ngram_reaches_into_another_document(tmp_path):
    halves = [" ".join(WORDS[:20]), " ".join(WORDS[20:])]
    whole = " ".join(WORDS)
    assert measure_overlap(**write(tmp_path, train=halves, valid=[whole])) == pytest.approx(2 * 8 / 28)


def test_text_without_words_has_no_overlap(tmp_path):
    assert measure_overlap(**write(tmp_path, train=["?"], valid=["..."])) == 0


texts = st.lists(st.lists(st.sampled_from(["a", "B b", "é.", "7", "\n"]), max_size=60).map(" ".join), max_size=8)


@settings(max_examples=60, deadline=None)
@given(train=texts, valid=texts, block=st.sampled_from([1, 50, 1 << 20]))
def test_overlap_is_that_of_sets_of_ngrams(tmp_path_factory, train, valid, block):
    paths = write(tmp_path_factory.mktemp("overlap"), train=[*train, "x"], valid=[*valid, "y"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "BLOCK_BYTES", block)
        assert measure_overlap(**paths) == pytest.approx(expected([*train, "x"], [*valid, "y"]))


def test_a_sample_of_a_large_text_has_about_the_same_overlap(tmp_path, monkeypatch):
    train = [" ".join(f"w{number}" for number in range(start, start + 100)) for start in range(0, 50_000, 100)]
    valid = [text if index % 4 == 0 else text.replace("w", "v") for index, text in enumerate(train)]
    paths = write(tmp_path, train=train, valid=valid)
    assert measure_overlap(**paths) == 0.25
    monkeypatch.setattr(overlap, "SAMPLE_BYTES", paths["valid"].stat().st_size // 20)
    assert 0.2 < measure_overlap(**paths) < 0.3


def test_a_sample_of_equal_documents_is_not_empty(tmp_path, monkeypatch):
    monkeypatch.setattr(overlap, "SAMPLE_BYTES", 1000)
    for text in WORDS[:6]:
        assert measure_overlap(**write(tmp_path, train=[text], valid=[text] * 1000)) == 1
