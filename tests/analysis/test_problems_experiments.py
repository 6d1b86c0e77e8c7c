import math
import re

import pytest
import scipy
import yaml

from lmpipe.analysis.finding import Finding, Metric, Reference
from lmpipe.analysis.outcomes import study_noise
from lmpipe.analysis.problems import generic_experiment
from lmpipe.analysis.problems.registry import compare_with_references
from lmpipe.analysis.results import Results
from lmpipe.planning.plan import load_plan
from tests.support.fake_results import CORPORA, change_summary, fabricate_study
from tests.support.findings import ON_STORIES, find, value
from tests.support.prose import render

IDS = (
    "learning_rate",
    "batch_size_experiment",
    "layer_norm_ablation",
    "pre_norm_ablation",
    "no_pos_emb",
    "swiglu_ablation",
    "main_experiment",
)


@pytest.mark.parametrize("problem", [*IDS, "experiment_log"])
def test_every_finding_is_answered_from_its_metrics_and_fits_into_json(fabricated, problem):
    finding = find(problem, fabricated)
    assert finding.status == "answered"
    assert all(metric.source for metric in finding.metrics.values())
    assert all(metric.missing_reason for metric in finding.metrics.values() if metric.value is None)
    blocks = render(problem, finding)
    assert blocks["question"].endswith("?")
    assert blocks["answer"]
    assert not re.search(r"\b(None|nan|inf)\b", " ".join(blocks.values()))


@pytest.mark.parametrize("problem", IDS)
def test_a_missing_experiment_is_absent_with_lines_that_the_study_accepts(tmp_path, problem):
    results = fabricate_study(tmp_path, {"learning_rate" if problem != "learning_rate" else "other": ON_STORIES})
    finding = find(problem, results)
    assert finding.status == "missing"
    (lines,) = re.findall("`([^`]+)`", finding.reason)
    study = results.study.model_dump(mode="json", exclude_none=True)
    experiments = study["experiments"] | yaml.safe_load(lines)
    plan = load_plan(study | {"experiments": experiments}, "the study with the lines added")
    assert len(plan.runs_by_experiment[problem]) >= 2


# --- the log ----------------------------------------------------------------------------------------------------------


def test_the_log_has_every_run_once(fabricated):
    finding = find("experiment_log", fabricated)
    runs = fabricated.runs()
    distinct = {repr((run.seed, run.config.model, run.config.training, run.config.tokens)): run for run in runs}
    assert value(finding, "entries") == len(runs)
    assert len(finding.tables[0].rows) == value(finding, "distinct_runs") == len(distinct) < len(runs)
    assert value(finding, "total_tokens") == sum(run.summary.tokens for run in distinct.values())
    assert value(finding, "failed_runs") == 2


def test_the_log_has_the_noise_of_seeds(fabricated):
    finding, noise = find("experiment_log", fabricated), study_noise(fabricated)
    assert (value(finding, "seed_sd"), value(finding, "seed_sd_degrees")) == (noise.sd, noise.degrees)
    assert value(finding, "smallest_visible_difference") == noise.difference_half_width(3)
    effects = [effect for name in IDS[2:6] for effect in find(name, fabricated).effects if effect.interval]
    scale = noise.sd * math.sqrt(2 / 3)
    p_values = [2 * scipy.stats.t.sf(abs(effect.difference) / scale, noise.degrees) for effect in effects]
    rejected = [p <= 0.05 / (len(p_values) - rank) for rank, p in enumerate(sorted(p_values))]
    assert value(finding, "comparisons") == len(effects)
    assert value(finding, "resolved_together") == [*rejected, False].index(False)
    assert value(finding, "resolved_alone") == sum(p < 0.05 for p in p_values)


def test_runs_are_paired_if_their_batches_and_initial_weights_are_equal(tmp_path):
    sweep = {"learning_rate": ON_STORIES | {"sweep": {"max_lr": [0.01, 0.02]}}}
    others = {
        "batches_sha256": "1" * 64,
        "init_digests": {"lm_head.weight": {"parameters": 4208, "sha256": "1" * 32}},
    }
    assert find("experiment_log", fabricate_study(tmp_path / "equal", sweep)).facts["is_paired"]
    for column, digest in others.items():
        results = fabricate_study(tmp_path / column, sweep)
        change_summary(results, "learning_rate/max_lr=0.02/seed0", **{column: digest})
        assert not find("experiment_log", results).facts["is_paired"]


# --- experiments of another name --------------------------------------------------------------------------------------


def own_experiment(folder, experiment):
    """Return the finding of a study's only experiment, which belongs to no problem."""
    return generic_experiment.analyze(fabricate_study(folder, {"mine": experiment}), "mine")


