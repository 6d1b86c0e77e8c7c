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
    """Settings that change along with it, such as a width that keeps the number of parameters."""


def runs_with_setting(experiment: ExperimentRuns, setting: str, values: Sequence[str]) -> list[str]:
    """Return the runs in which a setting has one of the values."""
    return [name for name in experiment.names() if experiment.setting(name, setting) in values]


def matches_spec(spec: AblationSpec, comparison: Comparison) -> bool:
    """Return True if two runs differ in the spec's settings only."""
    ablated = comparison.experiment.setting(comparison.variant, spec.setting) == spec.ablated
    return ablated and set(comparison.differing) <= {spec.setting, *spec.companions}


def opening_for(spec: AblationSpec, comparison: Comparison) -> str:
    """Return the start of the sentence on a pair of runs: the spec's words only if the pair matches it."""
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
    others = [name for name in experiment.names() if name != baseline]
    return experiment, baseline, [compare(experiment, name, baseline) for name in others]


def analyze_ablation(
    results: Results,
    spec: AblationSpec,
    more: Callable[[ExperimentRuns, Comparison], tuple[dict[str, Metric], list[str]]] | None = None,
) -> Finding:
    """Return the finding of an ablation: runs with the usual value of a setting against those with the ablated one.

    `more` adds metrics and sentences on the answering pair.
    """
    compared = compare_all(results, spec)
    if isinstance(compared, Finding):
        return compared
    experiment, baseline, comparisons = compared
    main = next((one for one in comparisons if matches_spec(spec, one)), None)
    comparisons.sort(key=lambda one: one is not main)
    metrics = baseline_metrics(experiment, baseline) | (comparison_metrics(main) if main else {})
    sentences = [describe_outcome(opening_for(spec, one), one) for one in comparisons]
    sentences[1:1] = [run_summary.setting_sentence(results, experiment), *pairing_sentences(comparisons)]
    sentences += rate_sentences(results, spec, main) if main else []
    if main and more is not None:
        added_metrics, added_sentences = more(experiment, main)
        metrics, sentences = metrics | added_metrics, sentences + added_sentences
    sentences += run_summary.failure_sentences(experiment)
    tables = [run_summary.runs_table(experiment), *seed_tables(comparisons)]
    answered = main and (main.difference or "diverged" in experiment.statuses(main.variant))
    return Finding(
        "answered" if answered else "partial", metrics, sentences, tables, run_summary.experiment_plots(experiment)
    )


def rate_sentences(results: Results, spec: AblationSpec, comparison: Comparison) -> list[str]:
    """Warn that the learning rate of both sides was tuned for one of them only."""
    experiment, pair = comparison.experiment, (comparison.baseline, comparison.variant)
    tuned = {name: setting_of_lr_source(results, experiment, name, spec.setting) for name in pair}
    rates = {experiment.setting(name, "max_lr") for name in runs_with_setting(experiment, spec.setting, [spec.ablated])}
    own = [name for name in pair if tuned[name] == experiment.setting(name, spec.setting)]
    if len(own) != 1 or len(rates) > 1:
        return []
    (other,) = (name for name in pair if name not in own)
    sweep = experiment.seeds_of(own[0])[0].config.lr_source.best_of
    return [
        f"Both run at the peak rate {format_number(rates.pop())}, which `{sweep}` tuned for the model of `{own[0]}`; "
        f"at a rate of its own `{other}` may do better, so a part of the difference may lie in the rate."
    ]


def setting_of_lr_source(results: Results, experiment: ExperimentRuns, name: str, setting: str) -> str | None:
    """Return a setting of the run whose peak rate a run took over from a sweep; None where it took none."""
    taken = experiment.seeds_of(name)[0].config.lr_source
    sweep = results.experiment(taken.best_of) if taken else None
    return next((run.setting(setting) for run in sweep.runs if run.name == taken.best_run), None) if sweep else None


