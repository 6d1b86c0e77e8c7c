"""Groups of seeds, failures, seed noise, sweeps over rates, and effects."""

import math
import random
from statistics import fmean, median

import numpy as np
import pytest
import scipy

from lmpipe.analysis.effects import classify_effect, correct_comparisons, effect_of
from lmpipe.analysis.experiment_findings import byte_yardsticks, loss_yardsticks, target_metrics
from lmpipe.analysis.finding import Effect, Expectation, Finding
from lmpipe.analysis.outcomes import NATS, NO_RUN, has_failed, seed_groups, study_noise
from lmpipe.analysis.ranking import select_best
from lmpipe.analysis.rate_sweeps import own_sweep, sweeps_by_model
from lmpipe.analysis.statistics import SeedNoise, mean_interval, pooled_noise, two_sided_p
from lmpipe.data.documents import NgramBudget, NgramLoss
from lmpipe.planning.plan import load_plan
from tests.support.fake_results import EXPERIMENTS, change_summary, fabricate_study, fabricate_yardsticks, fake_study
from tests.support.findings import ON_STORIES

BEST_LOSS = 0.45 * 5.21 - 0.03  # of the made-up sweep, with seed 0
NGRAMS = {1: 5.21, 2: 3.0, 3: 2.6, 4: 2.5, 5: 2.4}
NOPE = {"baseline": {}, "nope": {"position_embedding": "none"}}
SEEDS = [0, 1, 2]
SWEEP = ON_STORIES | {"sweep": {"max_lr": [0.0025, 0.005, 0.01, 0.02, 3.0]}}


def group_of(results, experiment, name):
    return next(group for group in seed_groups(results, results.experiment(experiment)) if group.name == name)


def sweep_of(folder, rates, yardsticks=False, **changes):
    """Return the results of a sweep over rates."""
    experiment = ON_STORIES | {"sweep": {"max_lr": rates}} | changes
    results = fabricate_study(folder, {"learning_rate": experiment})
    if yardsticks:
        fabricate_yardsticks(results, "stories", {409600: NGRAMS})
    return results


def only_sweep(results):
    (sweep,) = sweeps_by_model(results, results.experiment("learning_rate")).values()
    return sweep


@pytest.fixture
def nope(tmp_path):
    """Results of an ablation over three seeds."""
    return fabricate_study(tmp_path, {"no_pos_emb": ON_STORIES | {"seeds": SEEDS, "runs": NOPE}})


# --- statistics -------------------------------------------------------------------------------------------------------


def test_pooled_noise_equals_the_residual_of_a_one_way_anova():
    random.seed(0)
    groups = [[random.gauss(mean, 0.03) for _ in range(size)] for mean, size in ((1.9, 3), (2.4, 5), (3.0, 2))]
    values, labels = np.concatenate(groups), np.repeat([0, 1, 2], [3, 5, 2])
    residuals = values - np.array([fmean(groups[label]) for label in labels])
    noise = pooled_noise([*groups, [7.0]])
    assert noise.degrees == 7
    assert noise.sd == pytest.approx(math.sqrt((residuals**2).sum() / 7), rel=1e-12)


@pytest.mark.parametrize("sizes", [(4, 4), (3, 5)])
def test_half_width_of_a_difference_equals_scipys_interval_of_two_samples(sizes):
    first, second = (np.random.default_rng(seed).normal(2.0, 0.1, size) for seed, size in enumerate(sizes))
    test = scipy.stats.ttest_ind(first, second)
    reference = test.confidence_interval(0.95)
    noise = pooled_noise([list(first), list(second)])
    half_width = noise.difference_half_width(*sizes)
    assert half_width == pytest.approx((reference.high - reference.low) / 2, rel=1e-12)
    assert two_sided_p(fmean(first) - fmean(second), half_width, noise.degrees) == pytest.approx(test.pvalue, rel=1e-9)
    assert SeedNoise(0.1, 10).difference_half_width(4) == SeedNoise(0.1, 10).difference_half_width(4, 4)


