import json
import math
import re

import numpy
import pytest
import yaml
from fabricate import (
    CORPORA,
    EXPERIMENTS,
    MODEL,
    change_summary,
    fabricate_measurements,
    fabricate_study,
    speed_of,
)
from test_compression import make_results
from test_problem_generate import samples_of

from lmpipe.compression import compare_tokenizers
from lmpipe.files import write_json
from lmpipe.plan import load_plan
from lmpipe.problems import Finding, entry, general_experiment, module_of
from lmpipe.problems.batch_size_experiment import loss_at
from lmpipe.problems.learning_rate import parabola_minimum
from lmpipe.problems.reference import beside_write_up, corpus_in_words, write_up
from lmpipe.results import Results

IDS = (
    "learning_rate",
    "batch_size_experiment",
    "layer_norm_ablation",
    "pre_norm_ablation",
    "no_pos_emb",
    "swiglu_ablation",
    "main_experiment",
)


ALONE = {"corpus": "stories"}


def find(problem: str, results: Results) -> Finding:
    return module_of(problem).find(results)


def said(finding: Finding) -> str:
    return " ".join(finding.sentences)


def value(finding: Finding, name: str):
    return finding.figures[name].value


@pytest.mark.parametrize("problem", [*IDS, "experiment_log"])
def test_every_finding_is_answered_from_its_figures_and_fits_into_json(fabricated, problem):
    finding = find(problem, fabricated)
    module = module_of(problem)
    assert finding.status == "answered"
    assert problem == module.ID
    assert module.QUESTION.endswith("?")
    assert all(sentence.endswith((".", "`")) for sentence in finding.sentences), finding.sentences
    assert not re.search(r"\b(None|nan|inf)\b", said(finding))
    assert all(figure.source for figure in finding.figures.values())
    assert all(figure.reason for figure in finding.figures.values() if figure.value is None)
    json.dumps(entry(problem, module.TITLE, module.QUESTION, finding, fabricated), allow_nan=False)


@pytest.mark.parametrize("problem", IDS)
def test_a_missing_experiment_is_absent_with_lines_that_the_study_accepts(tmp_path, problem):
    results = fabricate_study(tmp_path, {"learning_rate" if problem != "learning_rate" else "other": ALONE})
    finding = find(problem, results)
    assert finding.status == "absent"
    (lines,) = re.findall("`(.*)`", finding.sentences[0])
    experiments = results.study["experiments"] | yaml.safe_load(lines)
    plan = load_plan(results.study | {"experiments": experiments}, "the study with the lines added")
    assert len(plan.runs_of[problem]) >= 2


def test_learning_rate_tells_the_best_rate_and_the_edge_of_stability(fabricated):
    finding = find("learning_rate", fabricated)
    assert value(finding, "best_max_lr") == 0.01
    assert value(finding, "best_validation_loss") == pytest.approx(0.45 * 5.21 - 0.03, abs=1e-6)
    assert (value(finding, "largest_finished_max_lr"), value(finding, "smallest_diverged_max_lr")) == (0.1, 3.0)
    assert value(finding, "edge_ratio") == pytest.approx(30)
    assert finding.sentences[0].startswith("The best peak learning rate of the grid is 0.01: ")
    assert "a grid of 6 rates from 0.001 to 3" in said(finding)
    assert "Of these rates 5 finished and 1 diverged." in said(finding)
    assert "`max_lr=3.0` (seed 0) at step 66 of 200" in said(finding)
    assert "told but not used" in said(finding)


def test_the_interpolated_optimum_is_the_vertex_that_numpy_finds():
    rates, losses = [0.003, 0.01, 0.02], [2.4, 2.3, 2.35]
    a, b, c = numpy.polyfit(numpy.log(rates), losses, 2)
    rate, lowest = parabola_minimum(rates, losses)
    assert math.log(rate) == pytest.approx(-b / (2 * a), rel=1e-9)
    assert lowest == pytest.approx(c - b * b / (4 * a), rel=1e-9)


def test_several_seeds_give_the_optimum_an_interval(tmp_path):
    sweep = {"corpus": "stories", "seeds": [0, 1, 2], "vary": {"max_lr": [0.003, 0.01, 0.03]}}
    finding = find("learning_rate", fabricate_study(tmp_path, {"learning_rate": sweep}))
    low, high = finding.figures["interpolated_max_lr"].interval
    assert low <= value(finding, "interpolated_max_lr") <= high
    assert "mean of 3 seeds" in finding.sentences[0]
    assert "No rate of the grid diverged" in said(finding)
    assert value(finding, "smallest_diverged_max_lr") is None


def test_the_optimum_of_one_seed_ranges_over_fits_that_leave_out_a_rate(tmp_path, fabricated):
    finding = find("learning_rate", fabricated)
    # The made-up losses lie on a parabola, whichever rates are left out.
    assert value(finding, "interpolated_max_lr_lowest") == pytest.approx(0.01, rel=1e-5)
    assert value(finding, "interpolated_max_lr_highest") == pytest.approx(0.01, rel=1e-5)
    assert finding.figures["interpolated_max_lr"].interval is None
    assert "minimum at 0.01 (0.01 to 0.01 when each nearby rate in turn is left out of the fit), with" in said(finding)
    assert value(finding, "finished_to_interpolated_ratio") == pytest.approx(10, rel=1e-5)
    assert value(finding, "diverged_to_interpolated_ratio") == pytest.approx(300, rel=1e-5)
    assert "The edge of stability lies a factor of 10 to 300 above this optimum." in said(finding)
    rates, losses = (0.003, 0.01, 0.03, 0.1), (2.6, 2.4, 2.45, 2.7)
    results = fabricate_study(tmp_path, {"learning_rate": {"corpus": "stories", "vary": {"max_lr": list(rates)}}})
    for rate, loss in zip(rates, losses, strict=True):
        change_summary(results, f"learning_rate/max_lr={rate}/seed0", validation_loss=loss)
    finding = find("learning_rate", results)
    kept = [[place for place in range(4) if place != out] for out in range(4)]
    minima = [parabola_minimum([rates[i] for i in three], [losses[i] for i in three])[0] for three in kept]
    ends = [value(finding, f"interpolated_max_lr_{end}") for end in ("lowest", "highest")]
    assert ends == pytest.approx([min(minima), max(minima)])
    assert ends[0] < value(finding, "interpolated_max_lr") < ends[1]


