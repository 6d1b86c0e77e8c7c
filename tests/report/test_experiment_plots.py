import csv

import pytest

from lmpipe.analysis.finding import Bars, Lines, RateCurves
from lmpipe.report.plots.experiment import final_losses, learning_curves, plot_experiment
from tests.support.fake_results import EXPERIMENTS, fabricate_study


@pytest.fixture(scope="module")
def fabricated(tmp_path_factory):
    """Return a made-up study of every kind of experiment."""
    return fabricate_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def plotted(fabricated, tmp_path_factory):
    """Return the folder with the figures of two experiments."""
    folder = tmp_path_factory.mktemp("plots")
    for name in ("learning_rate", "layer_norm_ablation"):
        plot_experiment(fabricated.experiment(name), folder / name)
    return folder


@pytest.mark.parametrize("name", ["learning_rate", "layer_norm_ablation"])
def test_files_of_an_experiment_are_figures_their_numbers_and_a_table(name, plotted):
    files = {f"{figure}.{kind}" for figure in ("learning_curves", "final_loss") for kind in ("svg", "csv")}
    assert {path.name for path in (plotted / name).iterdir()} == files | {"table.csv"}


def test_files_are_the_same_bytes_every_time(fabricated, plotted, tmp_path):
    plot_experiment(fabricated.experiment("learning_rate"), tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (plotted / "learning_rate" / path.name).read_bytes()


def test_table_has_a_row_for_each_run_and_seed_with_resolved_settings(plotted):
    with open(plotted / "layer_norm_ablation/table.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert {row["max_lr"] for row in rows if row["run"].startswith("no_norm_tuned")} == {"0.001", "0.003"}


def test_learning_curves_are_those_of_the_runs(fabricated):
    experiment = fabricated.experiment("layer_norm_ablation")
    lines = learning_curves(experiment).lines
    faint = [line for line in lines if line.style == "faint" and line.variant == "baseline"]
    assert len(faint) == 3
    for line, run in zip(faint, experiment.seeds_of("baseline"), strict=True):
        assert line.y[-1] == pytest.approx(run.summary.validation_loss, abs=1e-5)
        assert line.x[-1] == run.summary.tokens
    (median,) = [line for line in lines if line.variant == "baseline" and line.style == "line"]
    assert median.y[-1] == sorted(line.y[-1] for line in faint)[1]


def test_rates_are_a_curve_and_diverged_seeds_are_counted(fabricated):
    data = final_losses(fabricated.experiment("learning_rate"))
    assert isinstance(data, RateCurves)
    (curve,) = data.curves
    assert (curve.optimum, curve.stable_up_to, curve.breaks_at) == (0.01, 0.1, 3.0)
    assert [(point.num_failed, point.num_seeds) for point in curve.points][-1] == (1, 1)


def test_a_second_setting_makes_the_curves(fabricated):
    data = final_losses(fabricated.experiment("batch_size_experiment"))
    assert [curve.label for curve in data.curves] == ["batch size 1", "batch size 4", "batch size 16", "batch size 64"]


def test_a_setting_has_medians_and_seeds(fabricated):
    data = final_losses(fabricated.experiment("vocabulary"))
    assert isinstance(data, Lines)
    line, seeds = data.lines
    assert line.x == [512, 1024, 4096]
    assert len(seeds.x) == 6


def test_runs_without_a_common_setting_are_bars(fabricated):
    data = final_losses(fabricated.experiment("pre_norm_ablation"))
    assert isinstance(data, Bars)
    assert data.labels == ["baseline", "post norm"]


def test_experiment_whose_runs_all_diverged_is_still_drawn(tmp_path):
    experiments = {"learning_rate": {"corpus": "stories", "sweep": {"max_lr": [3.0, 5.0]}}}
    plot_experiment(fabricate_study(tmp_path / "study", experiments).experiment("learning_rate"), tmp_path / "plots")
    assert "1/1" in (tmp_path / "plots/final_loss.svg").read_text(encoding="utf-8")


def test_at_most_six_of_many_runs_have_labels(tmp_path):
    sweep = {"max_lr": [0.001 * 1.2**power for power in range(20)]}
    results = fabricate_study(tmp_path, {"learning_rate": EXPERIMENTS["learning_rate"] | {"sweep": sweep}})
    lines = learning_curves(results.experiment("learning_rate")).lines
    assert sum(bool(line.label) for line in lines) == 6
