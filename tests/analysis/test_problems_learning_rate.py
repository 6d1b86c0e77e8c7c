"""The learning-rate problem on made-up sweeps."""

import math

import numpy
import pytest

from lmpipe.analysis.problems import generic_experiment
from lmpipe.analysis.problems.learning_rate import parabola_minimum
from lmpipe.analysis.problems.run_summary import UNTESTED, describe_runner_up
from lmpipe.analysis.results import Results
from tests.support.fake_results import CORPORA, change_summary, fabricate_study
from tests.support.findings import ON_STORIES, find, find_in, value


def sweep(*rates: float, **changes):
    """Return an experiment over learning rates."""
    return ON_STORIES | {"sweep": {"max_lr": list(rates)}} | changes


def test_best_rate_and_edge_of_stability(fabricated):
    finding = find("learning_rate", fabricated)
    assert value(finding, "best_max_lr") == 0.01
    assert value(finding, "best_validation_loss") == pytest.approx(0.45 * 5.21 - 0.03, abs=1e-6)
    assert (value(finding, "largest_finished_max_lr"), value(finding, "smallest_diverged_max_lr")) == (0.1, 3.0)
    assert value(finding, "edge_ratio") == pytest.approx(30)


def test_the_interpolated_optimum_is_the_vertex_that_numpy_finds():
    rates, losses = [0.003, 0.01, 0.02], [2.4, 2.3, 2.35]
    a, b, c = numpy.polyfit(numpy.log(rates), losses, 2)
    rate, lowest = parabola_minimum(rates, losses)
    assert math.log(rate) == pytest.approx(-b / (2 * a), rel=1e-9)
    assert lowest == pytest.approx(c - b * b / (4 * a), rel=1e-9)


def test_several_seeds_give_the_optimum_an_interval(tmp_path):
    finding = find_in(tmp_path, "learning_rate", sweep(0.003, 0.01, 0.03, seeds=[0, 1, 2]))
    low, high = finding.metrics["interpolated_max_lr"].interval
    assert low <= value(finding, "interpolated_max_lr") <= high
    assert value(finding, "smallest_diverged_max_lr") is None


def test_the_optimum_of_one_seed_ranges_over_fits_that_leave_out_a_rate(tmp_path, fabricated):
    finding = find("learning_rate", fabricated)
    # The made-up losses are on a parabola, whichever rates are left out.
    assert value(finding, "interpolated_max_lr_lowest") == pytest.approx(0.01, rel=1e-5)
    assert value(finding, "interpolated_max_lr_highest") == pytest.approx(0.01, rel=1e-5)
    assert finding.metrics["interpolated_max_lr"].interval is None
    assert value(finding, "finished_to_interpolated_ratio") == pytest.approx(10, rel=1e-5)
    assert value(finding, "diverged_to_interpolated_ratio") == pytest.approx(300, rel=1e-5)
    rates, losses = (0.003, 0.01, 0.03, 0.1), (2.6, 2.4, 2.45, 2.7)
    results = fabricate_study(tmp_path, {"learning_rate": sweep(*rates)})
    for rate, loss in zip(rates, losses, strict=True):
        change_summary(results, f"learning_rate/max_lr={rate}/seed0", validation_loss=loss)
    finding = find("learning_rate", results)
    fits = [[index for index in range(4) if index != excluded] for excluded in range(4)]
    minima = [parabola_minimum([rates[i] for i in fit], [losses[i] for i in fit])[0] for fit in fits]
    ends = [value(finding, f"interpolated_max_lr_{end}") for end in ("lowest", "highest")]
    assert ends == pytest.approx([min(minima), max(minima)])
    assert ends[0] < value(finding, "interpolated_max_lr") < ends[1]


def test_three_rates_are_too_few_to_leave_one_out(tmp_path):
    finding = find_in(tmp_path, "learning_rate", sweep(0.003, 0.01, 0.03))
    assert value(finding, "interpolated_max_lr_lowest") is None
    assert finding.metrics["interpolated_max_lr_highest"].missing_reason
    assert value(finding, "diverged_to_interpolated_ratio") is None


def test_a_seed_whose_minimum_lies_beyond_the_bracket_leaves_no_interval(tmp_path):
    results = fabricate_study(tmp_path, {"learning_rate": sweep(0.001, 0.01, 0.1, seeds=[0, 1])})
    for seed, losses in enumerate([(3.0, 2.9, 2.80002), (3.0, 2.5, 2.9)]):
        for rate, loss in zip((0.001, 0.01, 0.1), losses, strict=True):
            change_summary(results, f"learning_rate/max_lr={rate}/seed{seed}", validation_loss=loss)
    finding = find("learning_rate", results)
    assert 0.001 < value(finding, "interpolated_max_lr") < 0.1
    assert finding.metrics["interpolated_max_lr"].interval is None
    assert parabola_minimum([0.001, 0.01, 0.1], [3.0, 2.9, 2.80002])[0] == pytest.approx(0.1)