def test_three_rates_are_too_few_to_leave_one_out(tmp_path):
    sweep = {"corpus": "stories", "vary": {"max_lr": [0.003, 0.01, 0.03]}}
    finding = find("learning_rate", fabricate_study(tmp_path, {"learning_rate": sweep}))
    assert value(finding, "interpolated_max_lr_lowest") is None
    assert "fewer than four rates" in finding.figures["interpolated_max_lr_highest"].reason
    assert "left out of the fit" not in said(finding)
    assert value(finding, "diverged_to_interpolated_ratio") is None


def test_a_seed_whose_minimum_lies_beyond_the_bracket_leaves_no_interval(tmp_path):
    sweep = {"corpus": "stories", "seeds": [0, 1], "vary": {"max_lr": [0.001, 0.01, 0.1]}}
    results = fabricate_study(tmp_path, {"learning_rate": sweep})
    for seed, losses in enumerate([(3.0, 2.9, 2.80002), (3.0, 2.5, 2.9)]):
        for rate, loss in zip((0.001, 0.01, 0.1), losses, strict=True):
            change_summary(results, f"learning_rate/max_lr={rate}/seed{seed}", validation_loss=loss)
    finding = find("learning_rate", results)
    assert 0.001 < value(finding, "interpolated_max_lr") < 0.1
    assert finding.figures["interpolated_max_lr"].interval is None
    assert parabola_minimum([0.001, 0.01, 0.1], [3.0, 2.9, 2.80002])[0] == pytest.approx(0.1)


def test_a_best_rate_at_the_edge_of_the_grid_is_told_and_not_interpolated(tmp_path):
    sweep = {"corpus": "stories", "vary": {"max_lr": [0.001, 0.003, 0.01, 3.0]}}
    finding = find("learning_rate", fabricate_study(tmp_path, {"learning_rate": sweep}))
    assert value(finding, "interpolated_max_lr") is None
    assert "and 3 diverged" in said(finding)
    narrow = {"corpus": "stories", "vary": {"max_lr": [0.001, 0.003]}}
    finding = find("learning_rate", fabricate_study(tmp_path / "narrow", {"learning_rate": narrow}))
    assert "at the upper edge of the grid" in said(finding)


def test_a_sweep_without_a_finished_run_is_partial(tmp_path):
    wild = {"corpus": "stories", "vary": {"max_lr": [3.0, 4.0]}}
    finding = find("learning_rate", fabricate_study(tmp_path, {"learning_rate": wild}))
    assert finding.status == "partial"
    assert value(finding, "best_max_lr") is None
    ends = "No rate finished with every seed (3 diverged and 4 diverged), so the edge of stability lies below 3."
    assert ends in finding.sentences


def stuck(results: Results, *runs: str) -> None:
    """Make runs end as stuck."""
    for run in runs:
        change_summary(results, run, status="stuck")


def test_stuck_rates_are_not_taken_for_finished_or_diverged_ones(tmp_path):
    sweep = {"learning_rate": {"corpus": "stories", "vary": {"max_lr": [0.0001, 0.01, 3.0]}}}
    results = fabricate_study(tmp_path / "between", sweep)
    stuck(results, "learning_rate/max_lr=0.0001/seed0")
    change_summary(results, "learning_rate/max_lr=0.01/seed0", status="diverged", diverged_step=9)
    ends = "(0.0001 got stuck, 0.01 diverged and 3 diverged), so the edge of stability lies below 0.01."
    assert ends in said(find("learning_rate", results))
    calm = {"learning_rate": {"corpus": "stories", "vary": {"max_lr": [0.001, 0.01, 0.1]}}}
    results = fabricate_study(tmp_path / "above", calm)
    stuck(results, "learning_rate/max_lr=0.1/seed0")
    above = "lies above 0.01, the largest that finished (beyond it, 0.1 got stuck); add larger rates to find it."
    assert above in said(find("learning_rate", results))
    results = fabricate_study(tmp_path / "nowhere", calm)
    stuck(results, *(f"learning_rate/max_lr={rate}/seed0" for rate in (0.001, 0.01, 0.1)))
    assert "so the edge of stability is not to be seen in this grid." in said(find("learning_rate", results))


def test_a_rate_that_diverged_with_one_seed_of_three_is_said_to(tmp_path):
    sweep = {"corpus": "stories", "seeds": [0, 1, 2], "vary": {"max_lr": [0.003, 0.01, 0.03]}}
    results = fabricate_study(tmp_path, {"learning_rate": sweep})
    change_summary(results, "learning_rate/max_lr=0.03/seed1", status="diverged", diverged_step=9)
    finding = find("learning_rate", results)
    assert "0.03 diverged with 1 of 3 seeds." in said(finding)
    assert "and 0.03, the smallest that diverged with 1 of 3 seeds, which" in said(finding)


def test_what_varies_beside_the_rate_is_named(tmp_path):
    sweep = {"corpus": "stories", "vary": {"max_lr": [0.003, 0.01, 0.03], "batch_size": [16, 32]}}
    finding = find("learning_rate", fabricate_study(tmp_path, {"learning_rate": sweep}))
    assert "all else equal" not in said(finding)
    assert "the best of its runs, which differ in batch_size, stands for it" in said(finding)


def test_the_best_is_set_beside_the_second_over_seeds(tmp_path, fabricated):
    assert find("learning_rate", fabricated).sentences[0].endswith("; with one seed each, the ranking is untested.")
    sweep = {"corpus": "stories", "seeds": [0, 1, 2], "vary": {"max_lr": [0.003, 0.01, 0.03]}}
    results = fabricate_study(tmp_path, {"learning_rate": sweep})
    for seed, loss in enumerate((2.2, 2.6, 2.4)):
        change_summary(results, f"learning_rate/max_lr=0.003/seed{seed}", validation_loss=loss)
    best = find("learning_rate", results).sentences[0]
    unresolved = "is not resolved with 3 seeds (95 % interval −0.409 to +0.520 nats per token)."
    assert best.endswith(f"; the difference from the second, 0.003, {unresolved}"), "0.03 is told apart"
    results = fabricate_study(tmp_path, {"learning_rate": sweep})
    best = find("learning_rate", results).sentences[0]
    assert re.search(r"; the second, 0.03, ends higher by 0.084 nats per token \(95 % interval .*, 3 seeds\)", best)