def test_single_values_have_no_noise_and_no_interval():
    assert pooled_noise([[1.0], [2.0]]) is None
    assert mean_interval([2.0]) is None


@pytest.mark.parametrize("count", [2, 3, 5, 32, 60])
def test_mean_interval_equals_scipy_one_sample_interval(count):
    values = np.random.default_rng(count).normal(2.0, 0.1, count)
    reference = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert mean_interval(list(values)) == pytest.approx((reference.low, reference.high), rel=1e-12)


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "failed"), [(4.10, False), (4.11, True)])
def test_a_seed_fails_nearer_to_the_unigram_than_to_the_bigram_loss(nope, loss, failed):
    change_summary(nope, "no_pos_emb/nope/seed0", validation_loss=loss)
    budget = NgramBudget(
        train_tokens=409600, ngrams=[NgramLoss(order=n, loss=x, bits_per_byte=1) for n, x in NGRAMS.items()]
    )
    run = nope.experiment("no_pos_emb").seeds_of("nope")[0]
    assert has_failed(run, budget) is failed
    assert not has_failed(run, None), "without yardsticks the status of the run decides"


def test_a_group_with_a_failed_seed_has_the_median_of_the_others_and_no_interval(nope):
    change_summary(nope, "no_pos_emb/nope/seed1", status="diverged", validation_loss=None)
    group = group_of(nope, "no_pos_emb", "nope")
    assert (group.num_failed, group.num_seeds) == (1, 3)
    assert group.center == pytest.approx(median(group.values.values()))
    assert group.interval is None


def test_a_group_without_failures_has_its_mean_and_the_t_interval(nope):
    group = group_of(nope, "no_pos_emb", "baseline")
    values = list(group.values.values())
    reference = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert group.center == pytest.approx(fmean(values))
    assert group.interval == pytest.approx((reference.low, reference.high), rel=1e-12)
    perplexity = group.perplexity("")
    assert perplexity.value == pytest.approx(math.exp(fmean(values)))
    assert perplexity.interval == pytest.approx(tuple(map(math.exp, group.interval)))


# --- yardsticks -------------------------------------------------------------------------------------------------------


def test_the_yardstick_of_a_run_has_the_nearest_budget(nope):
    fabricate_yardsticks(nope, "stories", {102400: NGRAMS, 409600: {**NGRAMS, 2: 2.9}, 2048000: {**NGRAMS, 2: 2.8}})
    run = nope.experiment("no_pos_emb").runs[0]
    assert nope.yardstick(run).train_tokens == 409600
    assert [(line.label, line.value) for line in loss_yardsticks(nope, run)][:2] == [("unigram", 5.21), ("bigram", 2.9)]


@pytest.mark.parametrize(("tokens", "tokenizer"), [(409600, "stories-4096"), (1_000_000, "stories")])
def test_a_run_with_other_tokens_or_much_shorter_than_all_budgets_has_no_yardstick(nope, tokens, tokenizer):
    fabricate_yardsticks(nope, "stories", {tokens: NGRAMS}, tokenizer=tokenizer)
    assert nope.yardstick(nope.experiment("no_pos_emb").runs[0]) is None


def test_yardsticks_per_byte_include_xz(nope):
    fabricate_yardsticks(nope, "stories", {409600: NGRAMS})
    lines = {line.label: line.value for line in byte_yardsticks(nope, nope.experiment("no_pos_emb").runs[0])}
    assert list(lines) == ["uniform", "unigram", "bigram", "3-gram", "5-gram", "xz"]
    assert lines["uniform"] == pytest.approx(math.log2(1024) * 1000 / 3920)


# --- seed noise and sweeps --------------------------------------------------------------------------------------------


def test_study_noise_counts_shared_runs_once(tmp_path):
    ablation = ON_STORIES | {"seeds": SEEDS, "runs": NOPE}
    results = fabricate_study(
        tmp_path, {"no_pos_emb": ablation, "swiglu_ablation": ablation | {"runs": {"baseline": {}}}}
    )
    noise = study_noise(results)
    assert noise.degrees == 4, "baseline and nope with three seeds each"
    assert noise.sd == pytest.approx(0.03, abs=1e-5)


