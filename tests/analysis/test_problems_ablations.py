"""The four ablations on made-up runs."""

import json
import math

import pytest

from lmpipe.analysis.problems import generic_experiment
from lmpipe.analysis.problems.paired_comparison import compare, describe_seed_ranges
from lmpipe.analysis.problems.run_summary import has_wide_spread
from tests.support.fake_results import EXPERIMENTS, MODEL, change_summary, fabricate_study
from tests.support.findings import ON_STORIES, find, text_of, value


def test_no_norm_is_told_at_the_same_rate_and_tuned(fabricated):
    finding = find("layer_norm_ablation", fabricated)
    assert value(finding, "difference") == pytest.approx(0.31)
    assert (value(finding, "paired_seeds"), value(finding, "diverged_seeds")) == (2, 1)
    assert value(finding, "tuned_variant") == "no_norm_tuned_max_lr=0.003"
    assert value(finding, "tuned_difference") == pytest.approx(0.31 + 0.07 * math.log(0.3) ** 2, abs=1e-5)


def test_without_a_run_without_norms_nothing_is_said_of_one(tmp_path):
    runs = {"baseline": {}, "post": {"norm": "post"}}
    finding = find(
        "layer_norm_ablation", fabricate_study(tmp_path, {"layer_norm_ablation": ON_STORIES | {"runs": runs}})
    )
    assert finding.status == "partial"


def test_the_best_of_the_rates_without_norms_is_set_beside_the_second(tmp_path):
    runs = {"baseline": {}, "none": {"norm": "none", "sweep": {"max_lr": [0.003, 0.01]}}}
    experiment = {"corpus": "stories", "seeds": [0, 1], "runs": runs}
    finding = find("layer_norm_ablation", fabricate_study(tmp_path, {"layer_norm_ablation": experiment}))
    assert value(finding, "variant") == value(finding, "tuned_variant") == "none_max_lr=0.01"


def test_post_norm_is_told_at_the_same_rate_and_tuned(tmp_path):
    runs = {
        "baseline": {},
        "post_norm": {"norm": "post"},
        "post_norm_tuned": {"norm": "post", "sweep": {"max_lr": [0.001, 0.003]}},
    }
    experiment = {"corpus": "stories", "seeds": [0, 1, 2], "runs": runs}
    results = fabricate_study(tmp_path, {"pre_norm_ablation": experiment})
    change_summary(results, "pre_norm_ablation/post_norm/seed1", status="not_learning")
    finding = find("pre_norm_ablation", results)
    assert value(finding, "tuned_variant") == "post_norm_tuned_max_lr=0.003"
    assert value(finding, "tuned_paired_seeds") == 3


def test_an_unresolved_difference_is_called_so(fabricated):
    finding = find("pre_norm_ablation", fabricated)
    assert finding.metrics["difference"].interval == pytest.approx((-0.0497, 0.0497), abs=1e-4)


def test_one_seed_has_no_interval(fabricated):
    finding = find("no_pos_emb", fabricated)
    assert finding.metrics["difference"].interval is None


def test_swiglu_shows_both_parameter_counts(fabricated):
    finding = find("swiglu_ablation", fabricated)
    assert value(finding, "parameters") == value(finding, "baseline_parameters") == 327_744
    sizes = "exactly 327,744 parameters (d_ff 288 without the gate and 192 with it), so the comparison is one of equal"
    assert sizes in text_of(finding)
    assert value(finding, "difference") == pytest.approx(0.064)


def test_parameter_counts_that_differ_are_told_in_percent(tmp_path):
    runs = EXPERIMENTS["swiglu_ablation"]["runs"]
    results = fabricate_study(tmp_path, {"swiglu_ablation": ON_STORIES | {"runs": runs}})
    path = tmp_path / "runs/swiglu_ablation/silu/seed0/summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(summary | {"parameters": 332_988}), encoding="utf-8")
    assert value(find("swiglu_ablation", results), "parameter_difference") == pytest.approx(332_988 / 327_744 - 1)