def nothing_to_compare(experiment: ExperimentRuns, spec: AblationSpec) -> Finding:
    """Return the finding of an ablation whose runs all lie on one side of the spec."""
    baseline, usual = choose_baseline(experiment), " or ".join(spec.usual)
    comparisons = [compare(experiment, name, baseline) for name in experiment.names() if name != baseline]
    sentence = (
        f"The experiment {experiment.name} needs a run with {spec.setting}: {usual} and one with "
        f"{spec.setting}: {spec.ablated}, which otherwise agree; it has no such pair."
    )
    return Finding(
        "partial",
        baseline_metrics(experiment, baseline),
        [sentence, *(describe_outcome(opening_for(spec, one), one) for one in comparisons)],
        [run_summary.runs_table(experiment), *(seed_tables(comparisons) if comparisons else [])],
        run_summary.experiment_plots(experiment),
    )


def analyze_tuned_ablation(results: Results, spec: AblationSpec, condition: str) -> Finding:
    """Return the paired differences to the baseline, at its own rate and at the best rate tried for the variant.

    `condition` names what is ablated inside a sentence, such as "without RMSNorm".
    """
    compared = compare_all(results, spec)
    if isinstance(compared, Finding):
        return compared
    experiment, baseline, found = compared
    comparisons = {one.variant: one for one in found}
    at_same = next((one for one in comparisons.values() if matches_spec(spec, one)), None)
    variants = [name for name, one in comparisons.items() if matches_spec(at_any_lr(spec), one)]
    at_best = comparisons.get(experiment.best_among(variants))
    metrics = baseline_metrics(experiment, baseline)
    metrics |= comparison_metrics(at_same) if at_same else {}
    metrics |= comparison_metrics(at_best, "tuned_") if at_best else {}
    sentences = [
        *same_rate_sentences(experiment, spec, at_same),
        *(tuned_sentences(experiment, spec, condition, variants, at_same, at_best) if variants else []),
        *(describe_outcome(opening_for(spec, one), one) for name, one in comparisons.items() if name not in variants),
        run_summary.setting_sentence(results, experiment),
        *pairing_sentences(list(comparisons.values())),
        *run_summary.failure_sentences(experiment),
    ]
    tables = [run_summary.runs_table(experiment), *seed_tables(list(comparisons.values()))]
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
    others = [compare(experiment, name, baseline) for name in experiment.names() if name != baseline]
    tried = sum(matches_spec(at_any_lr(spec), one) for one in others)
    return tried > 1 and any(matches_spec(spec, one) for one in others)


def rate(experiment: ExperimentRuns, name: str) -> float:
    """Return the peak rate of a run."""
    return experiment.setting(name, "max_lr")


def same_rate_sentences(experiment: ExperimentRuns, spec: AblationSpec, comparison: Comparison | None) -> list[str]:
    """Return the short answer: what the change alone does."""
    if comparison is None:
        return []
    shown = format_number(rate(experiment, comparison.baseline))
    return [describe_outcome(f"{spec.opening} at the baseline's own peak rate ({shown})", comparison)]


def tuned_sentences(
    experiment: ExperimentRuns,
    spec: AblationSpec,
    condition: str,
    variants: list[str],
    at_same: Comparison | None,
    at_best: Comparison | None,
) -> list[str]:
    """Describe the effect of a learning rate of the variant's own."""
    tried = sorted({rate(experiment, name) for name in variants})
    rates = join_words([format_number(one) for one in tried])
    if at_best is None:
        return [f"None of the rates tried {condition} ({rates}) let every seed finish; try smaller ones."]
    if len(tried) == 1 and at_same:
        return [f"No other rate was tried {condition}, so its own best rate is not known."]
    if at_same and at_best.variant == at_same.variant:
        rivals = {name: format_number(rate(experiment, name)) for name in variants if name != at_best.variant}
        told = run_summary.describe_runner_up(experiment, at_best.variant, rivals)
        return [f"Of the rates tried {condition} ({rates}) the baseline's remains the best{told}."]
    shown = format_number(rate(experiment, at_best.variant))
    its_own = f"a rate of its own ({shown})" if len(tried) == 1 else f"the best of its own rates ({shown}, of {rates})"
    sentences = [describe_outcome(f"{spec.opening} at {its_own}", at_best)]
    if at_same and describe_failures(at_same):
        sentences.append(f"So a rate of its own makes training {condition} stable in these runs.")
    if len(tried) == 1:
        sentences.append(f"No other rate was tried {condition}, so a better one may lie beside it.")
    elif rate(experiment, at_best.variant) in (tried[0], tried[-1]):
        sentences.append("That rate lies at the edge of those tried, so a better one may lie beyond.")
    return sentences
