import json
import math
import re

import numpy
import pytest
import yaml
from fabricate import EXPERIMENTS, fabricate_study

from lmpipe.plan import load_plan
from lmpipe.problems import Finding, entry, general_experiment, module_of
from lmpipe.problems.batch_size_experiment import loss_at
from lmpipe.problems.learning_rate import parabola_minimum
from lmpipe.problems.reference import beside_write_up, corpus_in_words, write_up
from lmpipe.results import Results

IDS = (
    "learning_rate",
    "batch_size_experiment",
    "layer_norm_ablation",
    "pre_norm_ablation",
    "no_pos_emb",
    "swiglu_ablation",
    "main_experiment",
)


ALONE = {"corpus": "stories"}


def find(problem: str, results: Results) -> Finding:
    return module_of(problem).find(results)


def said(finding: Finding) -> str:
    return " ".join(finding.sentences)


def value(finding: Finding, name: str):
    return finding.figures[name].value


@pytest.mark.parametrize("problem", [*IDS, "experiment_log"])
def test_every_finding_is_answered_from_its_figures_and_fits_into_json(fabricated, problem):
    finding = find(problem, fabricated)
    module = module_of(problem)
    assert finding.status == "answered"
    assert problem == module.ID
    assert module.QUESTION.endswith("?")
    assert all(sentence.endswith((".", "`")) for sentence in finding.sentences), finding.sentences
    assert not re.search(r"\b(None|nan|inf)\b", said(finding))
    assert all(figure.source for figure in finding.figures.values())
    assert all(figure.reason for figure in finding.figures.values() if figure.value is None)
    json.dumps(entry(problem, module.TITLE, module.QUESTION, finding, fabricated), allow_nan=False)


@pytest.mark.parametrize("problem", IDS)
def test_a_missing_experiment_is_absent_with_lines_that_the_study_accepts(tmp_path, problem):
    results = fabricate_study(tmp_path, {"learning_rate" if problem != "learning_rate" else "other": ALONE})
    finding = find(problem, results)
    assert finding.status == "absent"
    (lines,) = re.findall("`(.*)`", finding.sentences[0])
    experiments = results.study["experiments"] | yaml.safe_load(lines)
    plan = load_plan(results.study | {"experiments": experiments}, "the study with the lines added")
    assert len(plan.runs_of[problem]) >= 2


def test_learning_rate_tells_the_best_rate_and_the_edge_of_stability(fabricated):
    finding = find("learning_rate", fabricated)
    assert value(finding, "best_max_lr") == 0.01
    assert value(finding, "best_validation_loss") == pytest.approx(0.45 * 5.21 - 0.03, abs=1e-6)
    assert (value(finding, "largest_finished_max_lr"), value(finding, "smallest_diverged_max_lr")) == (0.1, 3.0)
    assert value(finding, "edge_ratio") == pytest.approx(30)
    assert finding.sentences[0].startswith("The best peak learning rate of the grid is 0.01: ")
    assert "a grid of 6 rates from 0.001 to 3" in said(finding)
    assert "`max_lr=3.0` (seed 0) at step 66 of 200" in said(finding)
    assert "told but not used" in said(finding)


def test_the_interpolated_optimum_is_the_vertex_that_numpy_finds():
    rates, losses = [0.003, 0.01, 0.02], [2.4, 2.3, 2.35]
    a, b, c = numpy.polyfit(numpy.log(rates), losses, 2)
    rate, lowest = parabola_minimum(rates, losses)
    assert math.log(rate) == pytest.approx(-b / (2 * a), rel=1e-9)
    assert lowest == pytest.approx(c - b * b / (4 * a), rel=1e-9)


def test_several_seeds_give_the_optimum_an_interval(tmp_path):
    sweep = {"corpus": "stories", "seeds": [0, 1, 2], "vary": {"max_lr": [0.003, 0.01, 0.03]}}
    finding = find("learning_rate", fabricate_study(tmp_path, {"learning_rate": sweep}))
    low, high = finding.figures["interpolated_max_lr"].interval
    assert low <= value(finding, "interpolated_max_lr") <= high
    assert "mean of 3 seeds" in finding.sentences[0]
    assert "No rate of the grid diverged" in said(finding)
    assert value(finding, "smallest_diverged_max_lr") is None


def test_a_best_rate_at_the_edge_of_the_grid_is_told_and_not_interpolated(tmp_path):
    sweep = {"corpus": "stories", "vary": {"max_lr": [0.001, 0.003, 0.01, 3.0]}}
    finding = find("learning_rate", fabricate_study(tmp_path, {"learning_rate": sweep}))
    assert value(finding, "interpolated_max_lr") is None
    assert "3 diverges" in said(finding)
    narrow = {"corpus": "stories", "vary": {"max_lr": [0.001, 0.003]}}
    finding = find("learning_rate", fabricate_study(tmp_path / "narrow", {"learning_rate": narrow}))
    assert "at the upper edge of the grid" in said(finding)


