"""The batch-size problem on made-up sweeps and speeds."""

import pytest

from lmpipe.analysis.finding import Finding
from lmpipe.analysis.problems.batch_size_experiment import loss_at
from lmpipe.analysis.results import Results
from tests.support.fake_results import (
    EXPERIMENTS,
    MODEL,
    change_summary,
    fabricate_measurements,
    fabricate_study,
    speed_of,
)
from tests.support.findings import ON_STORIES, find, find_in, value

TUNED = {name: EXPERIMENTS[name] for name in ("learning_rate", "batch_size_experiment")}


def test_batch_size_compares_at_equal_tokens_and_at_equal_time(fabricated):
    finding = find("batch_size_experiment", fabricated)
    assert (value(finding, "best_batch_size"), value(finding, "fastest_batch_size")) == (16, 64)
    assert value(finding, "batch_4_tokens_per_second") == pytest.approx(16_000 / 1.75, rel=1e-4)
    assert value(finding, "time_budget_seconds") == pytest.approx(26.8)
    assert finding.metrics["batch_4_tokens_per_second"].source == "batch_sizes.json"
    assert value(finding, "saturation_batch_size") == 64, "16 has 88 % of its speed, 4 has 60 %"
    sizes = finding.tables[0]
    assert [row[0] for row in sizes.rows] == [1, 4, 16, 64]


def timed(results: Results, speeds: dict[int, tuple[float, ...]]) -> Finding:
    """Return the finding on batch sizes whose runs, in the order of their rates, had these speeds."""
    for size, measured in speeds.items():
        for factor, speed in zip((0.5, 1.0, 2.0), measured, strict=True):
            run = f"batch_size_experiment/batch_size={size}_max_lr=sqrt_batch_size-{factor}/seed0"
            change_summary(results, run, tokens_per_second=speed)
    return find("batch_size_experiment", results)


def test_no_size_is_the_fastest_if_ranges_of_speed_overlap(tmp_path):
    slow = {1: (900.0, 1100.0, 1000.0), 4: (4000.0, 4100.0, 4200.0)}
    results = fabricate_study(tmp_path / "overlap", TUNED)
    finding = timed(results, slow | {16: (5000.0, 8000.0, 9000.0), 64: (8900.0, 9500.0, 9100.0)})
    assert value(finding, "fastest_batch_size") is value(finding, "saturation_batch_size") is None
    assert finding.metrics["fastest_batch_size"].missing_reason
    assert finding.tables[0].rows[2][-3:] == [5000, 9000, "in runs"]
    assert finding.status == "partial", "no size was timed alone"
    results = fabricate_study(tmp_path / "apart", TUNED)
    finding = timed(results, slow | {16: (8900.0, 9000.0, 8800.0), 64: (9100.0, 9200.0, 9300.0)})
    assert value(finding, "fastest_batch_size") == 64


def test_losses_at_equal_time_range_over_the_speeds(tmp_path):
    results = fabricate_study(tmp_path, TUNED)
    noisy = dict.fromkeys((1, 4, 16), (2000.0, 8000.0, 5000.0)) | {64: (8100.0, 8200.0, 8192.0)}
    finding = timed(results, noisy)
    assert value(finding, "time_budget_seconds") == pytest.approx(409_600 / 8200, rel=1e-3)
    run = results.experiment("batch_size_experiment").seeds_of("batch_size=16_max_lr=sqrt_batch_size-1.0")[0]
    slowest, fastest = (loss_at(run, speed * value(finding, "time_budget_seconds")) for speed in (2000, 8000))
    assert finding.tables[0].rows[2][5:7] == [slowest, fastest]
    assert slowest > fastest + 0.5
    assert value(finding, "best_batch_size_at_equal_time") is None


def test_losses_at_equal_time_are_those_of_the_curves(fabricated):
    finding = find("batch_size_experiment", fabricated)
    assert value(finding, "best_batch_size_at_equal_time") == 16
    seconds = 409_600 / speed_of(64)
    for size in (1, 4, 16, 64):
        best = next(run for run in finding.tables[0].rows if run[0] == size)
        experiment = fabricated.experiment("batch_size_experiment")
        run = next(run for run in experiment.runs if run.setting("batch_size") == size and run.loss == best[4])
        assert value(finding, f"batch_{size}_loss_at_equal_time") == best[5] == loss_at(run, seconds * speed_of(size))