@pytest.mark.parametrize(
    ("problem", "base", "runs", "words", "pair"),
    [
        (
            "pre_norm_ablation",
            {"norm": "post"},
            {"baseline": {}, "pre_norm": {"norm": "pre"}},
            "With post-norm in place of pre-norm, the final loss is lower by 0.020",
            ("baseline", "pre_norm"),
        ),
        (
            "pre_norm_ablation",
            {},
            {"post": {"norm": "post"}, "pre": {}},
            "With post-norm in place of pre-norm, the final loss is lower by 0.020",
            ("post", "pre"),
        ),
        (
            "no_pos_emb",
            {"position_embedding": "none"},
            {"baseline": {}, "rope": {"position_embedding": "rope"}},
            "Without position embeddings (NoPE in place of RoPE), the final loss is higher by 0.240",
            ("baseline", "rope"),
        ),
        (
            "swiglu_ablation",
            {"feed_forward": "silu", "d_ff": 288},
            {"baseline": {}, "gated": {"feed_forward": "swiglu", "d_ff": 192}},
            "With a plain SiLU in place of SwiGLU, the final loss is higher by 0.060",
            ("baseline", "gated"),
        ),
        (
            "swiglu_ablation",
            {},
            {"wide": {"d_ff": 256}, "baseline": {}, "silu": {"feed_forward": "silu"}},
            "With a plain SiLU in place of SwiGLU, the final loss is higher by 0.060",
            ("silu", "baseline"),
        ),
    ],
)
def test_an_ablation_is_told_by_settings_whatever_the_runs_are_called(tmp_path, problem, base, runs, words, pair):
    finding = find(problem, fabricate_study(tmp_path, {problem: ON_STORIES | {"runs": runs}}, MODEL | base))
    assert finding.sentences[0].startswith(words)
    assert (value(finding, "variant"), value(finding, "baseline")) == pair
    assert finding.status == "answered"


def test_a_variant_that_changes_more_than_the_question_asks_is_told_in_general_words(tmp_path):
    runs = {"baseline": {}, "hot": {"norm": "post", "max_lr": 0.02}, "long": {"total_tokens": 819_200}}
    results = fabricate_study(tmp_path, {"pre_norm_ablation": ON_STORIES | {"runs": runs}})
    finding = find("pre_norm_ablation", results)
    assert finding.status == "partial"
    assert "difference" not in finding.metrics


def test_a_rate_tuned_for_one_side_only_is_said_to_be(fabricated, tmp_path):
    caution = (
        "Both run at the peak rate 0.01, which `learning_rate` tuned for the model of `{}`; at a rate of its own `{}`"
    )
    for problem, variant in (("pre_norm_ablation", "post_norm"), ("no_pos_emb", "nope"), ("swiglu_ablation", "silu")):
        assert caution.format("baseline", variant) in text_of(find(problem, fabricated))
    runs = {"baseline": {}, "rope": {"position_embedding": "rope"}}
    experiments = {
        "learning_rate": EXPERIMENTS["learning_rate"],
        "no_pos_emb": EXPERIMENTS["no_pos_emb"] | {"runs": runs},
    }
    turned = fabricate_study(tmp_path, experiments, MODEL | {"position_embedding": "none"})
    assert caution.format("baseline", "rope") in text_of(find("no_pos_emb", turned)), "the sweep ran without positions"
    experiments["no_pos_emb"]["runs"] = {
        "baseline": {},
        "nope": {"position_embedding": "none", "sweep": {"max_lr": [0.003, 0.01]}},
    }
    finding = find("no_pos_emb", fabricate_study(tmp_path / "several", experiments))
    assert finding.metrics["variant"].value == "nope_max_lr=0.01"
    assert "Both run at the peak rate" not in text_of(finding), "two rates were tried without positions"
    tuned = fabricate_study(
        tmp_path / "own", {"no_pos_emb": ON_STORIES | {"runs": runs}}, MODEL | {"position_embedding": "none"}
    )
    assert "Both run at the peak rate" not in text_of(find("no_pos_emb", tuned))


