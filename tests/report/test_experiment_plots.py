import csv
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path

import pytest

from lmpipe.report.plots.experiment import MAX_POINTS, bin_means, loss_range, plot_experiment, read_curve, run_styles
from tests.support.fake_results import fabricate_study

PLOTS = ("loss_by_step", "loss_by_time", "final_loss")
FILES = ("table.csv", *(f"{name}.{kind}" for name in PLOTS for kind in ("svg", "csv")))


@pytest.fixture(scope="module")
def plotted(fabricated, tmp_path_factory):
    """Return the folder with the plots of an experiment, which are drawn once."""

    @cache
    def plot(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        plot_experiment(fabricated.experiment(name), folder)
        return folder

    return plot


def text_of(path) -> str:
    """All words of an SVG."""
    return " ".join(" ".join(ElementTree.parse(path).getroot().itertext()).split())


def rows_of(path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["learning_rate", "batch_size_experiment", "layer_norm_ablation", "main_experiment"])
def test_every_kind_of_experiment_gets_its_plots_their_numbers_and_a_table(name, plotted):
    folder = plotted(name)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert "steps" in text_of(folder / "loss_by_step.svg")
    assert "training time (" in text_of(folder / "loss_by_time.svg")


def test_the_files_are_the_same_bytes_every_time(fabricated, plotted, tmp_path):
    plot_experiment(fabricated.experiment("main_experiment"), tmp_path)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (plotted("main_experiment") / name).read_bytes()


def test_the_table_has_a_row_for_each_run_and_seed_with_resolved_settings(plotted):
    folder = plotted("batch_size_experiment")
    rows = rows_of(folder / "table.csv")
    assert len(rows) == 12
    assert rows[0]["run"] == "batch_size=1_max_lr=sqrt_batch_size-0.5"
    assert (rows[0]["batch_size"], rows[0]["max_lr"]) == ("1", "0.00125")
    assert {"status", "perplexity", "bits_per_byte", "parameters", "train_seconds", "tokens_per_second"} <= set(rows[0])


def test_diverged_run_is_marked_and_does_not_stretch_the_loss_axis(fabricated, plotted):
    experiment = fabricated.experiment("learning_rate")
    curves = [read_curve(run) for run in experiment.runs]
    low, high = loss_range(curves)
    finals = [run.loss for run in experiment.runs if run.loss is not None]
    assert low < min(finals)
    assert max(finals) < high < 6 < max(loss for curve in curves for *_, loss in curve.validation)
    folder = plotted("learning_rate")
    assert "×: diverged there" in text_of(folder / "loss_by_step.svg")
    assert f"losses above {high:.2f} lie outside" in text_of(folder / "loss_by_step.svg")
    assert "× at the top: diverged" in text_of(folder / "final_loss.svg")


def test_the_numbers_of_learning_curves_are_those_of_the_runs(fabricated, plotted):
    experiment = fabricated.experiment("layer_norm_ablation")
    folder = plotted("layer_norm_ablation")
    for name, column in (("loss_by_step", "step"), ("loss_by_time", "seconds")):
        rows = rows_of(folder / f"{name}.csv")
        assert {(row["run"], int(row["seed"])) for row in rows} == set(fabricated.run_keys["layer_norm_ablation"])
        run = experiment.seeds_of("no_norm")[1]
        mine = [row for row in rows if (row["run"], row["seed"]) == ("no_norm", "1")]
        points = [(float(row[column]), float(row["validation loss"])) for row in mine if row["validation loss"]]
        curve = run.validation_curve("step" if column == "step" else "wall_seconds")
        assert points == [pytest.approx(point, rel=1e-5) for point in curve.to_numpy()]
        assert any(row["training loss"] for row in mine)


def test_the_numbers_of_final_losses_keep_what_failed(fabricated, plotted):
    folder = plotted("learning_rate")
    rows = rows_of(folder / "final_loss.csv")
    assert [row["max_lr"] for row in rows] == ["0.001", "0.003", "0.01", "0.03", "0.1", "3"]
    losses = [row["final validation loss (nats per token)"] for row in rows]
    assert float(losses[2]) == pytest.approx(fabricated.experiment("learning_rate").runs[2].loss, rel=1e-5)
    assert (rows[5]["status"], losses[5]) == ("diverged", "")


def test_a_second_setting_makes_the_series(plotted):
    folder = plotted("batch_size_experiment")
    words = text_of(folder / "final_loss.svg")
    assert all(f"batch_size = {size}" in words for size in (1, 4, 16, 64))
    assert "max_lr" in words


def test_in_a_grid_of_two_settings_colour_tells_one_and_dashes_the_other(fabricated):
    styles = run_styles(fabricated.experiment("batch_size_experiment"))
    colours = {name: style["color"] for name, style in styles.items()}
    assert len(set(colours.values())) == 4
    assert len({colours[f"batch_size=4_max_lr=sqrt_batch_size-{factor}"] for factor in (0.5, 1.0, 2.0)}) == 1
    assert len({str(style) for style in styles.values()}) == 12


def test_ablations_name_their_runs_and_the_seeds_that_failed(plotted):
    folder = plotted("layer_norm_ablation")
    words = text_of(folder / "final_loss.svg")
    assert "no_norm_tuned_max_lr=0.003" in words
    assert "diverged (1 of 3)" in words


def test_runs_on_different_tokens_are_compared_in_bits_per_byte(plotted):
    folder = plotted("vocabulary")
    words = text_of(folder / "final_loss.svg")
    assert "bits per byte" in words
    assert "4,096" in words, "ticks stand at the values that were run, thousands set apart"


def test_runs_on_different_texts_are_drawn_without_a_ranking(plotted):
    folder = plotted("main_experiment")
    assert "final bits per byte (the runs' texts differ)" in text_of(folder / "final_loss.svg")


def test_ticks_stand_at_the_values_only_where_they_can_be_read_beside_one_another(tmp_path):
    def ticks(name, rates):
        sweep = {"corpus": "stories", "sweep": {"max_lr": rates}}
        plot_experiment(fabricate_study(tmp_path / name, {"sweep": sweep}).experiment("sweep"), tmp_path / name)
        return text_of(tmp_path / name / "final_loss.svg").split()

    assert {"0.0035", "0.0071", "0.1"} <= set(ticks("apart", [0.0035, 0.0071, 0.1]))
    narrow = ticks("narrow", [0.003536, 0.005, 0.007071, 0.01, 0.02, 0.1])
    assert "0.003536" not in narrow
    assert "0.01" in narrow


def test_forty_runs_stay_readable(tmp_path):
    rates = [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 3.0]
    grid = {"weight_decay": [0.0, 0.1, 0.2, 0.3, 0.4], "max_lr": rates}
    results = fabricate_study(tmp_path / "study", {"many": {"corpus": "stories", "sweep": grid}})
    plot_experiment(results.experiment("many"), tmp_path / "plots")
    assert "and 29 more (see the table)" in text_of(tmp_path / "plots/loss_by_step.svg")
    assert (tmp_path / "plots/loss_by_step.svg").stat().st_size < 80_000


def test_an_experiment_whose_runs_all_diverged_is_still_drawn(tmp_path):
    wild = {"corpus": "stories", "seeds": [0, 1], "sweep": {"max_lr": [3.0, 4.0]}}
    results = fabricate_study(tmp_path / "study", {"wild": wild})
    plot_experiment(results.experiment("wild"), tmp_path / "plots")
    assert "× at the top: diverged" in text_of(tmp_path / "plots/final_loss.svg")


def test_bins_keep_the_mean_and_bound_the_points():
    points = [(float(step), step / 10, step % 7) for step in range(1000)]
    thinned = bin_means(points)
    assert len(thinned) <= MAX_POINTS
    assert bin_means(points[:50]) == [(float(step), pytest.approx(step / 10), step % 7) for step in range(50)]
    whole = thinned[:-1]
    assert sum(loss for *_, loss in whole) / len(whole) == pytest.approx(3.0, abs=0.1)
