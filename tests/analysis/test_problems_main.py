"""The main experiment on made-up runs on two corpora."""

import math

import pytest

from tests.support.fake_results import (
    BYTES_PER_TOKEN,
    CORPORA,
    EXPERIMENTS,
    change_summary,
    fabricate_study,
    fabricate_yardsticks,
)
from tests.support.findings import ON_STORIES, find, find_in, value
from tests.support.prose import render

MAIN = {"main_experiment": EXPERIMENTS["main_experiment"]}
STORIES_LOSS, DOCS_LOSS = 0.45 * 5.21 - 0.03, 0.45 * 6.43 - 0.03 + 0.1
NGRAMS = {1: 5.21, 2: 2.9, 3: 2.1, 4: 2.0, 5: 1.9}


def test_each_corpus_has_its_loss_in_bits_per_byte(fabricated):
    finding = find("main_experiment", fabricated)
    assert value(finding, "simple_validation_loss") == pytest.approx(STORIES_LOSS, abs=1e-6)
    assert value(finding, "web_validation_loss") == pytest.approx(DOCS_LOSS, abs=1e-6)
    bytes_per_token = value(finding, "web_bytes_per_token")
    assert value(finding, "web_bits_per_byte") == pytest.approx(DOCS_LOSS / math.log(2) / bytes_per_token, rel=1e-4)
    assert value(finding, "web_perplexity") == pytest.approx(math.exp(DOCS_LOSS), rel=1e-5)


def test_one_seed_has_the_interval_over_validation_documents(tmp_path):
    results = fabricate_study(tmp_path, MAIN)
    change_summary(results, "main_experiment/stories/seed0", validation_loss_se=0.01)
    finding = find("main_experiment", results)
    low, high = finding.metrics["simple_validation_loss"].interval
    assert (low, high) == pytest.approx((STORIES_LOSS - 0.0196, STORIES_LOSS + 0.0196), abs=1e-6)
    ratio = value(finding, "simple_bits_per_byte") / value(finding, "simple_validation_loss")
    assert finding.metrics["simple_bits_per_byte"].interval == pytest.approx((low * ratio, high * ratio))
    assert finding.metrics["simple_perplexity"].interval == pytest.approx((math.exp(low), math.exp(high)))


def test_a_rate_chosen_at_another_length_is_told(tmp_path):
    rate = {"max_lr": {"best_of": "learning_rate"}}
    names = ("learning_rate", "main_experiment")
    for tokens, chosen_at in ((2_048_000, 409_600), (409_600, None)):
        experiments = {name: EXPERIMENTS[name] for name in names}
        experiments["main_experiment"] = MAIN["main_experiment"] | rate | {"total_tokens": tokens}
        finding = find("main_experiment", fabricate_study(tmp_path / str(tokens), experiments))
        assert finding.facts["rate_tokens"] == chosen_at
        assert ("410,000 tokens" in render("main_experiment", finding)["caveat"]) == bool(chosen_at)


def test_a_larger_vocabulary_is_the_reason_of_more_parameters_only_between_equal_shapes(fabricated, tmp_path):
    runs = {"stories": {"corpus": "stories"}, "docs": {"corpus": "docs", "d_model": 128}}
    unequal = find_in(tmp_path, "main_experiment", {"total_tokens": 2_048_000, "runs": runs})
    for finding, is_reason in ((find("main_experiment", fabricated), True), (unequal, False)):
        assert ("because" in render("main_experiment", finding)["caveat"]) is is_reason


def test_the_model_is_placed_among_ngram_tables(tmp_path):
    results = fabricate_study(tmp_path, MAIN)
    fabricate_yardsticks(results, "stories", {2_048_000: NGRAMS})
    finding = find("main_experiment", results)
    stories, docs = finding.facts["sides"]
    assert (stories["passed"], stories["ahead"]) == ("bigram", "3-gram")
    assert (docs["passed"], docs["ahead"]) == (None, None), "docs has no yardsticks"
    assert value(finding, "simple_bigram_loss") == 2.9
    assert value(finding, "simple_ngram_overlap") == 0.18
    table = {row[0]: row[1:] for row in finding.tables[0].rows}
    assert table["xz"] == [None, 1.02, None, None]
    assert table["transformer"][0] == value(finding, "simple_validation_loss")


def test_a_poor_table_of_high_order_does_not_count_as_passed(tmp_path):
    results = fabricate_study(tmp_path, MAIN)
    fabricate_yardsticks(results, "stories", {2_048_000: NGRAMS | {5: 9.0}})
    stories, _ = find("main_experiment", results).facts["sides"]
    assert (stories["passed"], stories["ahead"]) == ("bigram", "3-gram")


def test_the_hero_ends_at_the_loss_of_the_table(tmp_path):
    results = fabricate_study(tmp_path, MAIN | {"no_pos_emb": EXPERIMENTS["no_pos_emb"] | {"max_lr": 0.01}})
    fabricate_yardsticks(results, "stories", {2_048_000: NGRAMS})
    finding = find("main_experiment", results)
    (hero,) = finding.figures
    assert (hero.id, hero.data.log_x) == ("hero", True)
    assert [line.variant for line in hero.data.lines] == ["stories", "docs"]
    ends = [line.y[-1] for line in hero.data.lines]
    assert ends == pytest.approx(
        [value(finding, "simple_bits_per_byte"), value(finding, "web_bits_per_byte")], rel=1e-5
    )
    assert [line.label for line in hero.data.yardsticks] == ["uniform", "unigram", "bigram", "3-gram", "5-gram", "xz"]
    assert hero.data.yardsticks[2].value == pytest.approx(2.9 / math.log(2) / BYTES_PER_TOKEN["stories"])
    assert hero.data.marks[0].value == 409_600


def test_models_of_unequal_size_are_reported(fabricated):
    finding = find("main_experiment", fabricated)
    assert finding.facts["size_ratio"] == pytest.approx(458_816 / 327_744)
    assert "40 % more parameters" in render("main_experiment", finding)["caveat"]


def test_two_corpora_of_one_role_keep_the_metrics_of_their_best_run(tmp_path):
    tales = {"source": "stories", "documents": 100, "tokenizer": {"vocab_size": 1024}, "stands_for": "TinyStories"}
    runs = {name: {"corpus": name, "sweep": {"max_lr": [0.003, 0.01]}} for name in ("stories", "tales", "docs")}
    results = fabricate_study(tmp_path, {"main_experiment": {"runs": runs}}, corpora=CORPORA | {"tales": tales})
    finding = find("main_experiment", results)
    assert value(finding, "simple_corpus") == "stories"
    assert value(finding, "tales_validation_loss") == pytest.approx(0.45 * 5.52 - 0.03, abs=1e-6)


def test_one_corpus_alone_is_partial(tmp_path):
    finding = find_in(tmp_path, "main_experiment", {"runs": {"stories": ON_STORIES}})
    assert finding.status == "partial"
    assert finding.reason
    assert "stories" in render("main_experiment", finding)["answer"]


def test_an_expectation_about_the_second_corpus_is_in_bits_per_byte(tmp_path):
    expect = {"outcome": "higher", "because": "documentation is less predictable"}
    experiment = EXPERIMENTS["main_experiment"] | {"seeds": [0, 1], "expect": expect}
    (expectation,) = find_in(tmp_path, "main_experiment", experiment).expectations
    assert (expectation.label, expectation.outcome) == ("docs", "higher")
