"""Ablations: one changed setting against a baseline over seeds, at the baseline's learning rate and at others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lmpipe.analysis.finding import Finding, Metric
from lmpipe.analysis.problems import run_summary
from lmpipe.analysis.problems.paired_comparison import (
    Comparison,
    baseline_metrics,
    choose_baseline,
    compare,
    comparison_metrics,
    describe_failures,
    describe_outcome,
    generic_opening,
    pairing_sentences,
    seed_tables,
)
from lmpipe.analysis.results import ExperimentRuns, Results
from lmpipe.io.formatting import format_number, join_words


@dataclass(frozen=True)
class AblationSpec:
    """One ablation: the setting that it changes, its usual values, and the ablated one."""

    experiment: str
    """Name of the experiment, which is the problem's id."""
    setting: str
    """Key of the setting in the study file."""
    usual: tuple[str, ...]
    """Values of the setting without the ablation."""
    ablated: str
    """Value of the setting in the variant."""
    opening: str
    """Start of the sentence on the variant, such as "Without RMSNorm"."""
    example: str
    """Lines that add the experiment to a study."""
    companions: tuple[str, ...] = ()
    """Settings that may change with it, such as a width that preserves the number of parameters."""


def runs_with_setting(experiment: ExperimentRuns, setting: str, values: Sequence[str]) -> list[str]:
    """Return the runs in which a setting has one of the values."""
    return [name for name in experiment.names() if experiment.setting(name, setting) in values]


def matches_spec(spec: AblationSpec, comparison: Comparison) -> bool:
    """Return True if two runs differ in the spec's settings only."""
    ablated = comparison.experiment.setting(comparison.variant, spec.setting) == spec.ablated
    return ablated and set(comparison.differing) <= {spec.setting, *spec.companions}


def opening_for(spec: AblationSpec, comparison: Comparison) -> str:
    """Return the start of the sentence on a pair of runs: the spec's if the pair matches it."""
    if matches_spec(spec, comparison):
        return spec.opening
    return f"{generic_opening(comparison)}, from which it differs in {join_words(comparison.differing)}"


def compare_all(results: Results, spec: AblationSpec) -> tuple[ExperimentRuns, str, list[Comparison]] | Finding:
    """Return an experiment, its baseline, and the comparisons with it; a Finding if there is nothing to compare."""
    experiment = results.experiment(spec.experiment)
    if experiment is None:
        return run_summary.missing_experiment(results, spec.experiment, spec.example)
    usual = runs_with_setting(experiment, spec.setting, spec.usual)
    if not usual or not runs_with_setting(experiment, spec.setting, [spec.ablated]):
        return nothing_to_compare(experiment, spec)
    baseline = choose_baseline(experiment, usual)
    variants = [name for name in experiment.names() if name != baseline]
    return experiment, baseline, [compare(experiment, name, baseline) for name in variants]


def analyze_ablation(
    results: Results,
    spec: AblationSpec,
    add_details: Callable[[ExperimentRuns, Comparison], tuple[dict[str, Metric], list[str]]] | None = None,
) -> Finding:
    """Return the finding of an ablation: runs with the usual value of a setting against those with the ablated one.

    `add_details` returns further metrics and sentences on the pair that answers the question.
    """
    compared = compare_all(results, spec)
    if isinstance(compared, Finding):
        return compared
    experiment, baseline, comparisons = compared
    main = next((comparison for comparison in comparisons if matches_spec(spec, comparison)), None)
    comparisons.sort(key=lambda comparison: comparison is not main)
    metrics = baseline_metrics(experiment, baseline) | (comparison_metrics(main) if main else {})
    sentences = [describe_outcome(opening_for(spec, comparison), comparison) for comparison in comparisons]
    sentences[1:1] = [run_summary.setting_sentence(results, experiment), *pairing_sentences(comparisons)]
    sentences += rate_sentences(results, spec, main) if main else []
    if main and add_details is not None:
        added_metrics, added_sentences = add_details(experiment, main)
        metrics, sentences = metrics | added_metrics, sentences + added_sentences
    sentences += run_summary.failure_sentences(experiment)
    tables = [run_summary.runs_table(experiment), *seed_tables(comparisons)]
    is_answered = main and (main.difference or "diverged" in experiment.statuses(main.variant))
    return Finding(
        "answered" if is_answered else "partial", metrics, sentences, tables, run_summary.experiment_plots(experiment)
    )


def rate_sentences(results: Results, spec: AblationSpec, comparison: Comparison) -> list[str]:
    """Warn that the learning rate of both sides was tuned for one of them only."""
    experiment, pair = comparison.experiment, (comparison.baseline, comparison.variant)
    tuned = {name: setting_of_lr_source(results, experiment, name, spec.setting) for name in pair}
    rates = {experiment.setting(name, "max_lr") for name in runs_with_setting(experiment, spec.setting, [spec.ablated])}
    tuned_runs = [name for name in pair if tuned[name] == experiment.setting(name, spec.setting)]
    if len(tuned_runs) != 1 or len(rates) > 1:
        return []
    (untuned_run,) = (name for name in pair if name not in tuned_runs)
    sweep = experiment.seeds_of(tuned_runs[0])[0].config.lr_source.best_of
    return [
        f"Both run at the peak rate {format_number(rates.pop())}, which `{sweep}` tuned for the model of "
        f"`{tuned_runs[0]}`; at a rate of its own `{untuned_run}` may do better, so a part of the difference may lie "
        "in the rate."
    ]


def setting_of_lr_source(results: Results, experiment: ExperimentRuns, name: str, setting: str) -> str | None:
    """Return a setting of the run whose peak rate another run uses by best_of; None without best_of."""
    source = experiment.seeds_of(name)[0].config.lr_source
    sweep = results.experiment(source.best_of) if source else None
    return next((run.setting(setting) for run in sweep.runs if run.name == source.best_run), None) if sweep else None