def test_a_sweep_without_a_finished_run_is_partial(tmp_path):
    wild = {"corpus": "stories", "vary": {"max_lr": [3.0, 4.0]}}
    finding = find("learning_rate", fabricate_study(tmp_path, {"learning_rate": wild}))
    assert finding.status == "partial"
    assert value(finding, "best_max_lr") is None
    assert "Every rate from 3 on diverged" in said(finding)


def test_batch_size_compares_at_equal_tokens_and_at_equal_time(fabricated):
    finding = find("batch_size_experiment", fabricated)
    assert (value(finding, "best_batch_size"), value(finding, "fastest_batch_size")) == (16, 64)
    assert value(finding, "batch_4_tokens_per_second") == pytest.approx(16_000 / 1.75, rel=1e-4)
    assert value(finding, "equal_time_seconds") == pytest.approx(26.8)
    assert "For batch sizes 1, 4 and 64 the best rate lies at the edge" in said(finding)
    sizes = finding.tables[0]
    assert [row[0] for row in sizes.rows] == [1, 4, 16, 64]


def test_the_loss_at_a_time_lies_between_the_evaluations_around_it(fabricated):
    run = fabricated.experiment("learning_rate").runs[2]
    (_, _), (early, first), (late, second), *_ = run.validation_curve("wall_seconds")
    assert loss_at(run, (early + late) / 2) == pytest.approx((first + second) / 2)
    assert loss_at(run, 1e9) == run.validation_curve()[-1][1]
    assert loss_at(run, -1.0) is None


def test_no_norm_is_told_at_the_same_rate_and_tuned(fabricated):
    finding = find("layer_norm_ablation", fabricated)
    assert "at the baseline's own peak rate (0.01)" in finding.sentences[0]
    assert finding.sentences[0].endswith("1 of 3 seeds diverged.")
    assert value(finding, "difference") == pytest.approx(0.31)
    assert (value(finding, "paired_seeds"), value(finding, "diverged_seeds")) == (2, 1)
    assert value(finding, "tuned_variant") == "no_norm_tuned_max_lr=0.003"
    assert value(finding, "tuned_difference") == pytest.approx(0.31 + 0.07 * math.log(0.3) ** 2, abs=1e-5)
    assert "makes training without RMSNorm stable" in said(finding)


def test_an_unresolved_difference_is_called_so(fabricated):
    finding = find("pre_norm_ablation", fabricated)
    assert "not resolved with 3 seeds (95 % interval −0.050 to +0.050 nats per token)" in finding.sentences[0]
    assert finding.figures["difference"].interval == pytest.approx((-0.0497, 0.0497), abs=1e-4)


def test_one_seed_has_no_interval(fabricated):
    finding = find("no_pos_emb", fabricated)
    assert "higher by 0.240 nats per token (one seed, so no interval)" in finding.sentences[0]
    assert finding.figures["difference"].interval is None


def test_swiglu_shows_both_parameter_counts(fabricated):
    finding = find("swiglu_ablation", fabricated)
    assert value(finding, "parameters") == value(finding, "baseline_parameters") == 327_744
    assert "exactly 327,744 parameters (d_ff 288 without the gate and 192 with it)" in said(finding)
    assert value(finding, "difference") == pytest.approx(0.064)


def test_parameter_counts_that_differ_are_told_in_percent(tmp_path):
    runs = EXPERIMENTS["swiglu_ablation"]["runs"]
    results = fabricate_study(tmp_path, {"swiglu_ablation": ALONE | {"runs": runs}})
    path = tmp_path / "runs/swiglu_ablation/silu/seed0/summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(summary | {"parameters": 332_988}), encoding="utf-8")
    assert "332,988 parameters, 1.6 % more than the 327,744" in said(find("swiglu_ablation", results))


def test_ablations_find_their_runs_under_other_names(tmp_path):
    runs = {"with_positions": {}, "without": {"position": "none"}}
    results = fabricate_study(tmp_path, {"no_pos_emb": ALONE | {"runs": runs}})
    finding = find("no_pos_emb", results)
    assert value(finding, "variant") == "without"
    assert value(finding, "difference") == pytest.approx(0.24)


def test_an_ablation_with_a_baseline_only_is_partial(tmp_path):
    results = fabricate_study(tmp_path, {"no_pos_emb": ALONE | {"runs": {"baseline": {}}}})
    finding = find("no_pos_emb", results)
    assert finding.status == "partial"
    assert "has the run `baseline` only" in finding.sentences[0]


def test_a_variant_that_always_diverges_is_a_result(tmp_path):
    runs = {"baseline": {}, "nope": {"position": "none", "max_lr": 5.0}}
    finding = find("no_pos_emb", fabricate_study(tmp_path, {"no_pos_emb": ALONE | {"runs": runs}}))
    assert finding.status == "answered"
    assert "1 of 1 seeds diverged, so there is no final loss to compare" in finding.sentences[0]
    assert value(finding, "difference") is None


