"""The learning-rate problem on made-up sweeps."""

import math
import re

import numpy
import pytest

from lmpipe.analysis.problems import generic_experiment
from lmpipe.analysis.problems.learning_rate import parabola_minimum
from lmpipe.analysis.results import Results
from tests.support.fake_results import CORPORA, change_summary, fabricate_study
from tests.support.findings import find, text_of, value


def test_learning_rate_tells_the_best_rate_and_the_edge_of_stability(fabricated):
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
    sweep = {"corpus": "stories", "seeds": [0, 1, 2], "sweep": {"max_lr": [0.003, 0.01, 0.03]}}
    finding = find("learning_rate", fabricate_study(tmp_path, {"learning_rate": sweep}))
    low, high = finding.metrics["interpolated_max_lr"].interval
    assert low <= value(finding, "interpolated_max_lr") <= high
    assert value(finding, "smallest_diverged_max_lr") is None


def test_the_optimum_of_one_seed_ranges_over_fits_that_leave_out_a_rate(tmp_path, fabricated):
    finding = find("learning_rate", fabricated)
    # The made-up losses lie on a parabola, whichever rates are left out.
    assert value(finding, "interpolated_max_lr_lowest") == pytest.approx(0.01, rel=1e-5)
    assert value(finding, "interpolated_max_lr_highest") == pytest.approx(0.01, rel=1e-5)
    assert finding.metrics["interpolated_max_lr"].interval is None
    assert value(finding, "finished_to_interpolated_ratio") == pytest.approx(10, rel=1e-5)
    assert value(finding, "diverged_to_interpolated_ratio") == pytest.approx(300, rel=1e-5)
    rates, losses = (0.003, 0.01, 0.03, 0.1), (2.6, 2.4, 2.45, 2.7)
    results = fabricate_study(tmp_path, {"learning_rate": {"corpus": "stories", "sweep": {"max_lr": list(rates)}}})
    for rate, loss in zip(rates, losses, strict=True):
        change_summary(results, f"learning_rate/max_lr={rate}/seed0", validation_loss=loss)
    finding = find("learning_rate", results)
    kept = [[place for place in range(4) if place != out] for out in range(4)]
    minima = [parabola_minimum([rates[i] for i in three], [losses[i] for i in three])[0] for three in kept]
    ends = [value(finding, f"interpolated_max_lr_{end}") for end in ("lowest", "highest")]
    assert ends == pytest.approx([min(minima), max(minima)])
    assert ends[0] < value(finding, "interpolated_max_lr") < ends[1]


def test_three_rates_are_too_few_to_leave_one_out(tmp_path):
    sweep = {"corpus": "stories", "sweep": {"max_lr": [0.003, 0.01, 0.03]}}
    finding = find("learning_rate", fabricate_study(tmp_path, {"learning_rate": sweep}))
    assert value(finding, "interpolated_max_lr_lowest") is None
    assert "fewer than four rates" in finding.metrics["interpolated_max_lr_highest"].missing_reason
    assert value(finding, "diverged_to_interpolated_ratio") is None


def test_a_seed_whose_minimum_lies_beyond_the_bracket_leaves_no_interval(tmp_path):
    sweep = {"corpus": "stories", "seeds": [0, 1], "sweep": {"max_lr": [0.001, 0.01, 0.1]}}
    results = fabricate_study(tmp_path, {"learning_rate": sweep})
    for seed, losses in enumerate([(3.0, 2.9, 2.80002), (3.0, 2.5, 2.9)]):
        for rate, loss in zip((0.001, 0.01, 0.1), losses, strict=True):
            change_summary(results, f"learning_rate/max_lr={rate}/seed{seed}", validation_loss=loss)
    finding = find("learning_rate", results)
    assert 0.001 < value(finding, "interpolated_max_lr") < 0.1
    assert finding.metrics["interpolated_max_lr"].interval is None
    assert parabola_minimum([0.001, 0.01, 0.1], [3.0, 2.9, 2.80002])[0] == pytest.approx(0.1)


def test_a_best_rate_at_the_edge_of_the_grid_is_told_and_not_interpolated(tmp_path):
    sweep = {"corpus": "stories", "sweep": {"max_lr": [0.001, 0.003, 0.01, 3.0]}}
    finding = find("learning_rate", fabricate_study(tmp_path, {"learning_rate": sweep}))
    assert value(finding, "interpolated_max_lr") is None
    narrow = {"corpus": "stories", "sweep": {"max_lr": [0.001, 0.003]}}
    finding = find("learning_rate", fabricate_study(tmp_path / "narrow", {"learning_rate": narrow}))