@pytest.mark.parametrize(
    ("speeds", "seeds", "best"),
    [
        ({4: 1000.0, 8: 2000.0, 16: 4000.0}, [0], 16),
        ({4: 1000.0, 16: 100.0}, [0], 4),
        # At equal speeds the same tokens are compared; each seed shifts both sizes alike.
        ({4: 1000.0, 16: 1000.0}, [0, 1, 2], 16),
    ],
)
def test_best_size_at_equal_time_depends_on_the_speeds(tmp_path, speeds, seeds, best):
    fabricate_measurements(tmp_path, speeds=speeds)
    grid = {"batch_size": [4, 16], "max_lr": [0.005, 0.01]}
    finding = find_in(tmp_path, "batch_size_experiment", ON_STORIES | {"seeds": seeds, "sweep": grid})
    assert value(finding, "time_budget_seconds") == pytest.approx(409_600 / max(speeds.values()))
    assert value(finding, "best_batch_size_at_equal_time") == best


def test_the_largest_batch_that_fits_is_measured_on_steps_timed_alone(fabricated, tmp_path):
    finding = find("batch_size_experiment", fabricated)
    assert (value(finding, "largest_tried_batch_size"), value(finding, "largest_batch_size")) == (64, 256)
    assert (value(finding, "predicted_largest_batch_size"), value(finding, "handout_largest_batch_size")) == (1200, 999)
    rows = finding.tables[1].rows
    assert [row[0] for row in rows] == [1, 2, 4, 8, 16, 32, 64]
    # Of 20,000 + 1,000 for each sequence, 18,000 + 800 are predicted, and 16,000 + 2,000 by the handout's list.
    assert rows[3][4:] == [28_000, 24_400, pytest.approx(-100 * 3.6 / 28), 32_000, pytest.approx(100 * 4 / 28)]
    results = fabricate_study(tmp_path, {"batch_size_experiment": ON_STORIES | {"sweep": {"batch_size": [4, 16]}}})
    for measured in (False, True):
        if measured:
            fabricate_measurements(tmp_path, MODEL | {"d_model": 128})
        finding = find("batch_size_experiment", results)
        assert finding.status == "partial", "nothing, or another model was measured"
        assert finding.metrics["largest_batch_size"].missing_reason


def test_sizes_that_were_not_timed_alone_have_the_speed_of_their_runs(tmp_path):
    fabricate_measurements(tmp_path, speeds={4: 5000.0, 8: 6000.0, 16: 7000.0})
    finding = find_in(tmp_path, "batch_size_experiment", ON_STORIES | {"sweep": {"batch_size": [4, 16, 64]}})
    assert finding.status == "partial"
    assert [row[-1] for row in finding.tables[0].rows] == ["alone", "alone", "in runs"]
    sources = [finding.metrics[f"batch_{size}_tokens_per_second"].source for size in (4, 16, 64)]
    assert sources == ["batch_sizes.json", "batch_sizes.json", "experiments/batch_size_experiment/table.csv"]


def test_best_rates_that_follow_the_square_root_have_its_exponent(tmp_path):
    sweep = {
        "batch_size": [4, 16, 64],
        "max_lr": {"best_of": "learning_rate", "scale": "sqrt_batch_size", "factor": [0.5, 1, 2]},
    }
    experiments = {
        "learning_rate": EXPERIMENTS["learning_rate"],
        "batch_size_experiment": ON_STORIES | {"sweep": sweep},
    }
    results = fabricate_study(tmp_path, experiments)
    for size in (4, 16, 64):
        change_summary(
            results, f"batch_size_experiment/batch_size={size}_max_lr=sqrt_batch_size-1.0/seed0", validation_loss=2.0
        )
    finding = find("batch_size_experiment", results)
    assert value(finding, "best_max_lr_exponent") == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("experiment", "rates"),
    [
        ({"sweep": {"batch_size": [8, 32]}}, ["0.01", "0.01"]),
        (
            {"runs": {"few": {"batch_size": 8}, "many": {"batch_size": 32, "sweep": {"max_lr": [0.01, 0.02]}}}},
            ["0.01", "0.01 and 0.02"],
        ),
        ({"sweep": {"max_lr": [0.003, 0.01]}}, ["0.003 and 0.01"]),
    ],
)
def test_each_size_lists_its_rates(tmp_path, experiment, rates):
    finding = find_in(tmp_path, "batch_size_experiment", ON_STORIES | experiment)
    assert [row[finding.tables[0].columns.index("rates tried")] for row in finding.tables[0].rows] == rates
    assert finding.status == "partial"


def test_the_loss_after_some_tokens_is_interpolated_between_evaluations(fabricated):
    run = fabricated.experiment("learning_rate").runs[2]
    curve = run.validation_curve("tokens")
    (early, first), (late, second) = curve.iloc[1:3].to_numpy()
    assert loss_at(run, (early + late) / 2) == pytest.approx((first + second) / 2)
    assert loss_at(run, 1e9) == curve["validation_loss"].iloc[-1]
    assert loss_at(run, -1.0) is None
