import json
import math

import numpy as np
import pandas as pd
import pytest

from lmpipe.analysis.ranking import select_best
from lmpipe.analysis.results import SUMMARY_COLUMNS, Results
from lmpipe.analysis.run_table import make_table, run_row, write_tables
from lmpipe.analysis.runs import Run, read_numbers
from lmpipe.errors import InputError
from tests.support.fake_results import RATES, fabricate_study

SINGLE = {"learning_rate": {"corpus": "stories"}}


def test_runs_keep_the_order_of_the_study(fabricated):
    assert fabricated.experiment("learning_rate").names() == [f"max_lr={rate!r}" for rate in RATES]
    assert [run.seed for run in fabricated.experiment("pre_norm_ablation").seeds_of("post_norm")] == [0, 1, 2]
    assert fabricated.experiment("not_in_this_study") is None


def test_best_is_the_lowest_mean_among_runs_whose_seeds_all_finished(fabricated):
    assert fabricated.experiment("learning_rate").best() == "max_lr=0.01"
    ablation = fabricated.experiment("layer_norm_ablation")
    assert ablation.mean_loss("no_norm") is None, "one of its seeds diverged"
    assert len(ablation.losses("no_norm")) == 2
    assert ablation.best() == "baseline"


def test_settings_are_resolved(fabricated):
    run = fabricated.experiment("batch_size_experiment").runs[0]
    assert run.setting("batch_size") == 1
    assert run.setting("max_lr") == 0.01 * 0.5 * 0.25
    assert run.setting("norm") == "pre"
    assert run.setting("corpus") == "stories"
    assert run.setting("no_such_key") is None


@pytest.mark.parametrize(
    ("name", "varied", "swept"),
    [
        ("learning_rate", ["max_lr"], ["max_lr"]),
        ("batch_size_experiment", ["batch_size", "max_lr"], ["batch_size", "max_lr"]),
        ("layer_norm_ablation", ["norm", "max_lr"], []),
        ("swiglu_ablation", ["d_ff", "feed_forward"], []),
        ("main_experiment", ["corpus"], []),
        ("vocabulary", ["vocab_size"], ["vocab_size"]),
    ],
)
def test_varied_and_swept_settings(fabricated, name, varied, swept):
    experiment = fabricated.experiment(name)
    assert (experiment.varied_settings(), experiment.swept_settings()) == (varied, swept)


def test_ranking_metric_depends_on_tokens_and_corpus(fabricated):
    assert fabricated.experiment("learning_rate").ranking_metric() == "validation_loss"
    vocabulary = fabricated.experiment("vocabulary")
    assert (vocabulary.ranking_metric(), vocabulary.best()) == ("bits_per_byte", "vocab_size=4096")
    assert min(vocabulary.names(), key=vocabulary.mean_loss) == "vocab_size=512", "which nats per token would choose"
    across = fabricated.experiment("main_experiment")
    assert (across.ranking_metric(), across.best()) == (None, None)
    assert {corpus: runs.best() for corpus, runs in across.by_corpus().items()} == {
        "stories": "stories",
        "docs": "docs",
    }


def test_best_run_is_ranked_by_the_metric_that_compares_its_sweep(fabricated):
    experiment = fabricated.experiment("vocabulary")
    best = select_best(experiment)
    assert (best.run, best.ranked_by, best.seeds) == ("vocab_size=4096", "bits_per_byte", [0, 1])
    assert best.bits_per_byte == min(experiment.mean_loss(name, "bits_per_byte") for name in experiment.names())
    assert select_best(fabricated.experiment("learning_rate")).ranked_by == "validation_loss"
    with pytest.raises(InputError, match="stories, docs"):
        select_best(fabricated.experiment("main_experiment"))


def sweep_of(folder, rates, **runs):
    """Return the results of a sweep, and of more runs."""
    runs = {"grid": {"sweep": {"max_lr": rates}}} | runs
    experiments = {"sweep": {"corpus": "stories", "seeds": [0, 1, 2], "runs": runs}}
    return fabricate_study(folder, experiments).experiment("sweep")


def test_optimum_between_rates_is_the_vertex_of_their_parabola(tmp_path):
    rates = [0.004, 0.008, 0.016, 0.032]
    shorter = {"total_tokens": 8192, "sweep": {"max_lr": [0.013]}}
    experiment = sweep_of(tmp_path, rates, shorter=shorter)
    medians = [np.median(experiment.losses(f"grid_max_lr={rate}")) for rate in rates[:3]]
    curvature, slope, _ = np.polyfit(np.log(rates[:3]), medians, 2)
    best = select_best(experiment)
    assert best.run == "grid_max_lr=0.008"
    assert best.interpolated_lr == pytest.approx(np.exp(-slope / (2 * curvature)), rel=1e-9)


@pytest.mark.parametrize("rates", [[0.011, 0.03, 0.1], [0.001, 0.003, 0.009], [0.01], [0.003, 0.01, 3.0]])
def test_best_rate_at_a_border_or_beside_one_that_diverged_has_no_optimum_between_rates(tmp_path, rates):
    assert select_best(sweep_of(tmp_path, rates)).interpolated_lr is None