def nothing_to_compare(experiment: ExperimentRuns, spec: AblationSpec) -> Finding:
    """Return the finding of an ablation that lacks runs with, or runs without the ablated setting."""
    baseline, usual = choose_baseline(experiment), " or ".join(spec.usual)
    comparisons = [compare(experiment, name, baseline) for name in experiment.names() if name != baseline]
    sentence = (
        f"The experiment {experiment.name} needs a run with {spec.setting}: {usual} and one with "
        f"{spec.setting}: {spec.ablated}, which otherwise agree; it has no such pair."
    )
    return Finding(
        "partial",
        baseline_metrics(experiment, baseline),
        [sentence, *(describe_outcome(opening_for(spec, comparison), comparison) for comparison in comparisons)],
        [run_summary.runs_table(experiment), *(seed_tables(comparisons) if comparisons else [])],
        run_summary.experiment_plots(experiment),
    )


def analyze_tuned_ablation(results: Results, spec: AblationSpec, condition: str) -> Finding:
    """Return the paired differences from the baseline: at its rate, and at the best rate of the variant.

    `condition` names the ablation inside a sentence, such as "without RMSNorm".
    """
    compared = compare_all(results, spec)
    if isinstance(compared, Finding):
        return compared
    experiment, baseline, comparisons = compared
    by_variant = {comparison.variant: comparison for comparison in comparisons}
    at_same = next((comparison for comparison in by_variant.values() if matches_spec(spec, comparison)), None)
    variants = [name for name, comparison in by_variant.items() if matches_spec(at_any_lr(spec), comparison)]
    at_best = by_variant.get(experiment.best_among(variants))
    metrics = baseline_metrics(experiment, baseline)
    metrics |= comparison_metrics(at_same) if at_same else {}
    metrics |= comparison_metrics(at_best, "tuned_") if at_best else {}
    sentences = [
        *same_rate_sentences(experiment, spec, at_same),
        *(tuned_sentences(experiment, spec, condition, variants, at_same, at_best) if variants else []),
        *(
            describe_outcome(opening_for(spec, comparison), comparison)
            for comparison in comparisons
            if comparison.variant not in variants
        ),
        run_summary.setting_sentence(results, experiment),
        *pairing_sentences(list(by_variant.values())),
        *run_summary.failure_sentences(experiment),
    ]
    tables = [run_summary.runs_table(experiment), *seed_tables(list(by_variant.values()))]
    status = "answered" if at_same else "partial"
    return Finding(status, metrics, sentences, tables, run_summary.experiment_plots(experiment))


def at_any_lr(spec: AblationSpec) -> AblationSpec:
    """Return the same spec of runs whose peak rate may differ, too."""
    return replace(spec, companions=(*spec.companions, "max_lr"))


def is_tuned(experiment: ExperimentRuns, spec: AblationSpec) -> bool:
    """Return True if the ablated setting was tried at several learning rates, the baseline's among them."""
    usual = runs_with_setting(experiment, spec.setting, spec.usual)
    if not usual:
        return False
    baseline = choose_baseline(experiment, usual)
    comparisons = [compare(experiment, name, baseline) for name in experiment.names() if name != baseline]
    num_rates = sum(matches_spec(at_any_lr(spec), comparison) for comparison in comparisons)
    return num_rates > 1 and any(matches_spec(spec, comparison) for comparison in comparisons)


def rate(experiment: ExperimentRuns, name: str) -> float:
    """Return the peak rate of a run."""
    return experiment.setting(name, "max_lr")


def same_rate_sentences(experiment: ExperimentRuns, spec: AblationSpec, comparison: Comparison | None) -> list[str]:
    """Return the short answer: the effect of the change at the baseline's rate."""
    if comparison is None:
        return []
    max_lr = format_number(rate(experiment, comparison.baseline))
    return [describe_outcome(f"{spec.opening} at the baseline's own peak rate ({max_lr})", comparison)]


def tuned_sentences(
    experiment: ExperimentRuns,
    spec: AblationSpec,
    condition: str,
    variants: list[str],
    at_same: Comparison | None,
    at_best: Comparison | None,
) -> list[str]:
    """Describe the effect of tuning the learning rate of the variant."""
    rates = sorted({rate(experiment, name) for name in variants})
    rates_text = join_words([format_number(max_lr) for max_lr in rates])
    if at_best is None:
        return [f"None of the rates tried {condition} ({rates_text}) let every seed finish; try smaller ones."]
    if len(rates) == 1 and at_same:
        return [f"No other rate was tried {condition}, so its own best rate is not known."]
    if at_same and at_best.variant == at_same.variant:
        rivals = {name: format_number(rate(experiment, name)) for name in variants if name != at_best.variant}
        runner_up = run_summary.describe_runner_up(experiment, at_best.variant, rivals)
        return [f"Of the rates tried {condition} ({rates_text}) the baseline's remains the best{runner_up}."]
    best_rate = format_number(rate(experiment, at_best.variant))
    rate_text = f"the best of its own rates ({best_rate}, of {rates_text})"
    if len(rates) == 1:
        rate_text = f"a rate of its own ({best_rate})"
    sentences = [describe_outcome(f"{spec.opening} at {rate_text}", at_best)]
    if at_same and describe_failures(at_same):
        sentences.append(f"So a rate of its own makes training {condition} stable in these runs.")
    if len(rates) == 1:
        sentences.append(f"No other rate was tried {condition}, so a better one may lie beside it.")
    elif rate(experiment, at_best.variant) in (rates[0], rates[-1]):
        sentences.append("That rate lies at the edge of those tried, so a better one may lie beyond.")
    return sentences