def test_nothing_is_the_best_across_corpora(tmp_path):
    runs = {corpus: {"corpus": corpus, "vary": {"max_lr": [0.003, 0.01]}} for corpus in CORPORA}
    experiments = {name: {"runs": runs} for name in ("learning_rate", "batch_size_experiment", "mine")}
    results = fabricate_study(tmp_path, experiments)
    for problem in ("learning_rate", "batch_size_experiment"):
        finding = find(problem, results)
        assert finding.status == "partial"
        assert "The runs are on stories and docs, whose losses do not compare" in finding.sentences[0]
        assert "best" not in finding.figures
        assert all("lowest" not in plot.alt for plot in finding.plots)
    finding = general_experiment.find(results, "mine")
    assert finding.sentences[0].startswith("On stories, the best of 2 runs is `stories_max_lr=0.01` with 2.314 nats")
    assert finding.sentences[1].startswith("On docs, the best of 2 runs is `docs_max_lr=0.01` with 2.963 nats")
    assert value(finding, "docs_best_run") == "docs_max_lr=0.01"


def test_a_sweep_over_tokenizers_is_ranked_in_bits_per_byte(tmp_path):
    sweep = {"corpus": "stories", "vary": {"max_lr": [0.003, 0.01, 0.03], "vocab_size": [512, 1024, 4096]}}
    finding = find("learning_rate", fabricate_study(tmp_path, {"learning_rate": sweep}))
    assert "(perplexity 12.36, 0.7119 bits per byte)" in finding.sentences[0], "the fewest, with 4096 ids"
    assert "0.003 ends at 0.7406 bits per byte" in said(finding)
    assert "compared in bits per byte" in said(finding)
    assert "the lowest final value is 0.7119 bits per byte, of max_lr=0.01_vocab_size=4096" in finding.plots[0].alt


def test_batch_size_compares_at_equal_tokens_and_at_equal_time(fabricated):
    finding = find("batch_size_experiment", fabricated)
    assert (value(finding, "best_batch_size"), value(finding, "fastest_batch_size")) == (16, 64)
    assert value(finding, "batch_4_tokens_per_second") == pytest.approx(16_000 / 1.75, rel=1e-4)
    assert value(finding, "equal_time_seconds") == pytest.approx(26.8)
    assert value(finding, "enough_batch_size") == 64, "16 has 88 % of its speed, 4 has 60 %"
    assert "4,000 with 1, 9,143 with 4, 13,474 with 16 and 15,284 with 64; the fastest is 64." in said(finding)
    assert "each size at the best of its own rates" in finding.sentences[0]
    assert finding.sentences[0].endswith("; with one seed each, the ranking is untested.")
    assert "Tokens per second, of steps timed alone on the machine: 4,000 with 1" in said(finding)
    assert "shared the machine" not in said(finding)
    assert "For batch sizes 1, 4 and 64 the best rate lies at the edge" in said(finding)
    sizes = finding.tables[0]
    assert [row[0] for row in sizes.rows] == [1, 4, 16, 64]


def timed(results: Results, speeds: dict[int, tuple[float, ...]]) -> Finding:
    """The finding on batch sizes whose runs, in the order of their rates, had these speeds."""
    for size, measured in speeds.items():
        for factor, speed in zip((0.5, 1.0, 2.0), measured, strict=True):
            run = f"batch_size_experiment/batch_size={size}_max_lr=sqrt_rule-{factor}/seed0"
            change_summary(results, run, tokens_per_second=speed)
    return find("batch_size_experiment", results)


def test_speeds_whose_ranges_overlap_are_not_told_apart(tmp_path):
    chosen = {name: EXPERIMENTS[name] for name in ("learning_rate", "batch_size_experiment")}
    slow = {1: (900.0, 1100.0, 1000.0), 4: (4000.0, 4100.0, 4200.0)}
    results = fabricate_study(tmp_path / "overlap", chosen)
    finding = timed(results, slow | {16: (5000.0, 8000.0, 9000.0), 64: (8900.0, 9500.0, 9100.0)})
    ranges = "900 to 1,100 with 1, 4,000 to 4,200 with 4, 5,000 to 9,000 with 16 and 8,900 to 9,500 with 64"
    assert f"{ranges}; the ranges of 16 and 64 overlap, so which of them is the fastest is not told apart." in said(
        finding
    )
    assert value(finding, "fastest_batch_size") is value(finding, "enough_batch_size") is None
    assert "batch sizes 16 and 64 overlap" in finding.figures["fastest_batch_size"].reason
    assert finding.tables[0].rows[2][-3:] == [5000, 9000, "in runs"]
    assert finding.status == "partial", "no size was timed alone"
    results = fabricate_study(tmp_path / "apart", chosen)
    finding = timed(results, slow | {16: (8900.0, 9000.0, 8800.0), 64: (9100.0, 9200.0, 9300.0)})
    assert value(finding, "fastest_batch_size") == 64
    assert "the fastest is 64, but 16 already reaches 96.7 % of its speed." in said(finding)


def test_losses_at_equal_time_range_over_the_speeds(tmp_path):
    chosen = {name: EXPERIMENTS[name] for name in ("learning_rate", "batch_size_experiment")}
    results = fabricate_study(tmp_path, chosen)
    noisy = dict.fromkeys((1, 4, 16), (2000.0, 8000.0, 5000.0)) | {64: (8100.0, 8200.0, 8192.0)}
    finding = timed(results, noisy)
    assert value(finding, "equal_time_seconds") == pytest.approx(409_600 / 8200, rel=1e-3)
    run = results.experiment("batch_size_experiment").seeds_of("batch_size=16_max_lr=sqrt_rule-1.0")[0]
    slowest, fastest = (loss_at(run, speed * value(finding, "equal_time_seconds")) for speed in (2000, 8000))
    assert finding.tables[0].rows[2][5:7] == [slowest, fastest]
    assert slowest > fastest + 0.5
    assert f"{fastest:.3f} to {slowest:.3f} with 16" in said(finding)
    assert "are not told apart, so it is open from where on more stops paying. Schedules of slower" in said(finding)
    assert value(finding, "paying_batch_size") is None