def test_study_noise_takes_each_setting_at_its_best_rate(tmp_path):
    results = sweep_of(tmp_path, SWEEP["sweep"]["max_lr"], seeds=SEEDS)
    for seed, loss in enumerate((3.0, 4.0, 5.0)):
        change_summary(results, f"learning_rate/max_lr=0.02/seed{seed}", validation_loss=loss)
    assert study_noise(results).sd == pytest.approx(0.03, abs=1e-5)


def test_a_sweep_has_an_interpolated_optimum_and_an_edge(tmp_path):
    sweep = only_sweep(sweep_of(tmp_path, SWEEP["sweep"]["max_lr"]))
    # The made-up loss is a parabola in the logarithm of the rate with its minimum at 0.01.
    assert sweep.best.max_lr == 0.01
    assert sweep.interpolated == pytest.approx(0.01, rel=1e-4)
    assert (sweep.stable_up_to, sweep.breaks_at, sweep.is_at_border) == (0.02, 3.0, False)


def test_a_short_run_looks_for_the_edge_alone(tmp_path):
    runs = {
        "grid": {"sweep": {"max_lr": [0.005, 0.01, 0.02]}},
        "edge": {"total_tokens": 40960, "sweep": {"max_lr": [0.5, 5.0]}},
    }
    results = fabricate_study(tmp_path, {"learning_rate": ON_STORIES | {"runs": runs}})
    fabricate_yardsticks(results, "stories", {409600: NGRAMS})
    sweep = only_sweep(results)
    assert [(point.max_lr, point.is_short) for point in sweep.points][-2:] == [(0.5, True), (5.0, True)]
    assert (sweep.best.max_lr, sweep.stable_up_to, sweep.breaks_at) == (0.01, 0.5, 5.0)


def test_a_rate_may_have_runs_of_both_lengths(tmp_path):
    edge = {"total_tokens": 40960, "sweep": {"max_lr": [0.02, 0.04]}}
    runs = {"grid": {"sweep": {"max_lr": [0.005, 0.01, 0.02]}}, "edge": edge}
    results = fabricate_study(tmp_path, {"learning_rate": ON_STORIES | {"runs": runs}})
    change_summary(results, "learning_rate/edge_max_lr=0.02/seed0", status="diverged", validation_loss=None)
    sweep = only_sweep(results)
    points = [(point.max_lr, point.is_short, point.num_failed) for point in sweep.points]
    assert points[2:] == [(0.02, False, 0), (0.02, True, 1), (0.04, True, 0)]
    assert (sweep.stable_up_to, sweep.breaks_at) == (0.01, 0.02)
    assert sweep.interpolated == pytest.approx(0.01, rel=1e-4)


def test_a_neighbour_that_never_learned_is_no_border(tmp_path):
    results = sweep_of(tmp_path, [0.0001, 0.01, 0.02])
    change_summary(results, "learning_rate/max_lr=0.0001/seed0", status="not_learning")
    sweep = only_sweep(results)
    assert not sweep.is_at_border
    assert (sweep.interpolated, sweep.optimum) == (None, 0.01)


@pytest.mark.parametrize(("rate", "loss"), [(0.005, 2.5), (0.02, 3.5), (0.005, 4.0), (0.02, 4.2), (0.005, 5.3)])
def test_the_report_interpolates_as_best_of_does(tmp_path, rate, loss):
    results = sweep_of(tmp_path, [0.005, 0.01, 0.02], yardsticks=True)
    change_summary(results, f"learning_rate/max_lr={rate}/seed0", validation_loss=loss)
    sweep = only_sweep(results)
    assert sweep.interpolated == select_best(results.experiment("learning_rate")).interpolated_lr
    assert (sweep.interpolated is None) == (loss > (2.35 + 5.21) / 2)


def test_a_group_has_the_sweep_that_its_rate_is_from(tmp_path):
    tuned = ON_STORIES | {"max_lr": {"best_of": "learning_rate"}, "runs": {"baseline": {}}}
    results = fabricate_study(tmp_path, {"learning_rate": SWEEP, "no_pos_emb": tuned})
    assert own_sweep(results, group_of(results, "no_pos_emb", "baseline")).breaks_at == 3.0


