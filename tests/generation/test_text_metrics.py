import pytest

from lmpipe.generation.text_metrics import (
    distinct_share,
    figures_of,
    held_out_figures,
    known_words,
    mean_figures,
    words_of,
)


def test_words_are_lower_case_runs_of_letters_and_apostrophes():
    assert words_of("Tom’s dog: “Don't!” 3 times, café नमस्ते") == ["tom's", "dog", "don't", "times", "café", "नमस्ते"]


def test_figures_by_hand():
    figures = figures_of("The cat sat. The cat sat, the cat sat on a zorp", {"the", "cat", "sat", "on", "a"})
    assert figures["words"] == 12
    assert figures["known_word_share"] == pytest.approx(11 / 12)
    assert figures["distinct_1"] == pytest.approx(6 / 12)
    assert figures["distinct_2"] == pytest.approx(6 / 11)
    assert figures["distinct_3"] == pytest.approx(6 / 10)
    # Nine 4-grams: three turns of "the cat sat the", of which two whole rounds come again.
    assert figures["repeated_4gram_share"] == pytest.approx(1 - 6 / 9)


def test_figures_of_no_words_are_undefined():
    figures = figures_of("... 12", {"a"})
    assert figures["words"] == 0
    assert {value for key, value in figures.items() if key != "words"} == {None}
    assert distinct_share(["a", "b"], 3) is None


def test_means_leave_out_what_is_undefined():
    records = [figures_of("a b", {"a"}), figures_of("", {"a"})]
    assert mean_figures(records)["known_word_share"] == 0.5
    assert mean_figures(records)["repeated_4gram_share"] is None


def test_known_words_come_from_the_training_text_without_delimiters(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("One two.<|endoftext|>\nThree one<|endoftext|>Four", encoding="utf-8")
    assert known_words(path)[0] == {"one", "two", "three", "four"}
    assert known_words(path, limit_bytes=5)[0] == {"one", "two"}


def test_held_out_documents_are_cut_to_the_samples_length(tmp_path):
    path = tmp_path / "valid.txt"
    path.write_text("a b c d e f g h<|endoftext|>a a a a a a<|endoftext|>too short<|endoftext|>", encoding="utf-8")
    found = held_out_figures(path, [4, 5, 90], {"a", "b"})
    assert (found["documents"], found["words"]) == (2, 5)
    assert found["distinct_1"] == pytest.approx((1 + 1 / 5) / 2)
    assert found["known_word_share"] == pytest.approx((2 / 5 + 1) / 2)


def test_where_no_document_is_long_enough_the_longest_ones_serve(tmp_path):
    path = tmp_path / "valid.txt"
    path.write_text("a b c d<|endoftext|>a b", encoding="utf-8")
    assert held_out_figures(path, [100], {"a"})["documents"] == 2