def test_more_stops_paying_where_no_larger_batch_is_ahead_at_equal_time(fabricated, tmp_path):
    finding = find("batch_size_experiment", fabricated)
    assert value(finding, "paying_batch_size") == 16
    beyond = "batch size 16 is ahead (with one seed each, the ranking is untested): up to that size a larger batch pays"
    assert beyond in said(finding)
    seconds = 409_600 / speed_of(64)
    for size in (1, 4, 16, 64):
        best = next(run for run in finding.tables[0].rows if run[0] == size)
        experiment = fabricated.experiment("batch_size_experiment")
        run = next(run for run in experiment.runs if run.setting("batch_size") == size and run.loss == best[4])
        assert value(finding, f"batch_{size}_loss_at_equal_time") == best[5] == loss_at(run, seconds * speed_of(size))
    experiment = {"corpus": "stories", "vary": {"batch_size": [4, 16], "max_lr": [0.005, 0.01]}}
    results = fabricate_study(tmp_path / "up", {"batch_size_experiment": experiment})
    fabricate_measurements(tmp_path / "up", speeds={4: 1000.0, 8: 2000.0, 16: 4000.0})
    assert "the largest that was tried, so more may still pay" in said(find("batch_size_experiment", results))
    results = fabricate_study(tmp_path / "down", {"batch_size_experiment": experiment})
    fabricate_measurements(tmp_path / "down", speeds={4: 1000.0, 16: 100.0})
    assert "the smallest that was tried: no larger batch pays" in said(find("batch_size_experiment", results))


def test_seeds_tell_who_is_ahead_at_equal_time(tmp_path):
    experiment = {"corpus": "stories", "seeds": [0, 1, 2], "vary": {"batch_size": [4, 16], "max_lr": [0.005, 0.01]}}
    results = fabricate_study(tmp_path, {"batch_size_experiment": experiment})
    fabricate_measurements(tmp_path, speeds={4: 1000.0, 16: 1000.0})
    finding = find("batch_size_experiment", results)
    # At equal speeds the same tokens are compared; each seed shifts both sizes alike.
    assert "batch size 16 is ahead (the second, 4, ends higher by 0.160 nats per token (95 % interval" in said(finding)
    assert value(finding, "equal_time_seconds") == pytest.approx(409.6)


def test_what_fits_is_told_from_steps_timed_alone(fabricated, tmp_path):
    finding = find("batch_size_experiment", fabricated)
    assert (value(finding, "largest_tried_batch_size"), value(finding, "largest_batch_size")) == (64, 256)
    assert value(finding, "predicted_largest_batch_size") == 999
    told = "64 sequences are the largest doubling that was tried, since the measurement's time was over"
    assert told in said(finding)
    assert [row[0] for row in finding.tables[1].rows] == [1, 2, 4, 8, 16, 32, 64]
    chosen = {"batch_size_experiment": {"corpus": "stories", "vary": {"batch_size": [4, 16]}}}
    results = fabricate_study(tmp_path, chosen)
    finding = find("batch_size_experiment", results)
    assert finding.status == "partial"
    assert "run the rule measure_batch_sizes" in said(finding)
    assert finding.figures["largest_batch_size"].reason == "no batch size of this model has been timed alone"
    fabricate_measurements(tmp_path, MODEL | {"d_model": 128})
    assert find("batch_size_experiment", results).status == "partial", "another model was timed"


def test_sizes_that_were_not_timed_alone_are_named(tmp_path):
    results = fabricate_study(tmp_path, {"batch_size_experiment": ALONE | {"vary": {"batch_size": [4, 16, 64]}}})
    fabricate_measurements(tmp_path, speeds={4: 5000.0, 8: 6000.0, 16: 7000.0})
    finding = find("batch_size_experiment", results)
    assert finding.status == "partial"
    words = (
        "Tokens per second, of steps timed alone on the machine (with 64, which had none, inside the runs): 5,000 with"
    )
    assert words in said(finding)
    assert "A run took 1 of 2 cores and shared the machine" in said(finding)


def test_best_rates_that_follow_the_square_root_have_its_exponent(tmp_path):
    vary = {"batch_size": [4, 16, 64], "max_lr": {"best_of": "learning_rate", "sqrt_rule": [0.5, 1, 2]}}
    chosen = {"learning_rate": EXPERIMENTS["learning_rate"], "batch_size_experiment": ALONE | {"vary": vary}}
    results = fabricate_study(tmp_path, chosen)
    for size in (4, 16, 64):
        change_summary(
            results, f"batch_size_experiment/batch_size={size}_max_lr=sqrt_rule-1.0/seed0", validation_loss=2.0
        )
    finding = find("batch_size_experiment", results)
    assert value(finding, "best_max_lr_exponent") == pytest.approx(0.5)
    assert "The best rates are 0.005 with 4, 0.01 with 16 and 0.02 with 64: " in said(finding)
    assert "That leaves 800 optimizer steps with batch size 4 and 50 with 64." in said(finding)


def test_batch_sizes_without_rates_of_their_own_are_said_to_be_untuned(tmp_path):
    def told(name, **changes):
        experiment = {"corpus": "stories", **changes}
        return find("batch_size_experiment", fabricate_study(tmp_path / name, {"batch_size_experiment": experiment}))

    one = told("one rate", vary={"batch_size": [8, 32]})
    assert "nats per token, all at the rate 0.01, tuned for none of them, against" in one.sentences[0]
    runs = {"few": {"batch_size": 8}, "many": {"batch_size": 32, "vary": {"max_lr": [0.01, 0.02]}}}
    assert "with rates tuned for each size but 8, which had a single one" in told("some", runs=runs).sentences[0]
    runs = {"few": {"batch_size": 8}, "many": {"batch_size": 32, "total_tokens": 819_200}}
    assert told("lengths", runs=runs).sentences[0].startswith("With the tokens that each was given, batch size")
    alone = told("alone", vary={"max_lr": [0.003, 0.01]})
    assert alone.sentences[0].startswith("Only batch size 16 was run, so there is no comparison; it ends at 2.31")
    assert alone.status == "partial"


