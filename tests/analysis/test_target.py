"""The target loss of an experiment."""

import pytest

from lmpipe.analysis.experiment_findings import target_metrics
from lmpipe.analysis.outcomes import NO_RUN
from lmpipe.planning.plan import load_plan
from tests.support.fake_results import EXPERIMENTS, fabricate_study, fake_study

BEST_LOSS = 0.45 * 5.21 - 0.03


def targets(tmp_path, name, target, **changes):
    """Return the metrics about the target of an experiment of the fabricated study."""
    experiments = {name: EXPERIMENTS[name] | {"target_loss": target} | changes}
    return target_metrics(fabricate_study(tmp_path, experiments), name)


@pytest.mark.parametrize(("target", "is_reached"), [(2.4, True), (1.45, False), (round(BEST_LOSS, 6), True)])
def test_a_target_is_beside_the_best_run(tmp_path, target, is_reached):
    metrics = targets(tmp_path, "learning_rate", target, sweep={"max_lr": [0.003, 0.01]})
    assert (metrics["target_loss"].value, metrics["target_loss"].unit) == (target, "nats per token")
    assert metrics["target_loss"].source == "the study's experiments.learning_rate.target_loss"
    assert metrics["loss_above_target"].value == pytest.approx(BEST_LOSS - target, abs=1e-6)
    assert metrics["target_reached"].value is is_reached


def test_a_mean_over_seeds_has_its_interval(tmp_path):
    above = targets(tmp_path, "pre_norm_ablation", 2.0, max_lr=0.01)["loss_above_target"]
    low, high = above.interval
    assert low < above.value < high
    assert above.value == pytest.approx(0.45 * 5.21 - 2.0)


def test_a_target_without_a_finished_run_is_missed(tmp_path):
    metrics = targets(tmp_path, "learning_rate", 1.45, sweep={"max_lr": [3.0, 4.0]})
    assert metrics["target_reached"].missing_reason == NO_RUN
    assert metrics["loss_above_target"].value is None


def test_without_a_target_there_is_no_metric(fabricated):
    assert target_metrics(fabricated, "learning_rate") == target_metrics(fabricated, "unicode1") == {}


def test_no_run_knows_a_target(fabricated):
    aims = {name: EXPERIMENTS[name] | {"target_loss": 1.45} for name in ("learning_rate", "batch_size_experiment")}
    before, after = (load_plan(fake_study(experiments=EXPERIMENTS | more), "x") for more in ({}, aims))
    assert before.runs == after.runs
    assert before.run_keys() == after.run_keys(), "nor does any rule but find and report"
