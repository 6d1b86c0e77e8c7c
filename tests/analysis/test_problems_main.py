"""The main experiment on made-up runs on two corpora."""

import math

import pytest

from lmpipe.analysis.problems.main_experiment import same_model_sentence
from lmpipe.tokenizer.evaluation import evaluate_tokenizers
from tests.analysis.test_problem_generate import samples_of
from tests.support.fake_results import CORPORA, EXPERIMENTS, fabricate_study
from tests.support.findings import ON_STORIES, find, find_in, value
from tests.tokenizer.test_evaluation import make_results


def test_two_corpora_are_compared_per_byte_and_explained(fabricated):
    finding = find("main_experiment", fabricated)
    loss, entropy = 0.45 * 6.43 - 0.03 + 0.1, 6.43
    bytes_per_token = value(finding, "web_bytes_per_token")
    assert value(finding, "web_validation_loss") == pytest.approx(loss)
    assert value(finding, "web_removed_share") == pytest.approx(1 - loss / entropy)
    assert value(finding, "web_bits_per_byte") == pytest.approx(loss / math.log(2) / bytes_per_token, rel=1e-4)
    gap = 0.45 * (6.43 - 5.21) + 0.1
    gap_parts = {"vocabulary": math.log(2), "frequencies": 1.22 - math.log(2), "context": gap - 1.22}
    assert {name: value(finding, f"gap_{name}") for name in gap_parts} == pytest.approx(gap_parts)
    assert value(finding, "gap") == pytest.approx(gap) == pytest.approx(sum(gap_parts.values()))
    ratio = value(finding, "loss_ratio") / value(finding, "bytes_per_token_ratio")
    assert value(finding, "bits_per_byte_ratio") == pytest.approx(ratio, rel=1e-3), (
        "the made-up losses hold no delimiter"
    )


def test_samples_of_both_corpora_stand_side_by_side(tmp_path):
    results = fabricate_study(tmp_path, {"main_experiment": EXPERIMENTS["main_experiment"]})
    without = len(find("main_experiment", results).sentences)
    for corpus in CORPORA:
        samples_of(corpus).write(tmp_path / "samples" / f"{corpus}.json")
    finding = find("main_experiment", results)
    assert len(finding.sentences) == without + 1
    table = next(table for table in finding.tables if table.columns[0] == "prompt")
    assert table.columns[3:] == ["the model of stories", "the model of docs"]
    assert [row[1:3] for row in table.rows] == [[0.0, 1.0], [1.0, 0.9], [1.0, 1.0]]
    assert table.rows[1][3] == "Once the cat and a dog sat on the mat then saw the dog"
    long = samples_of("docs")
    first, *others = long.samples
    long = long.model_copy(update={"samples": (first.model_copy(update={"text": " word" * 200}), *others)})
    long.write(tmp_path / "samples/docs.json")
    cell = next(t for t in find("main_experiment", results).tables if t.columns == table.columns).rows[0][4]
    assert cell.startswith("Once word") and cell.endswith("word …") and len(cell) <= 302
    samples_of("docs", run="main_experiment/another").write(tmp_path / "samples/docs.json")
    assert len(find("main_experiment", results).sentences) == without, "they are of another run"


def test_the_cross_table_has_every_text_by_every_tokenizer(tmp_path):
    make_results(tmp_path)
    compared = evaluate_tokenizers(tmp_path, ["stories", "docs"], {"stories": "stories", "docs": "docs"})
    compared.write(tmp_path / "tokenizer_experiments.json")
    results = fabricate_study(tmp_path, {"main_experiment": EXPERIMENTS["main_experiment"]})
    (table,) = [table for table in find("main_experiment", results).tables if table.columns[0] == ""]
    ratios = {(row.corpus, row.tokenizer): row.valid_bytes_per_token for row in compared.compression}
    assert table.rows == [
        [f"text of {text}", ratios[text, "stories"], ratios[text, "docs"]] for text in ("stories", "docs")
    ]


def test_bits_per_byte_of_unigrams_leave_out_delimiters(fabricated):
    columns = find("main_experiment", fabricated).tables[0].columns
    (docs,) = [row for row in find("main_experiment", fabricated).tables[0].rows if row[0].startswith("docs")]
    share = 29_700 / 10**6
    text_nats = 6.43 + share * math.log(share)
    by_hand = text_nats / math.log(2) / docs[columns.index("bytes per token")]
    assert docs[columns.index("bits per byte of unigrams")] == pytest.approx(by_hand, rel=1e-9)
    assert docs[columns.index("bits per byte of unigrams")] == pytest.approx(2.3271, abs=1e-4)


def test_two_corpora_of_one_role_keep_their_own_figures(tmp_path):
    corpora = CORPORA | {
        "tales": {"source": "stories", "documents": 100, "tokenizer": {"vocab_size": 1024}, "stands_for": "TinyStories"}
    }
    runs = {name: {"corpus": name} for name in ("tales", "stories", "docs")}
    finding = find("main_experiment", fabricate_study(tmp_path, {"main_experiment": {"runs": runs}}, corpora=corpora))
    assert value(finding, "simple_corpus") == "stories", "the first of the study, whatever the experiment's order"
    assert value(finding, "simple_validation_loss") == pytest.approx(0.45 * 5.21 - 0.03, abs=1e-6)
    assert value(finding, "tales_validation_loss") == pytest.approx(0.45 * 5.52 - 0.03, abs=1e-6)
    only = {"runs": {"docs": {"corpus": "docs"}, "tales": {"corpus": "tales"}}}
    finding = find("main_experiment", fabricate_study(tmp_path / "only", {"main_experiment": only}, corpora=corpora))
    assert (finding.status, value(finding, "simple_corpus")) == ("answered", "tales")


def test_several_runs_on_a_corpus_are_ranked_over_seeds(tmp_path):
    runs = {"stories": {"corpus": "stories", "sweep": {"max_lr": [0.003, 0.01]}}, "docs": {"corpus": "docs"}}
    finding = find_in(tmp_path, "main_experiment", {"seeds": [0, 1], "runs": runs})
    assert value(finding, "simple_validation_loss") == pytest.approx(0.45 * 5.21 - 0.015, abs=1e-6), "at 0.01"
    low, high = finding.metrics["gap_bits_per_byte"].interval
    assert 0 < low < value(finding, "gap_bits_per_byte") < high


def test_models_that_differ_are_described_by_their_settings(tmp_path):
    runs = {"stories": {"corpus": "stories", "num_layers": 2}, "docs": {"corpus": "docs"}}
    results = fabricate_study(tmp_path, {"main_experiment": {"runs": runs}})
    sentence = same_model_sentence(results.experiment("main_experiment"))
    assert all(text in sentence for text in ("num_layers", "vocab_size", "409,600"))


def test_one_corpus_alone_is_partial(tmp_path):
    assert find_in(tmp_path, "main_experiment", {"runs": {"stories": ON_STORIES}}).status == "partial"