def test_seeds_that_differ_widely_are_told_by_their_range(tmp_path):
    runs = {"baseline": {}, "post_norm": {"norm": "post"}}
    results = fabricate_study(tmp_path, {"pre_norm_ablation": ON_STORIES | {"seeds": [0, 1, 2], "runs": runs}})
    change_summary(results, "pre_norm_ablation/post_norm/seed1", validation_loss=5.12)
    experiment = results.experiment("pre_norm_ablation")
    assert has_wide_spread(experiment, "post_norm")
    assert not has_wide_spread(experiment, "baseline")
    (words,) = describe_seed_ranges(compare(experiment, "post_norm", "baseline"))
    assert all(number in words for number in ("2.295", "5.120", "5.210"))


def test_only_runs_on_the_same_batches_are_said_to_share_them(tmp_path, fabricated):
    assert value(find("pre_norm_ablation", fabricated), "same_batches") is True
    runs = {"decayed": {"weight_decay": 0.2}, "small": {"batch_size": 8}, "short": {"context_length": 64}}
    results = fabricate_study(tmp_path, {"mine": ON_STORIES | {"runs": {"baseline": {}, **runs}}})
    finding = generic_experiment.analyze(results, "mine")
    assert [value(finding, f"{name}_same_batches") for name in runs] == [True, False, False]


def test_pairing_is_told_by_digests(fabricated, tmp_path):
    assert value(find("pre_norm_ablation", fabricated), "same_initial_weights") == 1
    finding = find("swiglu_ablation", fabricated)
    # Of 4 layers with 4 matrices of 64 x 64 and 2 of 288 x 64, and 2 of 1,024 x 64, the wide ones differ.
    share = (4 * 4 * 64 * 64 + 2 * 1024 * 64) / (4 * (4 * 64 * 64 + 2 * 288 * 64) + 2 * 1024 * 64)
    assert value(finding, "same_initial_weights") == pytest.approx(share)
    assert value(finding, "same_batches") is True
    results = fabricate_study(tmp_path, {"no_pos_emb": EXPERIMENTS["no_pos_emb"] | {"max_lr": 0.01}})
    change_summary(results, "no_pos_emb/nope/seed0", batches_sha256="others")
    finding = find("no_pos_emb", results)
    assert value(finding, "same_batches") is False


def test_a_variant_with_other_tokens_is_compared_in_bits_per_byte_and_one_on_other_text_not_at_all(tmp_path):
    runs = {"baseline": {}, "nope": {"position_embedding": "none", "vocab_size": 512}, "elsewhere": {"corpus": "docs"}}
    results = fabricate_study(tmp_path, {"no_pos_emb": ON_STORIES | {"runs": runs}})
    finding = find("no_pos_emb", results)
    assert finding.status == "partial", "the variant differs in more than the position embedding"
    experiment = results.experiment("no_pos_emb")
    other_tokens = compare(experiment, "nope", "baseline")
    assert (other_tokens.measure, round(other_tokens.difference.mean, 3)) == ("bits_per_byte", 0.211)
    other_text = compare(experiment, "elsewhere", "baseline")
    assert (other_text.measure, other_text.difference) == (None, None)


def test_ablations_find_their_runs_under_other_names(tmp_path):
    runs = {"with_positions": {}, "without": {"position_embedding": "none"}}
    results = fabricate_study(tmp_path, {"no_pos_emb": ON_STORIES | {"runs": runs}})
    finding = find("no_pos_emb", results)
    assert value(finding, "variant") == "without"
    assert value(finding, "difference") == pytest.approx(0.24)


def test_an_ablation_with_a_baseline_only_is_partial(tmp_path):
    results = fabricate_study(tmp_path, {"no_pos_emb": ON_STORIES | {"runs": {"baseline": {}}}})
    finding = find("no_pos_emb", results)
    assert finding.status == "partial"


def test_a_variant_that_always_diverges_is_a_result(tmp_path):
    runs = {"baseline": {}, "nope": {"position_embedding": "none"}}
    results = fabricate_study(tmp_path, {"no_pos_emb": ON_STORIES | {"runs": runs}})
    change_summary(results, "no_pos_emb/nope/seed0", status="diverged", diverged_step=9)
    finding = find("no_pos_emb", results)
    assert finding.status == "answered"
    assert value(finding, "difference") is None
