import pytest

from lmpipe.analysis.problems import generate
from lmpipe.generation.samples import SampleRecord, Samples
from lmpipe.generation.text_metrics import METRICS, HeldOutMetrics, text_metrics
from tests.support.fake_results import CORPORA, results_of, write_corpus_info

KNOWN = {"the", "cat", "sat", "on", "a", "mat", "and", "saw", "dog", "then"}


def metrics_of(text):
    return text_metrics(text, KNOWN).model_dump()


def record(temperature, top_p, text, ended=True, cuts=()):
    return SampleRecord(
        prompt="Once",
        temperature=temperature,
        top_p=top_p,
        text=text,
        tokens=len(text.split()),
        reached_eos=ended,
        context_truncations=cuts,
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
        vocabulary_words=10,
        vocabulary_bytes=100,
    )
    return samples.model_copy(update=changes)


def results_with(folder, *found, shown=("stories", "docs")):
    for samples in found:
        (folder / "samples").mkdir(exist_ok=True)
        samples.write(folder / f"samples/{samples.corpus}.json")
    for corpus in CORPORA:
        write_corpus_info(folder, corpus, {})
    models = {corpus: f"main_experiment/{corpus}" for corpus in shown}
    samples = {"models": models, "prompts": ["Once"], "temperature": [1.0], "top_p": [1.0]}
    return results_of(folder, samples=samples if models else None)


def test_fluency_is_told_from_the_figures(tmp_path):
    finding = generate.analyze(results_with(tmp_path, samples_of("stories"), shown=["stories"]))
    assert finding.status == "answered"
    # 14 of 14, 13 of 13 and 10 of 13 words are known; shares are weighted by words.
    assert finding.metrics["known_word_share_stories"].value == pytest.approx(37 / 40)
    assert finding.sentences[0].startswith("The model trained on stories")
    expected = "mostly real words: 92.5 % of the words in its 3 samples occur in the training text, against 100 %"
    assert expected in finding.sentences[0]
    text = " ".join(finding.sentences)
    change = "the share of repeated four-word phrases falls from 45.5 % to 0 %"
    assert (
        f"in the samples of stories, the share of different word pairs rises from 46.2 % to 100 % and {change}" in text
    )
    assert "Where top-p is lowered from 1 to 0.9" in text
    assert "2 of the 3 samples of stories reach the end of text by themselves; the other 1 stops at 256 tokens." in text
    assert "1 of the samples of stories grew beyond the context of 64 tokens" in text


def test_samples_that_outgrew_the_context_are_told_once_for_all_corpora(tmp_path):
    told = " ".join(generate.analyze(results_with(tmp_path, samples_of("stories"), samples_of("docs"))).sentences)
    both = "1 of the samples of stories and 1 of the samples of docs grew beyond the context of 64 tokens; from"
    assert both in told
    assert told.count("grew beyond") == 1


def test_a_single_sample_that_ends_is_told_in_the_singular(tmp_path):
    records = tuple(record(1.0, 1.0, " the cat sat", ended=ended) for ended in (True, False, False))
    finding = generate.analyze(results_with(tmp_path, samples_of("stories", samples=records), shown=["stories"]))
    ends = "1 of the 3 samples of stories reaches the end of text by itself; the other 2 stop at 256 tokens."
    assert ends in finding.sentences


def test_changes_within_chance_are_not_told():
    def group(known, words):
        shares = {"known_word_share": known, "distinct_2": 0.9, "repeated_4gram_share": None}
        return [record(1.0, 1.0, " the").model_copy(update={"words": words, **shares})]

    assert generate.change_words(group(0.9, 100), group(0.8, 100)) == []
    [told] = generate.change_words(group(0.9, 1000), group(0.8, 1000))
    assert told == "the share of words known from the training text falls from 90.0 % to 80.0 %"


def test_every_sample_is_shown_with_its_settings_and_a_row(tmp_path):
    finding = generate.analyze(results_with(tmp_path, samples_of("stories"), samples_of("docs")))
    assert len(finding.texts) == 6
    assert finding.texts[0].kind == "prose"
    assert finding.texts[0].text == "Once the cat sat on the cat sat on the cat sat on a mat"
    assert finding.texts[0].caption == "stories: greedy (temperature 0); 14 tokens, stopped at 256 tokens"
    assert finding.texts[4].caption == "docs: temperature 1, top-p 0.9; 13 tokens, to the end of text"
    assert [len(table.rows) for table in finding.tables] == [4, 4]
    assert all(len(row) == len(table.columns) for table in finding.tables for row in table.rows)
    assert finding.tables[0].rows[-1][0] == "held-out text (50 documents)"
    assert {f"{name}_docs" for name in METRICS} <= finding.metrics.keys()
    assert finding.sentences[0].startswith("The model trained on stories")
    assert finding.sentences[1].startswith("The model trained on docs")


def test_a_corpus_without_samples_makes_the_finding_partial(tmp_path):
    finding = generate.analyze(results_with(tmp_path, samples_of("docs")))
    assert finding.status == "partial"
    assert finding.sentences[-1] == "Samples of stories have not been generated."


def test_no_samples_at_all_are_told_with_the_remedy(tmp_path):
    assert generate.analyze(results_with(tmp_path)).status == "missing"
    assert f"run `snakemake --cores 1 {tmp_path}/samples/" in generate.analyze(results_with(tmp_path)).sentences[0]
    unplanned = generate.analyze(results_with(tmp_path, shown=[]))
    assert unplanned.status == "missing"
    assert "samples: {models:" in unplanned.sentences[0]


def test_a_diverged_run_and_texts_without_words_are_told(tmp_path):
    nothing = (record(0.0, 1.0, "...."),)
    samples = samples_of("stories", run_status="diverged", samples=nothing)
    finding = generate.analyze(results_with(tmp_path, samples, shown=["stories"]))
    assert (
        finding.sentences[0]
        == "The model trained on stories (in the place of TinyStories) writes no words that could be counted."
    )
    assert any("ended as diverged" in sentence for sentence in finding.sentences)
    assert finding.metrics["known_word_share_stories"].value is None
    assert finding.metrics["known_word_share_stories"].missing_reason


@pytest.mark.parametrize(
    ("share", "verdict"),
    [(0.985, "words as real"), (0.96, "almost only"), (0.8, "mostly"), (0.5, "many words of its own")],
)
def test_verdicts_follow_the_share_of_known_words(share, verdict):
    assert generate.words_verdict(share, 0.99).startswith(verdict)
