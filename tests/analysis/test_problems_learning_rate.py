"""The learning-rate problem on made-up sweeps."""

import math

import pytest

from lmpipe.analysis.outcomes import study_noise
from tests.support.fake_results import CORPORA, change_summary, fabricate_study
from tests.support.findings import ON_STORIES, find, find_in, value
from tests.support.prose import render


def sweep(*rates: float, **changes):
    """Return an experiment over learning rates."""
    return ON_STORIES | {"sweep": {"max_lr": list(rates)}} | changes


def test_best_rate_and_edge_of_stability(fabricated):
    finding = find("learning_rate", fabricated)
    assert value(finding, "best_max_lr") == 0.01
    assert value(finding, "optimum") == pytest.approx(0.01, rel=1e-4), "the made-up losses are a parabola"
    assert value(finding, "best_validation_loss") == pytest.approx(0.45 * 5.21 - 0.03, abs=1e-6)
    assert value(finding, "best_perplexity") == pytest.approx(math.exp(0.45 * 5.21 - 0.03), rel=1e-5)
    assert (value(finding, "largest_stable_max_lr"), value(finding, "smallest_diverged_max_lr")) == (0.1, 3.0)
    assert value(finding, "edge_to_optimum") == pytest.approx(300, rel=1e-4)


def test_rates_within_the_noise_of_seeds_tie_with_the_best(tmp_path):
    results = fabricate_study(tmp_path, {"learning_rate": sweep(0.0025, 0.008, 0.01, 0.012, 0.04, seeds=[0, 1, 2])})
    finding = find("learning_rate", results)
    visible = study_noise(results).difference_half_width(3)
    # 0.07 ln(0.8)² = 0.0035 is below the visible difference, 0.07 ln(4)² = 0.13 above.
    assert 0.01 < visible < 0.13
    assert (value(finding, "lowest_tied_max_lr"), value(finding, "highest_tied_max_lr")) == (0.008, 0.012)


def test_norms_share_one_figure(tmp_path):
    rates = (0.0025, 0.005, 0.01, 0.02, 3.0)
    experiments = {
        "learning_rate": sweep(*rates),
        "learning_rate_no_norm": sweep(0.001, 0.002, 0.005, 0.01, norm="none", seeds=[2]),
        "learning_rate_nope": sweep(*rates, position_embedding="none"),
    }
    finding = find("learning_rate", fabricate_study(tmp_path, experiments))
    curves = finding.figures[0].data.curves
    assert [(curve.label, curve.variant) for curve in curves] == [
        ("pre-norm", "baseline"),
        ("without RMSNorm", "no_norm"),
    ]
    assert (curves[1].stable_up_to, curves[1].breaks_at) == (0.005, 0.01)
    assert [point.num_failed for point in curves[1].points] == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("rates", "border"), [((0.0025, 0.005, 0.01), "larger"), ((0.01, 0.02, 0.04), "smaller"), ((0.005, 0.01, 0.02), "")]
)
def test_a_best_rate_at_the_border_is_not_interpolated(tmp_path, rates, border):
    finding = find_in(tmp_path, "learning_rate", sweep(*rates))
    assert finding.facts["border"] == border
    assert (value(finding, "interpolated_max_lr") is None) == bool(border)
    assert ("border" in render("learning_rate", finding)["caveat"]) == bool(border)


def test_a_sweep_in_which_no_seed_learned_is_partial(tmp_path):
    finding = find_in(tmp_path, "learning_rate", sweep(3.0, 4.0))
    assert finding.status == "partial"
    assert value(finding, "best_max_lr") is value(finding, "largest_stable_max_lr") is None
    assert value(finding, "smallest_diverged_max_lr") == 3
    assert "No seed learned" in render("learning_rate", finding)["answer"]


@pytest.mark.parametrize(
    ("failed", "edge"),
    [({0.0025: [0]}, (0.04, None)), ({0.02: [1], 0.04: [0, 1]}, (0.01, 0.02))],
)
def test_the_edge_is_above_the_best_rate(tmp_path, failed, edge):
    results = fabricate_study(tmp_path, {"learning_rate": sweep(0.0025, 0.005, 0.01, 0.02, 0.04, seeds=[0, 1])})
    for run in (f"max_lr={rate}/seed{seed}" for rate, seeds in failed.items() for seed in seeds):
        change_summary(results, f"learning_rate/{run}", status="not_learning")
    finding = find("learning_rate", results)
    assert (value(finding, "largest_stable_max_lr"), value(finding, "smallest_diverged_max_lr")) == edge


def test_a_short_run_that_stays_near_the_unigram_entropy_fails(tmp_path):
    edge = {"total_tokens": 40960, "sweep": {"max_lr": [0.04, 0.08, 0.16]}}
    runs = {"grid": {"sweep": {"max_lr": [0.005, 0.01, 0.02]}}, "edge": edge}
    results = fabricate_study(tmp_path, {"learning_rate": ON_STORIES | {"runs": runs}})
    change_summary(results, "learning_rate/edge_max_lr=0.08/seed0", validation_loss=3.7)
    change_summary(results, "learning_rate/edge_max_lr=0.16/seed0", validation_loss=5.0)
    finding = find("learning_rate", results)
    assert (value(finding, "largest_stable_max_lr"), value(finding, "smallest_diverged_max_lr")) == (0.08, 0.16)


def test_runs_on_several_corpora_have_no_best_rate(tmp_path):
    runs = {corpus: {"corpus": corpus, "sweep": {"max_lr": [0.003, 0.01]}} for corpus in CORPORA}
    results = fabricate_study(tmp_path, {name: {"runs": runs} for name in ("learning_rate", "batch_size_experiment")})
    for problem in ("learning_rate", "batch_size_experiment"):
        finding = find(problem, results)
        assert finding.status == "missing"
        assert "stories and docs" in finding.reason


def test_the_best_model_of_a_sweep_over_tokenizers_is_that_with_the_fewest_bits_per_byte(tmp_path):
    grid = {"max_lr": [0.003, 0.01, 0.03], "vocab_size": [512, 1024, 4096]}
    finding = find_in(tmp_path, "learning_rate", ON_STORIES | {"sweep": grid})
    assert value(finding, "best_bits_per_byte") == pytest.approx(0.7119, abs=1e-4)
    assert value(finding, "best_validation_loss") == pytest.approx(0.45 * 5.21 - 0.03 + 0.2, abs=1e-6)


def test_an_expectation_of_a_named_sweep_is_about_its_last_run(tmp_path):
    expect = {"outcome": "diverges", "because": "steps grow beyond the curvature"}
    edge = {"total_tokens": 40960, "sweep": {"max_lr": [0.5, 5.0]}, "expect": expect}
    runs = {"grid": {"sweep": {"max_lr": [0.005, 0.01]}}, "edge": edge}
    (expectation,) = find_in(tmp_path, "learning_rate", ON_STORIES | {"runs": runs}).expectations
    assert expectation.outcome == "diverges"