@pytest.mark.parametrize("rate", [0.005, 0.02])
def test_seeds_that_did_not_learn_do_not_pull_the_optimum(tmp_path, rate):
    experiment = sweep_of(tmp_path, [0.005, 0.01, 0.02])
    names = [f"grid_max_lr={lr}" for lr in (0.005, 0.01, 0.02)]
    others = {name: experiment.losses(name) for name in names}
    others[f"grid_max_lr={rate}"] = others[f"grid_max_lr={rate}"][1:]
    curvature, slope, _ = np.polyfit(np.log([0.005, 0.01, 0.02]), [np.median(others[name]) for name in names], 2)
    change_loss(experiment, f"grid_max_lr={rate}", [0], 5.0)
    assert select_best(experiment).interpolated_lr == pytest.approx(np.exp(-slope / (2 * curvature)), rel=1e-9)
    change_loss(experiment, f"grid_max_lr={rate}", [0, 1, 2], 5.0)
    assert select_best(experiment).interpolated_lr is None


def change_loss(experiment, name, seeds, loss):
    """Give some seeds of a run that finished another final loss."""
    for index, run in enumerate(experiment.runs):
        if run.name == name and run.seed in seeds:
            summary = run.summary.model_copy(update={"validation_loss": loss})
            experiment.runs[index] = Run(run.folder, run.config, summary)


def test_metrics_are_nan_where_empty_or_not_finite(fabricated):
    diverged = fabricated.experiment("learning_rate").seeds_of("max_lr=3.0")[0]
    metrics = diverged.metrics()
    assert math.isnan(metrics["train_loss"].iloc[0])
    assert math.isnan(metrics["train_loss"].iloc[-1])
    assert metrics["step"].tolist() == [float(step) for step in range(67)]
    assert list(diverged.validation_losses()) == [step * 16 * 128 for step in (0, 20, 40, 60)]


@pytest.mark.parametrize(
    "text",
    ["", "step,loss\n", "step,loss\n1,2\n2\n", "step,loss\n1,2\n2,3", "step,loss\n1,x\n", "step\n1\n", "\0", "a\n\n\n"],
)
def test_damaged_table_is_an_input_error(tmp_path, text):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        read_numbers(tmp_path / "table.csv", ["step", "loss"])
    assert caught.value.where.endswith("table.csv")


def test_numbers_are_read_exactly(tmp_path):
    numbers = [0.1 + 0.2, 1 / 3, 5e-324, 2.0**60 + 256]
    (tmp_path / "table.csv").write_text("loss\n" + "".join(f"{number!r}\n" for number in numbers))
    assert read_numbers(tmp_path / "table.csv", ["loss"])["loss"].tolist() == numbers


def test_incomplete_metrics_are_an_input_error(tmp_path):
    run = fabricate_study(tmp_path, SINGLE).runs()[0]
    path = run.folder / "metrics.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(InputError, match="ends at step"):
        run.metrics()


def test_written_table_has_varied_settings_and_summary(fabricated, tmp_path):
    fabricated.experiment("learning_rate").write_table(tmp_path / "table.csv")
    table = pd.read_csv(tmp_path / "table.csv")
    assert list(table) == ["run", "seed", "status", "max_lr", *SUMMARY_COLUMNS]
    assert table["max_lr"].tolist() == list(RATES)
    diverged = table[table["status"] == "diverged"]
    assert diverged["validation_loss"].isna().all()
    assert (tmp_path / "table.csv").read_text().splitlines()[-1].endswith(",float32,66"), "integers stay integers"


def test_one_experiment_can_be_read_while_others_are_missing(fabricated):
    partial = Results(fabricated.folder, fabricated.study, {**fabricated.run_keys, "later": [("baseline", 0)]})
    assert partial.experiment("learning_rate").best() == "max_lr=0.01"
    with pytest.raises(InputError):
        partial.experiment("later")


def test_damaged_summary_and_files_of_another_run_are_input_errors(tmp_path):
    folder = fabricate_study(tmp_path, SINGLE).runs()[0].folder
    path = folder / "config.json"
    config = path.read_text()
    path.write_text(json.dumps(json.loads(config) | {"run": "other\n"}))
    with pytest.raises(InputError, match="learning_rate/baseline/seed0") as caught:
        Run.read(folder)
    assert str(caught.value).isprintable()
    path.write_text(config)
    (folder / "summary.json").write_text('{"status": "fini', encoding="utf-8")
    with pytest.raises(InputError):
        Run.read(folder)


def test_every_run_is_a_row_of_runs_csv_and_runs_parquet(fabricated):
    write_tables(fabricated.runs(), fabricated.paths)
    table = pd.read_csv(fabricated.folder / "runs.csv")
    runs = fabricated.runs()
    assert table["path"].tolist() == [str(run.folder.relative_to(fabricated.folder)) for run in runs]
    settings = [{**run.settings, "beta1": run.settings["betas"][0], "beta2": run.settings["betas"][1]} for run in runs]
    for key in settings[0].keys() - {"betas"}:
        assert table[key].tolist() == [values[key] for values in settings], key
    summaries = [{**dict(run.summary), "used_compile": run.summary.compile} for run in runs]
    for key in (*SUMMARY_COLUMNS, "status", "reason", "used_compile"):
        expected = [None if pd.isna(value := summary[key]) else value for summary in summaries]
        assert [None if pd.isna(cell) else cell for cell in table[key]] == expected, key
    parquet = pd.read_parquet(fabricated.folder / "runs.parquet")
    typed = pd.read_csv(fabricated.folder / "runs.csv", dtype=dict(parquet.dtypes))
    pd.testing.assert_frame_equal(typed, parquet)


def test_types_of_the_columns_do_not_depend_on_the_runs(fabricated):
    runs = fabricated.runs()
    full, single, empty = (make_table(map(run_row, some)) for some in (runs, runs[:1], []))
    assert full.dtypes.equals(single.dtypes) and full.dtypes.equals(empty.dtypes)
    assert full["rope_theta"].dtype == "float64" and full["detected_step"].dtype == "Int64"