# --- effects ----------------------------------------------------------------------------------------------------------


def effect_in(results):
    baseline, variant = seed_groups(results, results.experiment("no_pos_emb"))
    return effect_of(results, variant, baseline, study_noise(results))


def test_an_effect_has_the_interval_of_the_study_noise(nope):
    effect, half_width = effect_in(nope), study_noise(nope).difference_half_width(3)
    assert effect.differences == pytest.approx([0.24] * 3)
    assert effect.interval == pytest.approx((0.24 - half_width, 0.24 + half_width))
    assert effect.variant == "no_pos_emb"


def test_an_effect_with_a_failed_seed_is_the_median_without_an_interval(nope):
    change_summary(nope, "no_pos_emb/nope/seed1", status="diverged", validation_loss=None)
    effect = effect_in(nope)
    assert (effect.num_failed, effect.interval) == (1, None)
    assert effect.differences == pytest.approx([0.24] * 2)


def test_seeds_of_the_variant_alone_are_compared_with_the_center(nope):
    change_summary(nope, "no_pos_emb/baseline/seed0", status="diverged", validation_loss=None)
    # The median of the baseline's seeds 1 and 2 is 0.015 above the former.
    assert effect_in(nope).differences == pytest.approx([0.24 - 0.045, 0.24, 0.24], abs=1e-6)


@pytest.mark.parametrize(
    ("difference", "num_failed", "noise", "outcome"),
    [
        (0.2, 0, SeedNoise(0.03, 20), "higher"),
        (-0.2, 0, SeedNoise(0.03, 20), "lower"),
        (0.05, 0, SeedNoise(0.03, 20), "same"),
        (0.2, 0, None, "not resolved"),
        (0.2, 1, SeedNoise(0.03, 20), "not resolved"),
        (None, 2, SeedNoise(0.03, 20), "diverges"),
    ],
)
def test_the_outcome_depends_on_the_smallest_visible_difference(difference, num_failed, noise, outcome):
    effect = Effect("NoPE", "nope", difference, None, [], num_failed, 2, "nats per token", 0.01)
    assert classify_effect(effect, noise) == outcome


def test_effects_of_all_ablations_are_corrected_together():
    def finding(*p_values):
        rows = [Effect("a", "a", 0.1, (0.01, 0.19), [0.1], 0, 3, NATS, 0.01, p_value=value) for value in p_values]
        return Finding("answered", effects=rows)

    names = ["layer_norm_ablation", "pre_norm_ablation", "no_pos_emb", "token_budget"]
    problems = dict(zip(names, (finding(0.001), finding(0.03), finding(0.027, None), finding(0.04)), strict=True))
    corrected = correct_comparisons(problems)
    assert {name: [row.differs for row in corrected[name].effects] for name in names} == {
        "layer_norm_ablation": [True],
        "pre_norm_ablation": [False],  # 0.027 is above 0.05 / 2, which ends the correction
        "no_pos_emb": [False, True],  # no p-value: its interval alone
        "token_budget": [True],  # no ablation: its interval alone
    }


def test_a_difference_that_the_correction_leaves_without_significance_is_not_resolved():
    row = Effect("a", "a", 0.1, (0.01, 0.19), [0.1], 0, 3, NATS, 0.01, p_value=0.03)
    expected = Expectation("a", "higher", "higher", "it is said", "")
    finding = Finding("answered", effects=[row], facts={"outcome": "higher"}, expectations=[expected])
    corrected = correct_comparisons(dict.fromkeys(["layer_norm_ablation", "pre_norm_ablation"], finding))
    alone = correct_comparisons({"pre_norm_ablation": finding})["pre_norm_ablation"]
    assert (alone.facts["outcome"], alone.expectations[0].outcome) == ("higher", "higher")
    for other in corrected.values():
        assert (other.facts["outcome"], other.expectations[0].outcome) == ("not resolved", "not resolved")


# --- targets ----------------------------------------------------------------------------------------------------------


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