def test_the_loss_after_some_tokens_lies_between_the_evaluations_around_them(fabricated):
    run = fabricated.experiment("learning_rate").runs[2]
    (_, _), (early, first), (late, second), *_ = run.validation_curve("tokens")
    assert loss_at(run, (early + late) / 2) == pytest.approx((first + second) / 2)
    assert loss_at(run, 1e9) == run.validation_curve()[-1][1]
    assert loss_at(run, -1.0) is None


def test_no_norm_is_told_at_the_same_rate_and_tuned(fabricated):
    finding = find("layer_norm_ablation", fabricated)
    assert "at the baseline's own peak rate (0.01)" in finding.sentences[0]
    assert finding.sentences[0].endswith("1 of 3 seeds diverged.")
    assert value(finding, "difference") == pytest.approx(0.31)
    assert (value(finding, "paired_seeds"), value(finding, "diverged_seeds")) == (2, 1)
    assert value(finding, "tuned_variant") == "no_norm_tuned_max_lr=0.003"
    assert value(finding, "tuned_difference") == pytest.approx(0.31 + 0.07 * math.log(0.3) ** 2, abs=1e-5)
    assert "makes training without RMSNorm stable" in said(finding)


def test_without_a_run_without_norms_nothing_is_said_of_one(tmp_path):
    runs = {"baseline": {}, "post": {"norm": "post"}}
    finding = find("layer_norm_ablation", fabricate_study(tmp_path, {"layer_norm_ablation": ALONE | {"runs": runs}}))
    assert finding.status == "partial"
    assert "needs a run with norm: pre or post and one with norm: none" in finding.sentences[0]
    assert finding.sentences[1].startswith("In `post`, compared with `baseline`, from which it differs in norm, the")
    assert "Without RMSNorm" not in said(finding)


def test_the_best_of_the_rates_without_norms_is_set_beside_the_second(tmp_path):
    runs = {"baseline": {}, "none": {"norm": "none", "vary": {"max_lr": [0.003, 0.01]}}}
    experiment = {"corpus": "stories", "seeds": [0, 1], "runs": runs}
    finding = find("layer_norm_ablation", fabricate_study(tmp_path, {"layer_norm_ablation": experiment}))
    remains = "(0.003 and 0.01) the baseline's remains the best; the second, 0.003, ends higher by 0.101"
    assert remains in said(finding)


def test_an_unresolved_difference_is_called_so(fabricated):
    finding = find("pre_norm_ablation", fabricated)
    assert "not resolved with 3 seeds (95 % interval −0.050 to +0.050 nats per token)" in finding.sentences[0]
    assert finding.figures["difference"].interval == pytest.approx((-0.0497, 0.0497), abs=1e-4)


def test_one_seed_has_no_interval(fabricated):
    finding = find("no_pos_emb", fabricated)
    assert "higher by 0.240 nats per token (one seed, so no interval)" in finding.sentences[0]
    assert finding.figures["difference"].interval is None


def test_swiglu_shows_both_parameter_counts(fabricated):
    finding = find("swiglu_ablation", fabricated)
    assert value(finding, "parameters") == value(finding, "baseline_parameters") == 327_744
    sizes = "exactly 327,744 parameters (d_ff 288 without the gate and 192 with it), so the comparison is one of equal"
    assert sizes in said(finding)
    assert value(finding, "difference") == pytest.approx(0.064)


def test_parameter_counts_that_differ_are_told_in_percent(tmp_path):
    runs = EXPERIMENTS["swiglu_ablation"]["runs"]
    results = fabricate_study(tmp_path, {"swiglu_ablation": ALONE | {"runs": runs}})
    path = tmp_path / "runs/swiglu_ablation/silu/seed0/summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(summary | {"parameters": 332_988}), encoding="utf-8")
    assert "332,988 parameters, 1.6 % more than the 327,744" in said(find("swiglu_ablation", results))


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
            {"position": "none"},
            {"baseline": {}, "rope": {"position": "rope"}},
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
    finding = find(problem, fabricate_study(tmp_path, {problem: ALONE | {"runs": runs}}, MODEL | base))
    assert finding.sentences[0].startswith(words)
    assert (value(finding, "variant"), value(finding, "baseline")) == pair
    assert finding.status == "answered"


def test_a_variant_that_changes_more_than_the_question_asks_is_told_in_general_words(tmp_path):
    runs = {"baseline": {}, "hot": {"norm": "post", "max_lr": 0.02}, "long": {"total_tokens": 819_200}}
    results = fabricate_study(tmp_path, {"pre_norm_ablation": ALONE | {"runs": runs}})
    finding = find("pre_norm_ablation", results)
    assert finding.status == "partial"
    assert finding.sentences[0].startswith(
        "In `hot`, compared with `baseline`, from which it differs in norm and max_lr, "
    )
    assert "In `long`, compared with `baseline`, from which it differs in total_tokens, " in said(finding)
    assert "post-norm in place" not in said(finding)
    assert "difference" not in finding.figures


def test_a_rate_tuned_for_one_side_only_is_said_to_be(fabricated, tmp_path):
    caution = (
        "Both run at the peak rate 0.01, which `learning_rate` tuned for the model of `{}`; at a rate of its own `{}`"
    )
    for problem, variant in (("pre_norm_ablation", "post_norm"), ("no_pos_emb", "nope"), ("swiglu_ablation", "silu")):
        assert caution.format("baseline", variant) in said(find(problem, fabricated))
    runs = {"baseline": {}, "rope": {"position": "rope"}}
    experiments = {
        "learning_rate": EXPERIMENTS["learning_rate"],
        "no_pos_emb": EXPERIMENTS["no_pos_emb"] | {"runs": runs},
    }
    turned = fabricate_study(tmp_path, experiments, MODEL | {"position": "none"})
    assert caution.format("baseline", "rope") in said(find("no_pos_emb", turned)), "the sweep ran without positions"
    experiments["no_pos_emb"]["runs"] = {
        "baseline": {},
        "nope": {"position": "none", "vary": {"max_lr": [0.003, 0.01]}},
    }
    finding = find("no_pos_emb", fabricate_study(tmp_path / "several", experiments))
    assert finding.figures["variant"].value == "nope_max_lr=0.01"
    assert "Both run at the peak rate" not in said(finding), "two rates were tried without positions"
    tuned = fabricate_study(tmp_path / "own", {"no_pos_emb": ALONE | {"runs": runs}}, MODEL | {"position": "none"})
    assert "Both run at the peak rate" not in said(find("no_pos_emb", tuned))


