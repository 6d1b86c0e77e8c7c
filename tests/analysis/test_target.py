"""The target loss of an experiment."""

import pytest

from lmpipe.analysis.finding import Finding
from lmpipe.analysis.problems.registry import analyze_all, complete_finding
from lmpipe.analysis.problems.target_loss import NO_RUN, add_target
from lmpipe.planning.plan import load_plan
from tests.support.fake_results import EXPERIMENTS, fabricate_study, fake_study

BEST_LOSS = 0.45 * 5.21 - 0.03


def finding_with_target(tmp_path, name, target, **changes):
    """Return the finding of an experiment of the fabricated study, with a target."""
    experiments = {name: EXPERIMENTS[name] | {"target_loss": target} | changes}
    if "best_of" in str(experiments):
        experiments["learning_rate"] = EXPERIMENTS["learning_rate"]
    return analyze_all(fabricate_study(tmp_path, experiments)).problems[name]


def test_a_target_that_was_reached_is_beside_the_best_run(tmp_path):
    finding = finding_with_target(tmp_path, "learning_rate", 2.4)
    reached = finding.metrics["best_validation_loss"].value
    figures = finding.metrics
    assert (figures["target_loss"].value, figures["target_loss"].unit) == (2.4, "nats per token")
    assert figures["target_loss"].source == "the study's experiments.learning_rate.target_loss"
    assert figures["loss_above_target"].value == pytest.approx(BEST_LOSS - 2.4, abs=1e-6)
    assert figures["target_reached"].value is True
    assert figures["loss_above_target"].value == pytest.approx(reached - 2.4)


def test_a_target_may_be_missed(tmp_path):
    finding = finding_with_target(tmp_path, "learning_rate", 1.45)
    assert finding.metrics["target_reached"].value is False
    assert finding.metrics["loss_above_target"].value == pytest.approx(BEST_LOSS - 1.45, abs=1e-6)


def test_a_target_equal_to_the_loss_is_reached(tmp_path):
    fabricate_study(tmp_path, {"learning_rate": EXPERIMENTS["learning_rate"]})
    loss = round(BEST_LOSS, 6)
    results = fabricate_study(tmp_path, {"learning_rate": EXPERIMENTS["learning_rate"] | {"target_loss": loss}})
    assert results.experiment("learning_rate").mean_loss("max_lr=0.01") == loss
    finding = add_target(Finding("answered"), results, "learning_rate")
    assert finding.metrics["target_reached"].value is True


def test_a_mean_over_seeds_has_its_interval(tmp_path):
    finding = finding_with_target(tmp_path, "pre_norm_ablation", 2.0)
    above = finding.metrics["loss_above_target"]
    low, high = above.interval
    assert low < above.value < high
    assert above.value == pytest.approx(0.45 * 5.21 - 2.0)


def test_a_target_without_a_finished_run_is_missed(tmp_path):
    finding = finding_with_target(tmp_path, "learning_rate", 1.45, sweep={"max_lr": [3.0, 4.0]})
    assert finding.metrics["target_reached"].missing_reason == NO_RUN
    assert finding.metrics["loss_above_target"].value is None


def test_an_experiment_of_the_general_kind_has_targets_too(tmp_path):
    experiments = {"my_own": {"corpus": "stories", "target_loss": 2.0, "sweep": {"weight_decay": [0.1, 0.3]}}}
    finding = analyze_all(fabricate_study(tmp_path, experiments)).problems["my_own"]
    assert finding.metrics["target_loss"].value == 2


def test_without_a_target_there_is_no_metric(fabricated):
    assert complete_finding("learning_rate", Finding("answered"), fabricated).metrics == {}


def test_no_run_knows_a_target(fabricated):
    aims = {name: EXPERIMENTS[name] | {"target_loss": 1.45} for name in ("learning_rate", "batch_size_experiment")}
    before, after = (load_plan(fake_study(experiments=EXPERIMENTS | more), "x") for more in ({}, aims))
    assert before.runs == after.runs
    assert before.run_keys() == after.run_keys(), "nor does any rule but find and report"
