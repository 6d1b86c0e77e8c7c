import pytest
from pydantic import ValidationError

from lmpipe.generation.text_metrics import (
    METRICS,
    TextMetrics,
    distinct_share,
    held_out_metrics,
    split_words,
    text_metrics,
    training_vocabulary,
)


def test_words_are_lower_case_runs_of_letters_and_apostrophes():
    assert split_words("Tom’s dog: “Don't!” 3 times, café नमस्ते") == ["tom's", "dog", "don't", "times", "café", "नमस्ते"]


def test_metrics_by_hand():
    metrics = text_metrics(
        split_words("The cat sat. The cat sat, the cat sat on a zorp"), {"the", "cat", "sat", "on", "a"}
    )
    assert metrics.words == 12
    assert metrics.known_word_share == pytest.approx(11 / 12)
    assert metrics.distinct_1 == pytest.approx(6 / 12)
    assert metrics.distinct_2 == pytest.approx(6 / 11)
    assert metrics.distinct_3 == pytest.approx(6 / 10)
    # Nine 4-grams, three of which repeat an earlier one.
    assert metrics.repeated_4gram_share == pytest.approx(1 - 6 / 9)


def test_metrics_of_no_words_are_undefined():
    metrics = text_metrics(split_words("... 12"), {"a"})
    assert metrics.words == 0
    assert {getattr(metrics, name) for name in METRICS} == {None}
    assert distinct_share(["a", "b"], 3) is None


def test_shares_of_no_words_are_refused():
    with pytest.raises(ValidationError, match="words"):
        TextMetrics(words=0, **dict.fromkeys(METRICS, 0.5))


def test_training_vocabulary_leaves_out_delimiters(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("One two.<|endoftext|>\nThree one<|endoftext|>Four", encoding="utf-8")
    assert training_vocabulary(path) == {"one", "two", "three", "four"}
    assert training_vocabulary(path, max_bytes=5) == {"one", "two"}


def test_held_out_documents_are_cut_to_the_samples_length(tmp_path):
    path = tmp_path / "valid.txt"
    path.write_text("a b c d e f g h<|endoftext|>a a a a a a<|endoftext|>too short<|endoftext|>", encoding="utf-8")
    metrics = held_out_metrics(path, [4, 5, 90], {"a", "b"})
    assert (metrics.documents, metrics.words) == (2, 5)
    assert metrics.distinct_1 == pytest.approx((1 + 1 / 5) / 2)
    assert metrics.known_word_share == pytest.approx((2 / 5 + 1) / 2)


def test_means_leave_out_undefined_shares(tmp_path):
    path = tmp_path / "valid.txt"
    path.write_text("a b a b a<|endoftext|>12 13", encoding="utf-8")
    metrics = held_out_metrics(path, [100], {"a"})
    assert (metrics.documents, metrics.known_word_share) == (2, 3 / 5)


def test_the_longest_documents_serve_if_none_is_long_enough(tmp_path):
    path = tmp_path / "valid.txt"
    path.write_text("a b c d<|endoftext|>a b", encoding="utf-8")
    assert held_out_metrics(path, [100], {"a"}).documents == 2
