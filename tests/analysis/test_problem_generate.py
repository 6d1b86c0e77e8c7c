import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmpipe.analysis.problems import generate
from lmpipe.generation.samples import SampleRecord, Samples
from lmpipe.generation.text_metrics import HeldOutMetrics, split_words, text_metrics, unknown_words
from tests.support.fake_results import CORPORA, results_of, write_corpus_info
from tests.support.findings import value
from tests.support.prose import render

VOCABULARY = {"the", "cat", "sat", "on", "a", "mat", "and", "saw", "dog", "then"}


def metrics_of(text):
    return text_metrics(split_words(text), VOCABULARY).model_dump()


def record(temperature, top_p, text, ended=True, cuts=()):
    return SampleRecord(
        prompt="Once",
        seed=0,
        temperature=temperature,
        top_p=top_p,
        text=text,
        tokens=len(text.split()),
        reached_eos=ended,
        context_truncations=cuts,
        cut_characters=tuple(9 for _ in cuts[:1]),
        unknown_words=unknown_words(text, VOCABULARY),
        **metrics_of(text),
    )


def samples_of(corpus, **changes):
    records = (
        record(0.0, 1.0, " the cat sat on the cat sat on the cat sat on a mat\n", ended=False, cuts=(64, 96)),
        record(1.0, 0.9, " the cat and a dog sat on the mat then saw the dog"),
        record(1.0, 1.0, " the zorp and a dog flumed on the mat then saw the quib"),
    )
    held_out = metrics_of("the cat and a dog sat then saw the mat") | {"documents": 50, "words": 10}
    samples = Samples(
        corpus=corpus,
        run=f"main_experiment/{corpus}",
        run_status="finished",
        validation_loss=2.0,
        tokenizer=corpus,
        prompts=("Once",),
        seed=0,
        max_new_tokens=256,
        context_length=64,
        samples=records,
        held_out=HeldOutMetrics(**held_out),
        progress=(),
    )
    return samples.model_copy(update=changes)


def results_with(folder, *samples_of_corpora, corpora=("stories", "docs")):
    for samples in samples_of_corpora:
        (folder / "samples").mkdir(exist_ok=True)
        samples.write(folder / f"samples/{samples.corpus}.json")
    for corpus in CORPORA:
        write_corpus_info(folder, corpus, {})
    models = {corpus: f"main_experiment/{corpus}" for corpus in corpora}
    samples = {"models": models, "prompts": ["Once"], "temperature": [1.0], "top_p": [1.0]}
    return results_of(folder, samples=samples if models else None)


def test_metrics_are_never_pooled_over_decoding_settings(tmp_path):
    finding = generate.analyze(results_with(tmp_path, samples_of("stories"), corpora=["stories"]))
    assert finding.status == "answered"
    # 14 of 14, 13 of 13 and 10 of 13 words are known.
    assert value(finding, "stories_t0_p1_known_word_share") == 1
    assert value(finding, "stories_t1_p1_known_word_share") == pytest.approx(10 / 13)
    assert value(finding, "stories_held_out_known_word_share") == 1
    assert value(finding, "stories_greedy_repeated_4gram_share") == pytest.approx(5 / 11)
    assert (value(finding, "stories_ended_samples"), value(finding, "stories_truncated_samples")) == (2, 1)


def test_samples_of_one_setting_are_weighted_by_their_words():
    records = [record(1.0, 1.0, " the zorp"), record(1.0, 1.0, " the cat sat on the mat")]
    assert generate.mean(records, "known_word_share") == pytest.approx(7 / 8)


def test_sampling_is_represented_by_the_temperature_nearest_to_the_typical_one():
    settings = [(0.0, 1.0), (0.6, 0.9), (0.6, 1.0), (1.0, 1.0)]
    assert generate.typical_settings(settings) == {"greedy": (0.0, 1.0), "sampled": (0.6, 1.0)}


def test_every_sample_is_shown_with_its_marks_and_every_setting_has_a_row(tmp_path):
    finding = generate.analyze(results_with(tmp_path, samples_of("stories"), samples_of("docs")))
    assert len(finding.texts) == 6
    text = "".join(text for text, _ in finding.texts[0].spans)
    assert text == "Once the cat sat on the cat sat on the cat sat on a mat"
    assert {mark for _, mark in finding.texts[0].spans} == {"", "cut", "repeated"}
    assert ("zorp", "unknown") in finding.texts[2].spans
    assert [len(table.rows) for table in finding.tables] == [4, 4]
    assert "docs" in render("generate", finding)["details"]


def test_marks_are_those_of_the_repeated_4gram_share():
    text = "the cat sat on the cat sat on a mat"
    spans = generate.mark_text(text)
    assert spans == [("the cat sat on ", ""), ("the cat sat on", "repeated"), (" a mat", "")]
    # One of seven phrases is a repetition.
    assert text_metrics(split_words(text), VOCABULARY).repeated_4gram_share == pytest.approx(1 / 7)


def test_unknown_words_and_cuts_are_marked():
    spans = generate.mark_text("A zorp sat; Zorp's mat", {"zorp", "zorp's"}, [7, 100])
    words = [("A ", ""), ("zorp", "unknown"), (" ", ""), ("", "cut"), ("sat; ", ""), ("Zorp's", "unknown")]
    assert spans == [*words, (" mat", "")]


@given(st.text("ab '\u00e9.", max_size=60), st.lists(st.integers(0, 70), max_size=3))
def test_marked_pieces_make_the_text(text, cuts):
    assert "".join(piece for piece, _ in generate.mark_text(text, {"ab"}, cuts)) == text


def test_a_finding_without_samples_of_some_or_all_corpora_is_partial_or_missing(tmp_path):
    assert generate.analyze(results_with(tmp_path)).status == "missing"
    assert generate.analyze(results_with(tmp_path, corpora=[])).status == "missing"
    assert generate.analyze(results_with(tmp_path, samples_of("docs"))).status == "partial"


def test_texts_without_words_have_no_share_of_known_words(tmp_path):
    samples = samples_of("stories", run_status="diverged", samples=(record(0.0, 1.0, "...."),))
    finding = generate.analyze(results_with(tmp_path, samples, corpora=["stories"]))
    assert value(finding, "stories_greedy_known_word_share") is None
    assert finding.metrics["stories_greedy_known_word_share"].missing_reason
    blocks = render("generate", finding)
    assert "no words" in blocks["answer"]
    assert "diverged" in blocks["caveat"]
