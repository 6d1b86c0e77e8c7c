"""Problem layer_norm_ablation: training without RMSNorm, at the baseline's rate and at a rate of its own."""

from dataclasses import replace

from lmpipe.problems import Finding, training
from lmpipe.problems.ablation import (
    Comparison,
    Question,
    answers,
    baseline_figures,
    baseline_of,
    compare,
    comparison_figures,
    nothing_to_compare,
    outcome,
    pairing_sentences,
    runs_with,
    seed_tables,
    words_for,
)
from lmpipe.problems.wording import listing, number
from lmpipe.results import ExperimentRuns, Results

ID = "layer_norm_ablation"
TITLE = "Without RMSNorm"
QUESTION = (
    "What happens when every RMSNorm is removed and the model is trained at the rate that was best with it, "
    "and can a rate of its own make training stable again?"
)
LINES = (
    "layer_norm_ablation: {corpus: {corpus}, max_lr: {best_of: learning_rate}, "
    "runs: {baseline: {}, no_norm: {norm: none}, no_norm_tuned: {norm: none, vary: {max_lr: [0.001, 0.003]}}}}"
)
ABLATION = Question("norm", ("pre", "post"), "none", "Without RMSNorm")
AT_ANY_RATE = replace(ABLATION, companions=("max_lr",))


def find(results: Results) -> Finding:
    """The paired differences to the baseline, at its own rate and at the best rate tried without norms."""
    experiment = results.experiment(ID)
    if experiment is None:
        return training.missing(results, ID, LINES)
    usual = runs_with(experiment, ABLATION.setting, ABLATION.usual)
    if not usual or not runs_with(experiment, ABLATION.setting, [ABLATION.ablated]):
        return nothing_to_compare(experiment, ABLATION)
    baseline = baseline_of(experiment, usual)
    comparisons = {name: compare(experiment, name, baseline) for name in experiment.names() if name != baseline}
    at_same = next((one for one in comparisons.values() if answers(ABLATION, one)), None)
    variants = [name for name, one in comparisons.items() if answers(AT_ANY_RATE, one)]
    at_best = comparisons.get(experiment.best_among(variants))
    figures = baseline_figures(experiment, baseline)
    figures |= comparison_figures(at_same) if at_same else {}
    figures |= comparison_figures(at_best, "tuned_") if at_best else {}
    sentences = [
        *same_rate_sentences(experiment, at_same),
        *(tuned_sentences(experiment, variants, at_same, at_best) if variants else []),
        *(outcome(words_for(ABLATION, one), one) for name, one in comparisons.items() if name not in variants),
        training.setting_sentence(results, experiment),
        *pairing_sentences(list(comparisons.values())),
        *training.failure_sentences(experiment),
    ]
    tables = [training.runs_table(experiment), *seed_tables(list(comparisons.values()))]
    status = "answered" if at_same else "partial"
    return Finding(status, figures, sentences, tables, training.plots(experiment))


def rate(experiment: ExperimentRuns, name: str) -> float:
    """The peak rate of a run."""
    return experiment.setting(name, "max_lr")


def same_rate_sentences(experiment: ExperimentRuns, comparison: Comparison | None) -> list[str]:
    """The short answer: what removing the norms alone does."""
    if comparison is None:
        return []
    shown = number(rate(experiment, comparison.baseline))
    return [outcome(f"{ABLATION.words} at the baseline's own peak rate ({shown})", comparison)]


def tuned_sentences(
    experiment: ExperimentRuns, variants: list[str], at_same: Comparison | None, at_best: Comparison | None
) -> list[str]:
    """What a rate of its own brings to the model without norms."""
    tried = sorted({rate(experiment, name) for name in variants})
    rates = listing([number(one) for one in tried])
    if at_best is None:
        return [f"None of the rates tried without RMSNorm ({rates}) let every seed finish; try smaller ones."]
    if len(tried) == 1 and at_same:
        return ["No other rate was tried without RMSNorm, so its own best rate is not known."]
    if at_same and at_best.variant == at_same.variant:
        rivals = {name: number(rate(experiment, name)) for name in variants if name != at_best.variant}
        told = training.rival_words(experiment, at_best.variant, rivals)
        return [f"Of the rates tried without RMSNorm ({rates}) the baseline's remains the best{told}."]
    shown = number(rate(experiment, at_best.variant))
    its_own = f"a rate of its own ({shown})" if len(tried) == 1 else f"the best of its own rates ({shown}, of {rates})"
    sentences = [outcome(f"{ABLATION.words} at {its_own}", at_best)]
    if at_same and "diverged" in experiment.statuses(at_same.variant):
        sentences.append("So a rate of its own makes training without RMSNorm stable in these runs.")
    elif len(tried) == 1:
        sentences.append("No other rate was tried without RMSNorm, so a better one may lie beside it.")
    elif rate(experiment, at_best.variant) in (tried[0], tried[-1]):
        sentences.append("That rate lies at the edge of those tried, so a better one may lie beyond.")
    return sentences