def test_a_sweep_without_a_finished_run_is_partial(tmp_path):
    wild = {"corpus": "stories", "sweep": {"max_lr": [3.0, 4.0]}}
    finding = find("learning_rate", fabricate_study(tmp_path, {"learning_rate": wild}))
    assert finding.status == "partial"
    assert value(finding, "best_max_lr") is None
    ends = "No rate finished with every seed (3 diverged and 4 diverged), so the edge of stability lies below 3."
    assert ends in finding.sentences


def stuck(results: Results, *runs: str) -> None:
    """Make runs end as stuck."""
    for run in runs:
        change_summary(results, run, status="not_learning")


def test_stuck_rates_are_not_taken_for_finished_or_diverged_ones(tmp_path):
    sweep = {"learning_rate": {"corpus": "stories", "sweep": {"max_lr": [0.0001, 0.01, 3.0]}}}
    results = fabricate_study(tmp_path / "between", sweep)
    stuck(results, "learning_rate/max_lr=0.0001/seed0")
    change_summary(results, "learning_rate/max_lr=0.01/seed0", status="diverged", diverged_step=9)
    ends = "(0.0001 got stuck, 0.01 diverged and 3 diverged), so the edge of stability lies below 0.01."
    assert ends in text_of(find("learning_rate", results))
    calm = {"learning_rate": {"corpus": "stories", "sweep": {"max_lr": [0.001, 0.01, 0.1]}}}
    results = fabricate_study(tmp_path / "above", calm)
    stuck(results, "learning_rate/max_lr=0.1/seed0")
    above = "lies above 0.01, the largest that finished (beyond it, 0.1 got stuck); add larger rates to find it."
    assert above in text_of(find("learning_rate", results))
    results = fabricate_study(tmp_path / "nowhere", calm)
    stuck(results, *(f"learning_rate/max_lr={rate}/seed0" for rate in (0.001, 0.01, 0.1)))


def test_a_rate_that_diverged_with_one_seed_of_three_is_said_to(tmp_path):
    sweep = {"corpus": "stories", "seeds": [0, 1, 2], "sweep": {"max_lr": [0.003, 0.01, 0.03]}}
    results = fabricate_study(tmp_path, {"learning_rate": sweep})
    change_summary(results, "learning_rate/max_lr=0.03/seed1", status="diverged", diverged_step=9)
    finding = find("learning_rate", results)
    assert (value(finding, "largest_finished_max_lr"), value(finding, "smallest_diverged_max_lr")) == (0.01, 0.03)


def test_what_varies_beside_the_rate_is_named(tmp_path):
    sweep = {"corpus": "stories", "sweep": {"max_lr": [0.003, 0.01, 0.03], "batch_size": [16, 32]}}
    finding = find("learning_rate", fabricate_study(tmp_path, {"learning_rate": sweep}))
    assert value(finding, "grid_points") == 3
    assert value(finding, "best_max_lr") == 0.01


def test_the_best_is_set_beside_the_second_over_seeds(tmp_path, fabricated):
    assert find("learning_rate", fabricated).sentences[0].endswith("; with one seed each, the ranking is untested.")
    sweep = {"corpus": "stories", "seeds": [0, 1, 2], "sweep": {"max_lr": [0.003, 0.01, 0.03]}}
    results = fabricate_study(tmp_path, {"learning_rate": sweep})
    for seed, loss in enumerate((2.2, 2.6, 2.4)):
        change_summary(results, f"learning_rate/max_lr=0.003/seed{seed}", validation_loss=loss)
    best = find("learning_rate", results).sentences[0]
    unresolved = "is not resolved with 3 seeds (95 % interval −0.409 to +0.520 nats per token)."
    assert best.endswith(f"; the difference from the second, 0.003, {unresolved}"), "0.03 is told apart"
    results = fabricate_study(tmp_path, {"learning_rate": sweep})
    best = find("learning_rate", results).sentences[0]
    assert re.search(r"; the second, 0.03, ends higher by 0.084 nats per token \(95 % interval .*, 3 seeds\)", best)


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
    sweep = {"corpus": "stories", "sweep": {"max_lr": [0.003, 0.01, 0.03], "vocab_size": [512, 1024, 4096]}}
    finding = find("learning_rate", fabricate_study(tmp_path, {"learning_rate": sweep}))
    assert "the lowest final value is 0.7119 bits per byte, of max_lr=0.01_vocab_size=4096" in finding.plots[0].alt
