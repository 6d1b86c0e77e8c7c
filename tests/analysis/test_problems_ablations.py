"""The four ablations on made-up runs."""

import math

import pytest

from lmpipe.analysis.problems import generic_experiment, no_pos_emb
from lmpipe.analysis.problems.ablation import rate_sentences
from lmpipe.analysis.problems.paired_comparison import compare, describe_seed_ranges
from lmpipe.analysis.problems.run_summary import has_wide_spread
from tests.support.fake_results import EXPERIMENTS, MODEL, change_summary, fabricate_study
from tests.support.findings import ON_STORIES, code_spans, find, find_in, value

NOPE = {"baseline": {}, "nope": {"position_embedding": "none"}}
ROPE = {"baseline": {}, "rope": {"position_embedding": "rope"}}


def test_no_norm_is_compared_at_the_same_rate_and_tuned(fabricated):
    finding = find("layer_norm_ablation", fabricated)
    assert value(finding, "difference") == pytest.approx(0.31)
    assert (value(finding, "paired_seeds"), value(finding, "diverged_seeds")) == (2, 1)
    assert value(finding, "tuned_variant") == "no_norm_tuned_max_lr=0.003"
    assert value(finding, "tuned_difference") == pytest.approx(0.31 + 0.07 * math.log(0.3) ** 2, abs=1e-5)


def test_the_baselines_rate_may_be_the_best_of_the_variant(tmp_path):
    runs = {"baseline": {}, "none": {"norm": "none", "sweep": {"max_lr": [0.003, 0.01]}}}
    finding = find_in(tmp_path, "layer_norm_ablation", ON_STORIES | {"seeds": [0, 1], "runs": runs})
    assert value(finding, "variant") == value(finding, "tuned_variant") == "none_max_lr=0.01"


def test_post_norm_is_compared_at_the_same_rate_and_tuned(tmp_path):
    runs = {
        "baseline": {},
        "post_norm": {"norm": "post"},
        "post_norm_tuned": {"norm": "post", "sweep": {"max_lr": [0.001, 0.003]}},
    }
    results = fabricate_study(tmp_path, {"pre_norm_ablation": ON_STORIES | {"seeds": [0, 1, 2], "runs": runs}})
    change_summary(results, "pre_norm_ablation/post_norm/seed1", status="not_learning")
    finding = find("pre_norm_ablation", results)
    assert value(finding, "tuned_variant") == "post_norm_tuned_max_lr=0.003"
    assert value(finding, "tuned_paired_seeds") == 3


@pytest.mark.parametrize(
    ("problem", "runs"),
    [("layer_norm_ablation", {"baseline": {}, "post": {"norm": "post"}}), ("no_pos_emb", {"baseline": {}})],
)
def test_an_ablation_without_the_ablated_setting_is_partial(tmp_path, problem, runs):
    finding = find_in(tmp_path, problem, ON_STORIES | {"runs": runs})
    assert finding.status == "partial"
    assert "difference" not in finding.metrics


def test_differences_have_an_interval_over_several_seeds_alone(fabricated):
    several, single = (
        find(problem, fabricated).metrics["difference"] for problem in ("pre_norm_ablation", "no_pos_emb")
    )
    assert several.interval == pytest.approx((-0.0497, 0.0497), abs=1e-4)
    assert single.interval is None


def test_swiglu_is_compared_at_equal_size(fabricated, tmp_path):
    finding = find("swiglu_ablation", fabricated)
    assert value(finding, "parameters") == value(finding, "baseline_parameters") == 327_744
    assert value(finding, "difference") == pytest.approx(0.064)
    runs = EXPERIMENTS["swiglu_ablation"]["runs"]
    results = fabricate_study(tmp_path, {"swiglu_ablation": ON_STORIES | {"runs": runs}})
    change_summary(results, "swiglu_ablation/silu/seed0", parameters=332_988)
    assert value(find("swiglu_ablation", results), "parameter_difference") == pytest.approx(332_988 / 327_744 - 1)


@pytest.mark.parametrize(
    ("problem", "base", "runs", "variant", "baseline", "difference"),
    [
        ("pre_norm_ablation", {"norm": "post"}, {"baseline": {}, "pre": {"norm": "pre"}}, "baseline", "pre", -0.02),
        ("pre_norm_ablation", {}, {"post": {"norm": "post"}, "pre": {}}, "post", "pre", -0.02),
        ("no_pos_emb", {"position_embedding": "none"}, ROPE, "baseline", "rope", 0.24),
        ("no_pos_emb", {}, {"with": {}, "without": {"position_embedding": "none"}}, "without", "with", 0.24),
        (
            "swiglu_ablation",
            {"feed_forward": "silu", "d_ff": 288},
            {"baseline": {}, "gated": {"feed_forward": "swiglu", "d_ff": 192}},
            "baseline",
            "gated",
            0.06,
        ),
        (
            "swiglu_ablation",
            {},
            {"wide": {"d_ff": 256}, "baseline": {}, "silu": {"feed_forward": "silu"}},
            "silu",
            "baseline",
            0.06,
        ),
    ],
)
def test_an_ablation_depends_on_settings_and_not_on_names(tmp_path, problem, base, runs, variant, baseline, difference):
    finding = find_in(tmp_path, problem, ON_STORIES | {"runs": runs}, model=MODEL | base)
    assert (value(finding, "variant"), value(finding, "baseline")) == (variant, baseline)
    assert value(finding, "difference") == pytest.approx(difference)
    assert finding.status == "answered"