@pytest.mark.parametrize("rates", [(0.001, 0.003, 0.01, 3.0), (0.001, 0.003)])
def test_a_best_rate_at_the_edge_of_the_grid_is_not_interpolated(tmp_path, rates):
    assert value(find_in(tmp_path, "learning_rate", sweep(*rates)), "interpolated_max_lr") is None


def test_a_sweep_without_a_finished_run_is_partial(tmp_path):
    finding = find_in(tmp_path, "learning_rate", sweep(3.0, 4.0))
    assert finding.status == "partial"
    assert value(finding, "best_max_lr") is value(finding, "largest_finished_max_lr") is None
    assert value(finding, "smallest_diverged_max_lr") == 3


@pytest.mark.parametrize(
    ("rates", "statuses", "edge"),
    [
        ((0.0001, 0.01, 3.0), {0.0001: "not_learning", 0.01: "diverged"}, (None, 0.01)),
        ((0.001, 0.01, 0.1), {0.1: "not_learning"}, (0.01, None)),
        ((0.001, 0.01, 0.1), dict.fromkeys((0.001, 0.01, 0.1), "not_learning"), (None, None)),
    ],
)
def test_stuck_rates_neither_finished_nor_diverged(tmp_path, rates, statuses, edge):
    results = fabricate_study(tmp_path, {"learning_rate": sweep(*rates)})
    for rate, status in statuses.items():
        step = 9 if status == "diverged" else None
        change_summary(results, f"learning_rate/max_lr={rate}/seed0", status=status, detected_step=step)
    finding = find("learning_rate", results)
    assert (value(finding, "largest_finished_max_lr"), value(finding, "smallest_diverged_max_lr")) == edge


def test_a_rate_that_diverged_with_one_seed_of_three_diverged(tmp_path):
    results = fabricate_study(tmp_path, {"learning_rate": sweep(0.003, 0.01, 0.03, seeds=[0, 1, 2])})
    change_summary(results, "learning_rate/max_lr=0.03/seed1", status="diverged", detected_step=9)
    finding = find("learning_rate", results)
    assert (value(finding, "largest_finished_max_lr"), value(finding, "smallest_diverged_max_lr")) == (0.01, 0.03)


def test_the_best_of_several_runs_represents_a_rate(tmp_path):
    grid = {"max_lr": [0.003, 0.01, 0.03], "batch_size": [16, 32]}
    finding = find_in(tmp_path, "learning_rate", ON_STORIES | {"sweep": grid})
    assert value(finding, "grid_points") == 3
    assert value(finding, "best_max_lr") == 0.01


def test_the_best_is_compared_with_the_second_over_seeds(tmp_path, fabricated):
    rivals = {"max_lr=0.003": "0.003", "max_lr=0.03": "0.03"}
    assert UNTESTED in describe_runner_up(fabricated.experiment("learning_rate"), "max_lr=0.01", rivals)
    results = fabricate_study(tmp_path, {"learning_rate": sweep(0.003, 0.01, 0.03, seeds=[0, 1, 2])})
    resolved = describe_runner_up(results.experiment("learning_rate"), "max_lr=0.01", rivals)
    assert "0.084" in resolved and "3 seeds" in resolved
    for seed, loss in enumerate((2.2, 2.6, 2.4)):
        change_summary(results, f"learning_rate/max_lr=0.003/seed{seed}", validation_loss=loss)
    results = Results(results.folder, results.study, results.run_keys)
    unresolved = describe_runner_up(results.experiment("learning_rate"), "max_lr=0.01", rivals)
    assert "−0.409 to +0.520" in unresolved and "0.03," not in unresolved, "the third is resolved"


def test_nothing_is_the_best_across_corpora(tmp_path):
    runs = {corpus: {"corpus": corpus, "sweep": {"max_lr": [0.003, 0.01]}} for corpus in CORPORA}
    experiments = {name: {"runs": runs} for name in ("learning_rate", "batch_size_experiment", "mine")}
    results = fabricate_study(tmp_path, experiments)
    for problem in ("learning_rate", "batch_size_experiment"):
        finding = find(problem, results)
        assert finding.status == "partial"
        assert "best" not in finding.metrics
        assert all("lowest" not in plot.alt for plot in finding.plots)
    finding = generic_experiment.analyze(results, "mine")
    assert value(finding, "docs_best_run") == "docs_max_lr=0.01"


def test_a_sweep_over_tokenizers_is_ranked_in_bits_per_byte(tmp_path):
    grid = {"max_lr": [0.003, 0.01, 0.03], "vocab_size": [512, 1024, 4096]}
    finding = find_in(tmp_path, "learning_rate", ON_STORIES | {"sweep": grid})
    assert "max_lr=0.01_vocab_size=4096" in finding.plots[0].alt, "the best run"
    assert value(finding, "best_bits_per_byte") == pytest.approx(0.7119, abs=1e-4)
    assert finding.metrics["interpolated_validation_loss"].unit == "bits per byte"