def test_seeds_that_differ_widely_are_told_by_their_range(tmp_path):
    runs = {"baseline": {}, "post_norm": {"norm": "post"}}
    results = fabricate_study(tmp_path, {"pre_norm_ablation": ALONE | {"seeds": [0, 1, 2], "runs": runs}})
    change_summary(results, "pre_norm_ablation/post_norm/seed1", validation_loss=5.12)
    ends = "end between 2.295 and 5.120 nats per token, where token frequencies alone give 5.210"
    assert f"; the seeds of `post_norm` {ends}" in find("pre_norm_ablation", results).sentences[0]
    assert "of `baseline` end between" not in said(find("pre_norm_ablation", results))
    sweep = {"corpus": "stories", "seeds": [0, 1], "vary": {"max_lr": [0.01]}}
    results = fabricate_study(tmp_path / "sweep", {"learning_rate": sweep})
    change_summary(results, "learning_rate/max_lr=0.01/seed1", validation_loss=5.12)
    assert "mean of 2 seeds from 2.314 to 5.12 (perplexity" in find("learning_rate", results).sentences[0]


def test_only_runs_on_the_same_batches_are_said_to_share_them(tmp_path, fabricated):
    shared = "Runs of the same seed share their batches and, where shapes agree, their initial weights"
    assert f"{shared}, so differences are paired over seeds." in find("pre_norm_ablation", fabricated).sentences

    def told(name, **runs):
        results = fabricate_study(tmp_path / name, {"mine": ALONE | {"runs": {"baseline": {}, **runs}}})
        return said(general_experiment.find(results, "mine"))

    decayed, small, short = {"weight_decay": 0.2}, {"batch_size": 8}, {"context_length": 64}
    assert "paired over seeds; the batches of `small` are other ones." in told("some", decayed=decayed, small=small)
    assert "do not share their batches here" in told("none", small=small, short=short)
    assert "paired" not in told("none again", small=small, short=short)


def test_pairing_is_told_by_digests(fabricated, tmp_path):
    same = "all 200 batches of a run are those of `baseline` with the same seed, and so are the initial values of"
    assert f"{same} 100 % of the parameters in matrices (30 of 30 matrices) in `post_norm`." in said(
        find("pre_norm_ablation", fabricated)
    )
    finding = find("swiglu_ablation", fabricated)
    # Of 4 layers with 4 matrices of 64 x 64 and 2 of 288 x 64, and 2 of 1,024 x 64, the wide ones differ.
    share = (4 * 4 * 64 * 64 + 2 * 1024 * 64) / (4 * (4 * 64 * 64 + 2 * 288 * 64) + 2 * 1024 * 64)
    assert value(finding, "same_initial_weights") == pytest.approx(share)
    assert value(finding, "same_batches") is True
    assert f"{100 * share:.1f} % of the parameters in matrices (18 of 26 matrices) in `silu`." in said(finding)
    norms = said(find("layer_norm_ablation", fabricated))
    assert "in `no_norm`, `no_norm_tuned_max_lr=0.001` and `no_norm_tuned_max_lr=0.003`." in norms
    results = fabricate_study(tmp_path, {"no_pos_emb": EXPERIMENTS["no_pos_emb"] | {"max_lr": 0.01}})
    change_summary(results, "no_pos_emb/nope/seed0", batches_sha256="others")
    finding = find("no_pos_emb", results)
    assert "do not share their batches here" in said(finding), "whatever the settings say"
    assert value(finding, "same_batches") is False


def test_a_variant_with_other_tokens_is_compared_in_bits_per_byte_and_one_on_other_text_not_at_all(tmp_path):
    runs = {"baseline": {}, "nope": {"position": "none", "vocab_size": 512}, "elsewhere": {"corpus": "docs"}}
    finding = find("no_pos_emb", fabricate_study(tmp_path, {"no_pos_emb": ALONE | {"runs": runs}}))
    told = "In `nope`, compared with `baseline`, from which it differs in position and vocab_size, the final loss is"
    assert finding.sentences[0].startswith(
        f"{told} higher by 0.211 bits per byte (one seed, so no interval): 1.063 against 0.8518"
    )
    assert (
        "from which it differs in vocab_size and corpus, the corpora differ, so the final losses do not compare."
        in said(finding)
    )


def test_ablations_find_their_runs_under_other_names(tmp_path):
    runs = {"with_positions": {}, "without": {"position": "none"}}
    results = fabricate_study(tmp_path, {"no_pos_emb": ALONE | {"runs": runs}})
    finding = find("no_pos_emb", results)
    assert value(finding, "variant") == "without"
    assert value(finding, "difference") == pytest.approx(0.24)


def test_an_ablation_with_a_baseline_only_is_partial(tmp_path):
    results = fabricate_study(tmp_path, {"no_pos_emb": ALONE | {"runs": {"baseline": {}}}})
    finding = find("no_pos_emb", results)
    assert finding.status == "partial"
    assert "needs a run with position: rope and one with position: none" in finding.sentences[0]


def test_a_variant_that_always_diverges_is_a_result(tmp_path):
    runs = {"baseline": {}, "nope": {"position": "none"}}
    results = fabricate_study(tmp_path, {"no_pos_emb": ALONE | {"runs": runs}})
    change_summary(results, "no_pos_emb/nope/seed0", status="diverged", diverged_step=9)
    finding = find("no_pos_emb", results)
    assert finding.status == "answered"
    assert "the only seed diverged, so there is no final loss to compare" in finding.sentences[0]
    assert value(finding, "difference") is None


