"""The batch-size problem on made-up sweeps."""

import json
import math
from types import SimpleNamespace

import pytest
import scipy

from lmpipe.analysis.outcomes import study_noise
from lmpipe.analysis.problems.batch_size_experiment import size_facts, tokens_at
from tests.support.fake_results import EXPERIMENTS, fabricate_measurements, fabricate_study
from tests.support.findings import ON_STORIES, find, find_in, value
from tests.support.prose import render

TUNED = {name: EXPERIMENTS[name] for name in ("learning_rate", "batch_size_experiment")}
GRID = {"batch_size": [4, 16, 64], "max_lr": [0.005, 0.01, 0.02]}


def test_each_size_is_compared_at_its_best_rate(fabricated):
    finding = find("batch_size_experiment", fabricated)
    assert (value(finding, "best_batch_size"), value(finding, "fastest_batch_size")) == (16, 64)
    assert value(finding, "batch_4_max_lr") == 0.01
    # The made-up loss rises by 0.04 log2(size / 16)².
    assert value(finding, "largest_batch_difference") == pytest.approx(0.16, abs=1e-6)
    assert [row[0] for row in finding.tables[0].rows] == [1, 4, 16, 64]


def test_sizes_within_the_noise_of_seeds_tie(tmp_path):
    experiment = ON_STORIES | {"seeds": [0, 1, 2], "sweep": {"batch_size": [4, 8, 16, 32], "max_lr": [0.01]}}
    results = fabricate_study(tmp_path, {"batch_size_experiment": experiment})
    finding = find("batch_size_experiment", results)
    assert 0.04 < study_noise(results).difference_half_width(3) < 0.16
    assert finding.facts["tied"] == [8, 16, 32]
    assert finding.facts["worse"] == [4]
    assert (value(finding, "smallest_tied_batch_size"), value(finding, "largest_tied_batch_size")) == (8, 32)


def test_without_two_seeds_of_anything_no_size_ties(tmp_path):
    finding = find_in(tmp_path, "batch_size_experiment", ON_STORIES | {"sweep": GRID})
    assert finding.facts["tied"] == [16]
    assert not finding.facts["has_noise"]
    assert "untested" in render("batch_size_experiment", finding)["caveat"]


def test_tokens_to_the_common_loss_are_interpolated_between_evaluations(fabricated):
    run = fabricated.experiment("learning_rate").runs[2]
    (x0, y0), (x1, y1) = list(run.validation_losses().items())[2:4]
    assert tokens_at(run, (y0 + y1) / 2) == pytest.approx((x0 + x1) / 2)
    assert tokens_at(run, 0.5) is None


def test_every_size_reaches_the_highest_of_the_final_losses(fabricated):
    finding = find("batch_size_experiment", fabricated)
    level = value(finding, "common_loss")
    assert level == value(finding, "batch_1_validation_loss")
    assert value(finding, "batch_16_tokens_to_common_loss") < value(finding, "batch_4_tokens_to_common_loss")
    steps = value(finding, "batch_64_tokens_to_common_loss") / (64 * 128)
    assert value(finding, "batch_64_steps_to_common_loss") == pytest.approx(steps)


def test_the_interval_of_the_exponent_equals_that_of_a_regression(fabricated):
    finding = find("batch_size_experiment", fabricated)
    sizes = [1, 4, 16, 64]
    rates = [value(finding, f"batch_{size}_max_lr") for size in sizes]
    fit = scipy.stats.linregress([math.log(size) for size in sizes], [math.log(rate) for rate in rates])
    half_width = scipy.stats.t.ppf(0.975, 2) * fit.stderr
    metric = finding.metrics["best_max_lr_exponent"]
    assert metric.value == pytest.approx(fit.slope, abs=1e-4)
    assert metric.interval == pytest.approx((fit.slope - half_width, fit.slope + half_width), abs=1e-4)


def test_the_band_of_the_figure_is_the_noise_of_a_mean(fabricated):
    figure = find("batch_size_experiment", fabricated).figures[0]
    line = figure.data.lines[0]
    half_width = study_noise(fabricated).difference_half_width(1) / math.sqrt(2)
    assert line.high[0] - line.y[0] == pytest.approx(half_width)
    assert figure.data.log_x


def test_rates_at_the_border_are_named(tmp_path):
    grid = {"batch_size": [8, 16], "max_lr": [0.01, 0.02]}
    finding = find_in(tmp_path, "batch_size_experiment", ON_STORIES | {"sweep": grid})
    assert finding.facts["border"] == [8, 16]


@pytest.mark.parametrize(
    ("names", "tied", "is_bracketed"),
    [
        ([4, 16, 64], [16], True),
        ([4, 16, 64], [4, 16], False),
        ([4, 16, 64], [16, 64], False),
        ([1, 4, 16], [1, 4], True),
    ],
)
def test_the_best_sizes_lie_between_others_or_at_one_sequence(names, tied, is_bracketed):
    sweep, best = SimpleNamespace(points=[0.01]), SimpleNamespace(num_seeds=1)
    sizes = [SimpleNamespace(batch_size=name, sweep=sweep, best=best) for name in names]
    assert size_facts(sizes, tied, None)["is_bracketed"] is is_bracketed


def test_sizes_that_never_learn_are_left_out(tmp_path):
    runs = {"small": {"batch_size": 4}, "large": {"batch_size": 16, "max_lr": 4.0}}
    finding = find_in(tmp_path, "batch_size_experiment", ON_STORIES | {"runs": runs})
    assert (finding.status, finding.facts["sizes"]) == ("partial", [4])


def test_a_machine_on_which_no_batch_fits_has_no_fastest_one(tmp_path):
    results = fabricate_study(tmp_path, {"batch_size_experiment": ON_STORIES | {"sweep": {"batch_size": [4, 16]}}})
    fabricate_measurements(tmp_path)
    path = tmp_path / "batch_sizes.json"
    nothing = {"sizes": [], "largest_batch_size": 0, "estimated_largest_batch_size": 0, "stop_reason": "memory"}
    path.write_text(json.dumps(json.loads(path.read_text()) | nothing), encoding="utf-8")
    finding = find("batch_size_experiment", results)
    assert finding.metrics["fastest_batch_size"].missing_reason
    assert value(finding, "largest_tried_batch_size") == 0
    assert render("batch_size_experiment", finding)["answer"]