def test_a_sweep_of_another_name_has_its_best_run(fabricated):
    finding = generic_experiment.analyze(fabricated, "vocabulary")
    assert (finding.facts["kind"], finding.facts["best"]) == ("sweep", "vocabulary 4,096")
    assert finding.metrics["best_loss"].unit == "bits per byte"
    assert finding.figures[0].data.lines[0].x == [512, 1024, 4096]
    assert "4,096" in render("vocabulary", finding)["answer"]


def test_a_sweep_over_rates_has_its_optimum_and_edge(tmp_path):
    finding = own_experiment(tmp_path, ON_STORIES | {"norm": "post", "sweep": {"max_lr": [0.005, 0.01, 0.02, 3.0]}})
    assert finding.facts["kind"] == "rates"
    assert value(finding, "optimum") == pytest.approx(0.01, rel=1e-4)
    assert value(finding, "smallest_diverged_max_lr") == 3.0
    assert [curve.variant for curve in finding.figures[0].data.curves] == ["post_norm"]


def test_runs_that_differ_in_model_or_training_are_compared_with_the_baseline(tmp_path):
    runs = {"baseline": {}, "narrow": {"d_model": 32}, "nope": {"position_embedding": "none"}, "wild": {"max_lr": 4.0}}
    finding = own_experiment(
        tmp_path, ON_STORIES | {"seeds": [0, 1], "runs": runs | {"decayed": {"weight_decay": 0.5}}}
    )
    assert [effect.label for effect in finding.effects] == ["width 32", "NoPE", "rate 4", "weight decay 0.5"]
    assert [effect.difference for effect in finding.effects] == [pytest.approx(0), pytest.approx(0.24), None, 0]
    assert [row["outcome"] for row in finding.facts["outcomes"]] == ["same", "higher", "diverges", "same"]
    assert finding.facts["failed"] == ["rate 4"]
    assert value(finding, "decayed") == value(finding, "baseline")
    assert "same loss" in render("mine", finding)["answer"]


@pytest.mark.parametrize(
    ("rate", "status", "answer"), [(0.01, "answered", "2.31"), (4.0, "partial", "No seed of any run learned")]
)
def test_a_single_run_is_answered_if_it_learned(tmp_path, rate, status, answer):
    finding = own_experiment(tmp_path, ON_STORIES | {"max_lr": rate})
    assert finding.status == status
    assert answer in render("mine", finding)["answer"]


def test_runs_on_several_corpora_have_a_best_on_each(tmp_path):
    runs = {corpus: {"corpus": corpus, "sweep": {"max_lr": [0.003, 0.01]}} for corpus in CORPORA}
    finding = own_experiment(tmp_path, {"runs": runs})
    assert [side["corpus"] for side in finding.facts["sides"]] == ["stories", "docs"]
    assert finding.facts["sides"][1]["value"] == value(finding, "docs_max_lr=0.01")
    assert "docs" in render("mine", finding)["answer"]


# --- the write-up -----------------------------------------------------------------------------------------------------


def test_write_up_is_compared_with_the_study(fabricated):
    finding = find("learning_rate", fabricated)
    best, diverged = compare_with_references("learning_rate", finding, fabricated).rows[:2]
    assert (best.reference, best.value) == (0.0008, finding.metrics["best_max_lr"].value)
    assert (diverged.reference, diverged.value) == (0.2, finding.metrics["smallest_diverged_max_lr"].value)
    assert compare_with_references("unicode1", Finding("missing"), fabricated) == Reference()


def test_values_of_the_studys_edition_need_a_metric_of_their_name(fabricated):
    finding = Finding("answered", metrics={"best_validation_loss": Metric(1.5, "nats per token")})
    for handout, losses in (("cs336-2025", [1.45, 2.0]), ("cs336-2026", [1.45, 2.0]), ("none", [])):
        study = fabricated.study.model_copy(update={"handout": handout})
        results = Results(fabricated.folder, study, fabricated.run_keys)
        rows = compare_with_references("learning_rate", finding, results).rows
        of_edition = [row for row in rows if row.label.startswith("loss to reach")]
        assert [(row.reference, row.value) for row in of_edition] == [(loss, 1.5) for loss in losses]
        rows = compare_with_references("learning_rate", Finding("answered"), results).rows
        assert not [row for row in rows if row.label.startswith("loss to reach")]


def test_missing_metric_keeps_its_row_with_a_reason(fabricated):
    (row, *_) = compare_with_references("train_bpe_tinystories", Finding("missing"), fabricated).rows
    assert row.value is None
    assert row.missing_reason