def test_two_corpora_are_compared_per_byte_and_explained(fabricated):
    finding = find("main_experiment", fabricated)
    loss, entropy = 0.45 * 6.43 - 0.03 + 0.1, 6.43
    bytes_per_token = value(finding, "web_bytes_per_token")
    assert value(finding, "web_validation_loss") == pytest.approx(loss)
    assert value(finding, "web_removed_share") == pytest.approx(1 - loss / entropy)
    assert value(finding, "web_bits_per_byte") == pytest.approx(loss / math.log(2) / bytes_per_token, rel=1e-4)
    assert "docs (in the place of OpenWebText)" in finding.sentences[0]
    gap = 0.45 * (6.43 - 5.21) + 0.1
    parts = {"vocabulary": math.log(2), "frequencies": 1.22 - math.log(2), "context": gap - 1.22}
    assert {name: value(finding, f"gap_{name}") for name in parts} == pytest.approx(parts)
    assert value(finding, "gap") == pytest.approx(gap) == pytest.approx(sum(parts.values()))
    assert "+0.693 lie in the size of the vocabularies (ln 2,048 against ln 1,024), +0.527 in how evenly" in said(
        finding
    )
    ratio = value(finding, "loss_ratio") / value(finding, "bytes_per_token_ratio")
    assert value(finding, "bits_per_byte_ratio") == pytest.approx(ratio, rel=1e-3), (
        "the made-up losses hold no delimiter"
    )
    assert "so its bytes should cost 1.28 times the bits each, which they do." in said(finding)
    assert "The models differ in the vocabulary alone" in said(finding)
    assert "which can be compared across tokenizers" in finding.sentences[0]
    assert "which is higher by 0.238 bits per byte (one seed, so no interval)." in finding.sentences[0]


def test_samples_of_both_corpora_stand_side_by_side(tmp_path):
    results = fabricate_study(tmp_path, {"main_experiment": EXPERIMENTS["main_experiment"]})
    assert "In their samples" not in said(find("main_experiment", results)), "there are none"
    for corpus in CORPORA:
        write_json(tmp_path / "samples" / f"{corpus}.json", samples_of(corpus))
    finding = find("main_experiment", results)
    words = "92.5 % of the words of the model of {} (held-out text: 100 %)"
    assert f"In their samples, {words.format('stories')} and {words.format('docs')} occur" in said(finding)
    table = next(table for table in finding.tables if "side" in table.caption or "same prompts" in table.caption)
    assert table.columns[3:] == ["the model of stories", "the model of docs"]
    assert [row[1:3] for row in table.rows] == [[0.0, 1.0], [1.0, 0.9], [1.0, 1.0]]
    assert table.rows[1][3] == "Once the cat and a dog sat on the mat then saw the dog"
    long = samples_of("docs")
    long["samples"][0]["text"] = " word" * 200
    write_json(tmp_path / "samples/docs.json", long)
    cell = next(t for t in find("main_experiment", results).tables if t.caption == table.caption).rows[0][4]
    assert cell.startswith("Once word") and cell.endswith("word …") and len(cell) <= 302
    write_json(tmp_path / "samples/docs.json", samples_of("docs", run="main_experiment/another"))
    assert "In their samples" not in said(find("main_experiment", results)), "they are of another run"


def test_the_cross_table_has_every_text_by_every_tokenizer(tmp_path):
    make_results(tmp_path)
    compared = compare_tokenizers(tmp_path, ["stories", "docs"], {"stories": "stories", "docs": "docs"})
    write_json(tmp_path / "tokenizer_experiments.json", compared)
    results = fabricate_study(tmp_path, {"main_experiment": EXPERIMENTS["main_experiment"]})
    (table,) = [table for table in find("main_experiment", results).tables if "every text by every" in table.caption]
    found = {(row["corpus"], row["tokenizer"]): row["valid_bytes_per_token"] for row in compared["compression"]}
    assert table.rows == [
        [f"text of {text}", found[text, "stories"], found[text, "docs"]] for text in ("stories", "docs")
    ]


def test_unigrams_are_told_in_bits_per_byte_without_delimiters(fabricated):
    columns = find("main_experiment", fabricated).tables[0].columns
    (docs,) = [row for row in find("main_experiment", fabricated).tables[0].rows if row[0].startswith("docs")]
    share = 29_700 / 10**6
    text_nats = 6.43 + share * math.log(share)
    by_hand = text_nats / math.log(2) / docs[columns.index("bytes per token")]
    assert docs[columns.index("bits per byte of unigrams")] == pytest.approx(by_hand, rel=1e-9)
    assert docs[columns.index("bits per byte of unigrams")] == pytest.approx(2.3271, abs=1e-4)


def test_two_corpora_of_one_role_keep_their_own_figures(tmp_path):
    corpora = CORPORA | {
        "tales": {"source": "stories", "documents": 100, "tokenizer": {"vocab_size": 1024}, "role": "simple"}
    }
    runs = {name: {"corpus": name} for name in ("tales", "stories", "docs")}
    finding = find("main_experiment", fabricate_study(tmp_path, {"main_experiment": {"runs": runs}}, corpora=corpora))
    assert value(finding, "simple_corpus") == "stories", "the first of the study, whatever the experiment's order"
    assert value(finding, "simple_validation_loss") == pytest.approx(0.45 * 5.21 - 0.03, abs=1e-6)
    assert value(finding, "tales_validation_loss") == pytest.approx(0.45 * 5.52 - 0.03, abs=1e-6)
    assert "on stories (in the place of TinyStories) 2.31" in finding.sentences[0]
    assert "The model also reaches 2.454 nats per token" in said(finding)
    only = {"runs": {"docs": {"corpus": "docs"}, "tales": {"corpus": "tales"}}}
    finding = find("main_experiment", fabricate_study(tmp_path / "only", {"main_experiment": only}, corpora=corpora))
    assert (finding.status, value(finding, "simple_corpus")) == ("answered", "tales")


def test_several_runs_on_a_corpus_are_ranked_over_seeds(tmp_path):
    runs = {"stories": {"corpus": "stories", "vary": {"max_lr": [0.003, 0.01]}}, "docs": {"corpus": "docs"}}
    finding = find("main_experiment", fabricate_study(tmp_path, {"main_experiment": {"seeds": [0, 1], "runs": runs}}))
    assert "On stories, `stories_max_lr=0.01` is the best; the second, `stories_max_lr=0.003`, ends higher" in said(
        finding
    )
    assert re.search(r"which is higher by 0\.\d+ bits per byte \(95 % interval .*, 2 seeds\)", finding.sentences[0])