def test_two_corpora_are_compared_per_byte_and_explained(fabricated):
    finding = find("main_experiment", fabricated)
    loss, entropy = 0.45 * 6.43 - 0.03 + 0.1, 6.43
    bytes_per_token = value(finding, "web_bytes_per_token")
    assert value(finding, "web_validation_loss") == pytest.approx(loss)
    assert value(finding, "web_removed_share") == pytest.approx(1 - loss / entropy)
    assert value(finding, "web_bits_per_byte") == pytest.approx(loss / math.log(2) / bytes_per_token, rel=1e-4)
    assert "docs (in the place of OpenWebText)" in finding.sentences[0]
    assert "+1.220 lie in how evenly the corpora use their tokens" in said(finding)
    assert "The models differ in the vocabulary alone" in said(finding)


def test_one_corpus_alone_is_partial(tmp_path):
    runs = {"runs": {"stories": {"corpus": "stories"}}}
    finding = find("main_experiment", fabricate_study(tmp_path, {"main_experiment": runs}))
    assert finding.status == "partial"
    assert "a comparison needs a finished run" in finding.sentences[0]


def test_the_log_holds_every_run_and_counts_shared_ones_once(fabricated):
    finding = find("experiment_log", fabricated)
    runs = fabricated.runs()
    assert len(finding.tables[0].rows) == value(finding, "runs") == len(runs)
    distinct = {
        json.dumps([run.seed, run.config["model"], run.config["training"], run.config["tokens"]], sort_keys=True): run
        for run in runs
    }
    assert value(finding, "distinct_runs") == len(distinct) < len(runs)
    assert value(finding, "total_tokens") == sum(run.summary["tokens"] for run in distinct.values())
    assert value(finding, "diverged_runs") == 2
    assert all((fabricated.folder / plot.path).exists() for plot in finding.plots)


def test_an_experiment_of_another_name_gets_a_section_of_the_general_kind(fabricated):
    title, question = general_experiment.heading(fabricated, "vocabulary")
    finding = general_experiment.find(fabricated, "vocabulary")
    assert (title, question) == ("Vocabulary", "How does the final loss depend on vocab_size?")
    assert finding.sentences[0].startswith("The best of 3 runs is `vocab_size=4096` with 0.7161 bits per byte")
    assert "compared in bits per byte" in said(finding)


def test_a_general_experiment_without_a_grid_is_told_by_differences(tmp_path):
    runs = {"baseline": {}, "decayed": {"weight_decay": 0.5}, "wild": {"max_lr": 4.0}}
    results = fabricate_study(tmp_path, {"my_own": {"corpus": "stories", "seeds": [0, 1], "runs": runs}})
    finding = general_experiment.find(results, "my_own")
    assert general_experiment.heading(results, "my_own")[1] == "How do the runs decayed and wild compare with baseline?"
    assert finding.sentences[0].startswith(
        "In `decayed`, compared with `baseline`, the difference in final loss is not"
    )
    assert "2 of 2 seeds diverged" in finding.sentences[1]
    single = fabricate_study(tmp_path / "single", {"one": {"corpus": "stories"}})
    assert general_experiment.find(single, "one").sentences[0].startswith("The run `baseline` ends at 2.31")


def test_the_write_up_stands_beside_ours_with_the_difference_in_setting(fabricated):
    finding = find("learning_rate", fabricated)
    best, diverged = beside_write_up("learning_rate", finding, fabricated)["rows"]
    assert (best["write_up"], best["ours"]) == (0.0008, 0.01)
    assert (diverged["write_up"], diverged["ours"]) == (0.2, 3.0)
    for words in ("12.3 MB of stories in the place of TinyStories (2.23 GB)", "vocabulary 1,024", "batch size 16"):
        assert words in best["difference_in_setting"]


def test_a_figure_that_this_study_lacks_keeps_its_row_and_says_why(fabricated):
    (row, *_) = beside_write_up("train_bpe_tinystories", Finding("absent"), fabricated)["rows"]
    assert row["ours"] is None
    assert row["reason"] == "not measured in this study"
    assert "a vocabulary of 1,024 instead of 10,000" in row["difference_in_setting"]


def test_problems_that_the_write_up_leaves_open_say_so(fabricated):
    assert "leaves this problem open" in beside_write_up("no_pos_emb", Finding("absent"), fabricated)["note"]
    assert beside_write_up("unicode1", Finding("absent"), fabricated) == {"rows": [], "note": ""}


def test_the_original_text_stands_in_nobodys_place(fabricated, monkeypatch):
    assert corpus_in_words(fabricated, "stories") == "stories (in the place of TinyStories)"
    original = write_up()["texts"]["TinyStories"]["train_sha256"]
    monkeypatch.setitem(fabricated.corpora["stories"]["splits"]["train"], "sha256", original)
    assert corpus_in_words(fabricated, "stories") == "stories"
