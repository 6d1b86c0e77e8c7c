import json

import pytest

from lmpipe.analysis.results import Results, Run, select_best
from lmpipe.errors import InputError
from tests.support.fake_results import RATES, fabricate_study


@pytest.fixture
def results(fabricated) -> Results:
    return fabricated


def test_runs_keep_the_order_of_the_study(results):
    assert results.experiment("learning_rate").names() == [f"max_lr={rate!r}" for rate in RATES]
    assert [run.seed for run in results.experiment("pre_norm_ablation").seeds_of("post_norm")] == [0, 1, 2]
    assert results.experiment("not_in_this_study") is None


def test_best_is_the_lowest_mean_among_runs_whose_seeds_all_finished(results):
    assert results.experiment("learning_rate").best() == "max_lr=0.01"
    ablation = results.experiment("layer_norm_ablation")
    assert ablation.mean_loss("no_norm") is None, "one of its seeds diverged"
    assert set(ablation.losses("no_norm")) == {0, 1}
    assert ablation.best_among(["no_norm", "no_norm_tuned_max_lr=0.003"]) == "no_norm_tuned_max_lr=0.003"
    assert ablation.best_among(["no_norm"]) is None


def test_settings_are_read_where_the_run_resolved_them(results):
    run = results.experiment("batch_size_experiment").runs[0]
    assert run.setting("batch_size") == 1
    assert run.setting("max_lr") == 0.01 * 0.5 * 0.25
    assert run.setting("norm") == "pre"
    assert run.setting("corpus") == "stories"
    assert run.setting("no_such_key") is None


def test_varied_and_swept_settings(results):
    expected = {
        "learning_rate": (["max_lr"], ["max_lr"]),
        "batch_size_experiment": (["batch_size", "max_lr"], ["batch_size", "max_lr"]),
        "layer_norm_ablation": (["norm", "max_lr"], []),
        "swiglu_ablation": (["d_ff", "feed_forward"], []),
        "main_experiment": (["corpus"], []),
        "vocabulary": (["vocab_size"], ["vocab_size"]),
    }
    for name, (varied, swept) in expected.items():
        experiment = results.experiment(name)
        assert (experiment.varied_settings(), experiment.swept_settings()) == (varied, swept), name


def test_runs_are_ranked_per_token_on_the_same_tokens_per_byte_on_one_text_and_not_across_texts(results):
    assert results.experiment("learning_rate").ranking_metric() == "validation_loss"
    vocabulary = results.experiment("vocabulary")
    assert (vocabulary.ranking_metric(), vocabulary.best()) == ("bits_per_byte", "vocab_size=4096")
    assert min(vocabulary.names(), key=vocabulary.mean_loss) == "vocab_size=512", "which nats per token would choose"
    assert vocabulary.ranking_metric(["vocab_size=512"]) == "validation_loss"
    across = results.experiment("main_experiment")
    assert (across.ranking_metric(), across.best()) == (None, None)
    assert {corpus: part.best() for corpus, part in across.by_corpus().items()} == {
        "stories": "stories",
        "docs": "docs",
    }


def test_a_rate_is_taken_from_what_ranks_the_runs_of_a_sweep(results):
    best = select_best(results.experiment("vocabulary"))
    assert (best.run, best.ranked_by, best.seeds) == ("vocab_size=4096", "bits_per_byte", [0, 1])
    assert best.bits_per_byte == min(candidate.bits_per_byte for candidate in best.candidates)
    assert select_best(results.experiment("learning_rate")).ranked_by == "validation_loss"
    with pytest.raises(InputError, match="main_experiment: expected runs on one corpus, found stories, docs, whose"):
        select_best(results.experiment("main_experiment"))


def test_metrics_read_empty_and_infinite_cells_as_none(results):
    diverged = results.experiment("learning_rate").seeds_of("max_lr=3.0")[0]
    metrics = diverged.metrics()
    assert metrics["train_loss"][0] is None
    assert metrics["train_loss"][-1] is None
    assert metrics["step"] == [float(step) for step in range(67)]
    steps = [step for step, _ in diverged.validation_curve()]
    assert steps == [0, 20, 40, 60], "the last evaluation was not a number"


def test_a_row_holds_the_settings_and_the_summary(results):
    row = results.experiment("learning_rate").runs[2].row(["max_lr"])
    assert list(row)[:4] == ["run", "seed", "status", "max_lr"]
    assert row["max_lr"] == 0.01
    assert row["parameters"] == 327_744


def test_one_experiment_can_be_read_while_others_are_missing(tmp_path):
    whole = fabricate_study(tmp_path)
    partial = Results(tmp_path, whole.study, {**whole.plan, "later": [("baseline", 0)]})
    assert partial.experiment("learning_rate").best() == "max_lr=0.01"
    with pytest.raises(InputError, match="is missing"):
        partial.experiment("later")


def test_a_damaged_summary_is_an_input_error(tmp_path):
    results = fabricate_study(tmp_path)
    folder = tmp_path / "runs/no_pos_emb/nope/seed0"
    (folder / "summary.json").write_text('{"status": "fini', encoding="utf-8")
    with pytest.raises(InputError, match="damaged"):
        Run.read(folder)
    assert results.corpus_in_role("web") == "docs"


def test_the_files_of_another_run_are_told_in_one_line(tmp_path):
    folder = fabricate_study(tmp_path).runs()[0].folder
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"run": "other\n"}))
    with pytest.raises(InputError, match=r"expected the run learning_rate/max_lr=0\.001/seed0, found ") as caught:
        Run.read(folder)
    assert str(caught.value).isprintable()
