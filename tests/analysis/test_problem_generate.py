import pytest

from lmpipe.analysis.problems import generate
from lmpipe.generation.samples import SampleRecord, Samples
from lmpipe.generation.text_metrics import METRICS, HeldOutMetrics, text_metrics, unknown_words
from tests.support.fake_results import CORPORA, results_of, write_corpus_info

VOCABULARY = {"the", "cat", "sat", "on", "a", "mat", "and", "saw", "dog", "then"}


def metrics_of(text):
    return text_metrics(text, VOCABULARY).model_dump()


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


def test_metrics_are_means_over_the_samples(tmp_path):
    finding = generate.analyze(results_with(tmp_path, samples_of("stories"), corpora=["stories"]))
    assert finding.status == "answered"
    # 14 of 14, 13 of 13 and 10 of 13 words are known; shares are weighted by words.
    assert finding.metrics["known_word_share_stories"].value == pytest.approx(37 / 40)
    assert finding.metrics["held_out_known_word_share_stories"].value == 1
    assert finding.metrics["ended_samples_stories"].value == 2
    assert finding.metrics["truncated_samples_stories"].value == 1


def test_samples_beyond_the_context_are_one_sentence_for_all_corpora():
    (sentence,) = generate.context_sentences([samples_of("stories"), samples_of("docs")])
    assert "stories" in sentence
    assert "docs" in sentence


def test_changes_within_chance_are_not_reported():
    def group(known_share, words):
        shares = {"known_word_share": known_share, "distinct_2": 0.9, "repeated_4gram_share": None}
        return [record(1.0, 1.0, " the").model_copy(update={"words": words, **shares})]

    assert generate.change_words(group(0.9, 100), group(0.8, 100)) == []
    assert len(generate.change_words(group(0.9, 1000), group(0.8, 1000))) == 1


def test_every_sample_is_shown_with_its_settings_and_a_row(tmp_path):
    finding = generate.analyze(results_with(tmp_path, samples_of("stories"), samples_of("docs")))
    assert len(finding.texts) == 6
    assert finding.texts[0].kind == "prose"
    assert finding.texts[0].text == "Once the cat sat on the cat sat on the cat sat on a mat"
    assert [len(table.rows) for table in finding.tables] == [4, 4]
    assert all(len(row) == len(table.columns) for table in finding.tables for row in table.rows)
    assert {f"{name}_docs" for name in METRICS} <= finding.metrics.keys()


def test_a_finding_without_samples_of_some_or_all_corpora_is_partial_or_missing(tmp_path):
    assert generate.analyze(results_with(tmp_path)).status == "missing"
    assert generate.analyze(results_with(tmp_path, corpora=[])).status == "missing"
    assert generate.analyze(results_with(tmp_path, samples_of("docs"))).status == "partial"


def test_texts_without_words_have_no_share_of_known_words(tmp_path):
    nothing = (record(0.0, 1.0, "...."),)
    samples = samples_of("stories", run_status="diverged", samples=nothing)
    assert len(generate.detail_sentences(samples)) == 2, "on its length, and that its run diverged"
    finding = generate.analyze(results_with(tmp_path, samples, corpora=["stories"]))
    assert finding.metrics["known_word_share_stories"].value is None
    assert finding.metrics["known_word_share_stories"].missing_reason


def test_verdicts_follow_the_share_of_known_words():
    verdicts = [generate.words_verdict(share, 0.99) for share in (0.985, 0.96, 0.8, 0.5)]
    assert len(set(verdicts)) == 4
