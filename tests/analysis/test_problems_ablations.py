"""The four ablations on made-up runs."""

import pandas as pd
import pytest

from lmpipe.analysis.outcomes import study_noise
from tests.support.fake_results import EXPERIMENTS, change_summary, fabricate_study, fabricate_yardsticks
from tests.support.findings import ON_STORIES, find, find_in, value
from tests.support.prose import render

SEEDS = {"seeds": [0, 1, 2]}
NOPE = {"baseline": {}, "nope": {"position_embedding": "none"}}
RATES = {"sweep": {"max_lr": [0.0025, 0.005, 0.01, 0.02, 3.0]}}


def change_metrics(results, run, column, change):
    """Rewrite a column of a run's metrics.csv."""
    path = results.folder / "runs" / run / "metrics.csv"
    table = pd.read_csv(path)
    table[column] = change(table)
    table.to_csv(path, index=False)


def test_a_variant_is_compared_at_its_own_best_rate_with_its_own_edge(fabricated):
    finding = find("layer_norm_ablation", fabricated)
    assert (value(finding, "max_lr"), value(finding, "baseline_max_lr")) == (0.003, 0.01)
    # 0.31 from the norm, and 0.07 ln(0.3)² from the rate.
    assert value(finding, "difference") == pytest.approx(0.41147, abs=1e-5)
    half_width = study_noise(fabricated).difference_half_width(3)
    bounds = 0.41147 - half_width, 0.41147 + half_width
    assert finding.metrics["difference"].interval == pytest.approx(bounds, abs=1e-5)
    assert value(finding, "smallest_visible_difference") == pytest.approx(half_width)
    assert (value(finding, "baseline_stable_up_to"), value(finding, "baseline_breaks_at")) == (0.1, 3.0)
    (effect,) = finding.effects
    edge = value(finding, "stable_up_to"), value(finding, "breaks_at")
    assert edge == (effect.stable_up_to, effect.breaks_at) == (0.003, 0.01)


def test_the_edge_is_that_of_the_sweep_that_the_rate_was_taken_from(tmp_path):
    tuned = {"norm": "post", "max_lr": {"best_of": "learning_rate_post_norm"}}
    usual = {"max_lr": {"best_of": "learning_rate"}}
    experiments = {
        "learning_rate": ON_STORIES | RATES,
        "learning_rate_post_norm": ON_STORIES | {"norm": "post"} | RATES,
        "pre_norm_ablation": ON_STORIES | {"runs": {"baseline": usual, "post": tuned}},
    }
    finding = find("pre_norm_ablation", fabricate_study(tmp_path, experiments))
    assert (value(finding, "stable_up_to"), value(finding, "breaks_at")) == (0.02, 3.0)
    assert finding.facts["is_tuned"]


def test_failed_seeds_are_counted_and_the_median_of_the_others_is_compared(tmp_path):
    results = fabricate_study(tmp_path, {"pre_norm_ablation": EXPERIMENTS["pre_norm_ablation"] | {"max_lr": 0.01}})
    change_summary(results, "pre_norm_ablation/post_norm/seed1", status="diverged", validation_loss=None)
    finding = find("pre_norm_ablation", results)
    assert (value(finding, "failed_seeds"), value(finding, "seeds")) == (1, 3)
    # Post-norm changes seed 0 by −0.02 and seed 2 by +0.02.
    assert value(finding, "difference") == pytest.approx(0.0, abs=1e-6)
    assert finding.metrics["difference"].interval is None
    assert finding.facts["outcome"] == "not resolved"
    assert "1 of 3 seeds fails" in render("pre_norm_ablation", finding)["answer"]


def test_a_seed_nearer_to_the_unigram_than_to_the_bigram_loss_failed(tmp_path):
    results = fabricate_study(tmp_path, {"no_pos_emb": ON_STORIES | SEEDS | {"runs": NOPE}})
    fabricate_yardsticks(results, "stories", {409600: {1: 5.2, 2: 3.0}})
    change_summary(results, "no_pos_emb/nope/seed2", validation_loss=4.2)
    finding = find("no_pos_emb", results)
    assert value(finding, "failed_seeds") == 1
    assert value(finding, "validation_loss") == pytest.approx(0.45 * 5.21 + 0.24 - 0.015, abs=1e-6)
    assert value(finding, "bigram_loss") == 3.0


def test_a_variant_whose_seeds_all_fail_has_no_difference(tmp_path):
    results = fabricate_study(tmp_path, {"no_pos_emb": ON_STORIES | SEEDS | {"runs": NOPE}})
    for seed in range(3):
        change_summary(results, f"no_pos_emb/nope/seed{seed}", status="diverged", validation_loss=None)
    finding = find("no_pos_emb", results)
    assert finding.status == "answered"
    assert value(finding, "difference") is None
    assert finding.facts["outcome"] == "diverges"
    assert "no seed learns" in render("no_pos_emb", finding)["answer"]