def test_a_variant_that_differs_in_more_than_the_ablated_setting_does_not_answer(tmp_path):
    runs = {"baseline": {}, "hot": {"norm": "post", "max_lr": 0.02}, "long": {"total_tokens": 819_200}}
    finding = find_in(tmp_path, "pre_norm_ablation", ON_STORIES | {"runs": runs})
    assert finding.status == "partial"
    assert "difference" not in finding.metrics


@pytest.mark.parametrize(("position_embedding", "runs"), [("rope", NOPE), ("none", ROPE)])
def test_a_rate_that_was_tuned_for_one_side_is_reported(tmp_path, position_embedding, runs):
    experiments = {
        "learning_rate": EXPERIMENTS["learning_rate"],
        "no_pos_emb": EXPERIMENTS["no_pos_emb"] | {"runs": runs},
    }
    results = fabricate_study(tmp_path, experiments, MODEL | {"position_embedding": position_embedding})
    baseline, variant = runs
    comparison = compare(results.experiment("no_pos_emb"), variant, baseline)
    (sentence,) = rate_sentences(results, no_pos_emb.SPEC, comparison)
    assert code_spans(sentence) == ["learning_rate", baseline, variant]


def test_rates_that_were_tuned_for_both_sides_or_for_none_are_not_reported(tmp_path):
    tuned = {"baseline": {}, "nope": {"position_embedding": "none", "sweep": {"max_lr": [0.003, 0.01]}}}
    experiments = {
        "learning_rate": EXPERIMENTS["learning_rate"],
        "no_pos_emb": EXPERIMENTS["no_pos_emb"] | {"runs": tuned},
    }
    for name, study, variant in (
        ("both", experiments, "nope_max_lr=0.01"),
        ("none", {"no_pos_emb": ON_STORIES | {"runs": NOPE}}, "nope"),
    ):
        results = fabricate_study(tmp_path / name, study)
        comparison = compare(results.experiment("no_pos_emb"), variant, "baseline")
        assert rate_sentences(results, no_pos_emb.SPEC, comparison) == []


def test_seeds_that_differ_widely_are_reported_by_their_range(tmp_path):
    runs = {"baseline": {}, "post_norm": {"norm": "post"}}
    results = fabricate_study(tmp_path, {"pre_norm_ablation": ON_STORIES | {"seeds": [0, 1, 2], "runs": runs}})
    change_summary(results, "pre_norm_ablation/post_norm/seed1", validation_loss=5.12)
    experiment = results.experiment("pre_norm_ablation")
    assert has_wide_spread(experiment, "post_norm")
    assert not has_wide_spread(experiment, "baseline")
    (description,) = describe_seed_ranges(compare(experiment, "post_norm", "baseline"))
    assert all(number in description for number in ("2.295", "5.120", "5.210"))


def test_only_runs_with_the_same_batches_share_them(tmp_path, fabricated):
    assert value(find("pre_norm_ablation", fabricated), "same_batches") is True
    runs = {"decayed": {"weight_decay": 0.2}, "small": {"batch_size": 8}, "short": {"context_length": 64}}
    results = fabricate_study(tmp_path, {"mine": ON_STORIES | {"runs": {"baseline": {}, **runs}}})
    finding = generic_experiment.analyze(results, "mine")
    assert [value(finding, f"{name}_same_batches") for name in runs] == [True, False, False]


def test_pairing_follows_from_digests(fabricated, tmp_path):
    assert value(find("pre_norm_ablation", fabricated), "same_initial_weights") == 1
    finding = find("swiglu_ablation", fabricated)
    # Of 4 layers with 4 matrices of 64 x 64 and 2 of 288 x 64, and 2 of 1,024 x 64, the wide ones differ.
    share = (4 * 4 * 64 * 64 + 2 * 1024 * 64) / (4 * (4 * 64 * 64 + 2 * 288 * 64) + 2 * 1024 * 64)
    assert value(finding, "same_initial_weights") == pytest.approx(share)
    assert value(finding, "same_batches") is True
    results = fabricate_study(tmp_path, {"no_pos_emb": EXPERIMENTS["no_pos_emb"] | {"max_lr": 0.01}})
    change_summary(results, "no_pos_emb/nope/seed0", batches_sha256="others")
    assert value(find("no_pos_emb", results), "same_batches") is False


def test_other_tokens_compare_in_bits_per_byte_and_other_texts_not_at_all(tmp_path):
    runs = {"baseline": {}, "nope": {"position_embedding": "none", "vocab_size": 512}, "elsewhere": {"corpus": "docs"}}
    results = fabricate_study(tmp_path, {"no_pos_emb": ON_STORIES | {"runs": runs}})
    assert find("no_pos_emb", results).status == "partial", "the variant differs in more than the position embedding"
    experiment = results.experiment("no_pos_emb")
    other_tokens = compare(experiment, "nope", "baseline")
    assert (other_tokens.measure, round(other_tokens.difference.mean, 3)) == ("bits_per_byte", 0.211)
    other_text = compare(experiment, "elsewhere", "baseline")
    assert (other_text.measure, other_text.difference) == (None, None)


def test_a_variant_that_always_diverges_is_a_result(tmp_path):
    results = fabricate_study(tmp_path, {"no_pos_emb": ON_STORIES | {"runs": NOPE}})
    change_summary(results, "no_pos_emb/nope/seed0", status="diverged", detected_step=9)
    finding = find("no_pos_emb", results)
    assert finding.status == "answered"
    assert value(finding, "difference") is None