def test_models_that_differ_are_told_by_how(tmp_path):
    runs = {"stories": {"corpus": "stories", "num_layers": 2}, "docs": {"corpus": "docs"}}
    finding = find("main_experiment", fabricate_study(tmp_path, {"main_experiment": {"runs": runs}}))
    assert "The models differ in num_layers and vocab_size, and each sees 409,600 tokens." in finding.sentences


def test_one_corpus_alone_is_partial(tmp_path):
    runs = {"runs": {"stories": {"corpus": "stories"}}}
    finding = find("main_experiment", fabricate_study(tmp_path, {"main_experiment": runs}))
    assert finding.status == "partial"
    assert "a comparison needs a finished run" in finding.sentences[0]
    assert "It sees 409,600 tokens." in finding.sentences


def test_the_log_holds_every_run_and_counts_shared_ones_once(fabricated):
    finding = find("experiment_log", fabricated)
    runs = fabricated.runs()
    assert len(finding.tables[0].rows) == value(finding, "runs") == len(runs)
    distinct = {
        json.dumps([run.seed, run.config["model"], run.config["training"], run.config["tokens"]], sort_keys=True): run
        for run in runs
    }
    assert value(finding, "distinct_runs") == len(distinct) < len(runs)
    assert value(finding, "total_tokens") == sum(run.summary["tokens"] for run in distinct.values())
    assert value(finding, "diverged_runs") == 2
    assert value(finding, "lowest_bits_per_byte_stories") == pytest.approx(0.7119, abs=1e-4)
    fewest = (
        r"The fewest bits per byte: 0\.\d+ on stories, by `.+` of vocabulary \(.*\) and 1\.\d+ on docs, by `docs` of"
    )
    assert re.search(fewest, said(finding))
    assert "main_experiment on docs 2.963" in finding.plots[0].alt
    assert "main_experiment on stories 2.314" in finding.plots[0].alt
    assert all((fabricated.folder / plot.path).exists() for plot in finding.plots)


def test_an_experiment_of_another_name_gets_a_section_of_the_general_kind(fabricated):
    title, question = general_experiment.heading(fabricated, "vocabulary")
    finding = general_experiment.find(fabricated, "vocabulary")
    assert (title, question) == ("Vocabulary", "How does the final loss depend on vocab_size?")
    assert finding.sentences[0].startswith(
        "The best of 3 runs is `vocab_size=4096` with 0.7161 bits per byte, mean of 2 seeds; the"
    )
    assert "; the second, `vocab_size=1024`, ends higher by 0.141 bits per byte" in finding.sentences[0]
    assert all("of vocab_size=4096" in plot.alt for plot in finding.plots)
    assert "compared in bits per byte" in said(finding)


def test_a_general_experiment_without_a_grid_is_told_by_differences(tmp_path):
    runs = {"baseline": {}, "decayed": {"weight_decay": 0.5}, "wild": {"max_lr": 4.0}}
    results = fabricate_study(tmp_path, {"my_own": {"corpus": "stories", "seeds": [0, 1], "runs": runs}})
    finding = general_experiment.find(results, "my_own")
    assert general_experiment.heading(results, "my_own")[1] == "How do the runs decayed and wild compare with baseline?"
    equal = "In `decayed`, compared with `baseline`, the final loss is no different (equal with each of 2 seeds)"
    assert finding.sentences[0].startswith(equal)
    assert "2 of 2 seeds diverged" in finding.sentences[1]
    single = fabricate_study(tmp_path / "single", {"one": {"corpus": "stories"}})
    assert general_experiment.find(single, "one").sentences[0].startswith("The run `baseline` ends at 2.31")


def test_the_write_up_stands_beside_ours_with_the_difference_in_setting(fabricated):
    finding = find("learning_rate", fabricated)
    best, diverged = beside_write_up("learning_rate", finding, fabricated)["rows"]
    assert (best["write_up"], best["ours"]) == (0.0008, 0.01)
    assert (diverged["write_up"], diverged["ours"]) == (0.2, 3.0)
    for words in ("12.3 MB of stories in the place of TinyStories (2.23 GB)", "vocabulary 1,024", "batch size 16"):
        assert words in best["difference_in_setting"]


def test_a_figure_that_this_study_lacks_keeps_its_row_and_says_why(fabricated):
    (row, *_) = beside_write_up("train_bpe_tinystories", Finding("absent"), fabricated)["rows"]
    assert row["ours"] is None
    assert row["reason"] == "not measured in this study"
    assert "a vocabulary of 1,024 instead of 10,000" in row["difference_in_setting"]


def test_problems_that_the_write_up_leaves_open_say_so(fabricated):
    assert "leaves this problem open" in beside_write_up("no_pos_emb", Finding("absent"), fabricated)["note"]
    assert beside_write_up("unicode1", Finding("absent"), fabricated) == {"rows": [], "note": ""}


def test_the_original_text_stands_in_nobodys_place_however_it_is_split(tmp_path, fabricated):
    original = write_up()["texts"]["TinyStories"]["train_sha256"]
    results = fabricate_study(tmp_path, {"learning_rate": ALONE}, corpora=dict(CORPORA))
    text = {"url": "file:TinyStories.txt", "sha256": original}
    results.study["corpora"]["stories"] = CORPORA["stories"] | {"files": [text], "valid_fraction": 0.1}
    assert corpus_in_words(results, "stories") == "stories"
    results.study["corpora"]["stories"] = CORPORA["stories"] | {"files": [text, text]}
    assert corpus_in_words(results, "stories") == "stories (in the place of TinyStories)"


def test_the_original_text_stands_in_nobodys_place(fabricated, monkeypatch):
    assert corpus_in_words(fabricated, "stories") == "stories (in the place of TinyStories)"
    original = write_up()["texts"]["TinyStories"]["train_sha256"]
    monkeypatch.setitem(fabricated.corpora["stories"]["splits"]["train"], "sha256", original)
    assert corpus_in_words(fabricated, "stories") == "stories"