def test_one_seed_has_no_interval(fabricated):
    finding = find("no_pos_emb", fabricated)
    assert value(finding, "difference") == pytest.approx(0.24)
    assert finding.metrics["difference"].interval is None
    assert finding.facts["outcome"] == "higher", "by the noise of the study's other runs"
    assert not finding.facts["is_tuned"], "the rate is from a sweep of the baseline's model"


def test_models_of_unequal_size_name_the_difference(fabricated, tmp_path):
    equal = find("swiglu_ablation", fabricated)
    assert value(equal, "parameter_difference") == 0
    results = fabricate_study(tmp_path, {"swiglu_ablation": EXPERIMENTS["swiglu_ablation"] | {"max_lr": 0.01}})
    for seed in range(3):
        change_summary(results, f"swiglu_ablation/silu/seed{seed}", parameters=294_970)
    finding = find("swiglu_ablation", results)
    assert value(finding, "parameter_difference") == pytest.approx(-0.1, abs=1e-4)
    blocks = render("swiglu_ablation", finding)
    assert "10 % fewer parameters" in blocks["caveat"] and "equal size" not in blocks["answer"]
    assert "equal size" in render("swiglu_ablation", equal)["answer"]


def test_difference_by_tokens_is_paired_over_seeds(tmp_path):
    results = fabricate_study(tmp_path, {"no_pos_emb": ON_STORIES | SEEDS | {"runs": NOPE}})
    for seed in range(3):
        growing = lambda table: table["validation_loss"] + table["tokens"] / 409_600  # noqa: E731
        change_metrics(results, f"no_pos_emb/nope/seed{seed}", "validation_loss", growing)
    finding = find("no_pos_emb", results)
    (figure,) = finding.figures
    *seeds, line = figure.data.lines
    assert [seed.style for seed in seeds] == ["faint"] * 3
    nope, baseline = (
        list(results.experiment("no_pos_emb").seeds_of(name)[0].validation_losses().values())[1:]
        for name in ("nope", "baseline")
    )
    expected = [changed - usual for changed, usual in zip(nope, baseline, strict=True)]
    assert seeds[0].y == pytest.approx(expected)
    assert line.y[-1] == value(finding, "late_difference") == pytest.approx(1.24, abs=1e-4)
    assert value(finding, "early_tokens") == 40_960
    assert finding.facts["trend"] == "grows"


def test_first_steps_have_the_median_gradient_norm_over_seeds(tmp_path):
    results = fabricate_study(tmp_path, {"layer_norm_ablation": EXPERIMENTS["layer_norm_ablation"] | {"max_lr": 0.01}
        | {"runs": {"baseline": {}, "no_norm": {"norm": "none"}}}})  # fmt: skip
    for seed, norm in enumerate((90.0, 460.0, 120.0)):
        change_metrics(
            results,
            f"layer_norm_ablation/no_norm/seed{seed}",
            "grad_norm",
            lambda table, norm=norm: norm / table["step"].clip(lower=1),
        )
    finding = find("layer_norm_ablation", results)
    assert (value(finding, "largest_grad_norm"), value(finding, "baseline_largest_grad_norm")) == (120.0, 1.0)
    start = finding.figures[0]
    assert (start.id, start.data.log_y) == ("start", True)
    assert [line.variant for line in start.data.lines] == ["baseline", "no_norm"]
    assert max(start.data.lines[1].x) == 40
    assert "reach 120 times" in render("layer_norm_ablation", finding)["start_title"]


@pytest.mark.parametrize(
    ("problem", "runs"),
    [
        ("layer_norm_ablation", {"baseline": {}, "post": {"norm": "post"}}),
        ("no_pos_emb", {"baseline": {}}),
        ("no_pos_emb", {"baseline": {}, "differs_in_more": {"position_embedding": "none", "d_model": 32}}),
    ],
)
def test_an_ablation_without_a_run_that_differs_in_the_ablated_setting_alone_is_missing(tmp_path, problem, runs):
    finding = find_in(tmp_path, problem, ON_STORIES | {"runs": runs})
    assert finding.status == "missing"
    assert finding.reason
    assert not finding.metrics


def test_expectations_have_outcomes(tmp_path):
    expect = {"outcome": "higher", "because": "attention alone is blind to order", "source": "Kazemnejad et al. 2023"}
    runs = {"baseline": {}, "nope": {"position_embedding": "none", "expect": expect}}
    finding = find_in(tmp_path, "no_pos_emb", ON_STORIES | SEEDS | {"runs": runs})
    (expectation,) = finding.expectations
    assert (expectation.expected, expectation.outcome) == ("higher", "higher")
    assert render("no_pos_emb", finding)["outcome"].startswith("A higher loss without RoPE, as expected.")
