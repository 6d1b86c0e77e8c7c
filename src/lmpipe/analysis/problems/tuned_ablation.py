"""Ablations whose variant is tried at the baseline's peak rate and at rates of its own."""

from dataclasses import replace

from lmpipe.analysis.finding import Finding
from lmpipe.analysis.problems import training
from lmpipe.analysis.problems.ablation import (
    Comparison,
    Question,
    answers,
    baseline_metrics,
    baseline_of,
    compare,
    compare_all,
    comparison_metrics,
    failed_words,
    outcome,
    pairing_sentences,
    runs_with,
    seed_tables,
    words_for,
)
from lmpipe.analysis.results import ExperimentRuns, Results
from lmpipe.io.formatting import format_number, join_words


def analyze_tuned_ablation(results: Results, problem: str, lines: str, question: Question, condition: str) -> Finding:
    """The paired differences to the baseline, at its own rate and at the best rate tried for the variant.

    `condition` names what is ablated inside a sentence, such as "without RMSNorm"; `lines` are what a study without
    the experiment may add.
    """
    compared = compare_all(results, problem, lines, question)
    if isinstance(compared, Finding):
        return compared
    experiment, baseline, found = compared
    comparisons = {one.variant: one for one in found}
    at_same = next((one for one in comparisons.values() if answers(question, one)), None)
    variants = [name for name, one in comparisons.items() if answers(at_any_rate(question), one)]
    at_best = comparisons.get(experiment.best_among(variants))
    metrics = baseline_metrics(experiment, baseline)
    metrics |= comparison_metrics(at_same) if at_same else {}
    metrics |= comparison_metrics(at_best, "tuned_") if at_best else {}
    sentences = [
        *same_rate_sentences(experiment, question, at_same),
        *(tuned_sentences(experiment, question, condition, variants, at_same, at_best) if variants else []),
        *(outcome(words_for(question, one), one) for name, one in comparisons.items() if name not in variants),
        training.setting_sentence(results, experiment),
        *pairing_sentences(list(comparisons.values())),
        *training.failure_sentences(experiment),
    ]
    tables = [training.runs_table(experiment), *seed_tables(list(comparisons.values()))]
    status = "answered" if at_same else "partial"
    return Finding(status, metrics, sentences, tables, training.plots(experiment))


def at_any_rate(question: Question) -> Question:
    """The same question of runs whose peak rate may differ, too."""
    return replace(question, companions=(*question.companions, "max_lr"))


def is_tuned(experiment: ExperimentRuns, question: Question) -> bool:
    """Whether the ablated setting was tried at several peak rates, the baseline's among them."""
    usual = runs_with(experiment, question.setting, question.usual)
    if not usual:
        return False
    baseline = baseline_of(experiment, usual)
    others = [compare(experiment, name, baseline) for name in experiment.names() if name != baseline]
    tried = sum(answers(at_any_rate(question), one) for one in others)
    return tried > 1 and any(answers(question, one) for one in others)


def rate(experiment: ExperimentRuns, name: str) -> float:
    """The peak rate of a run."""
    return experiment.setting(name, "max_lr")


def same_rate_sentences(experiment: ExperimentRuns, question: Question, comparison: Comparison | None) -> list[str]:
    """The short answer: what the change alone does."""
    if comparison is None:
        return []
    shown = format_number(rate(experiment, comparison.baseline))
    return [outcome(f"{question.words} at the baseline's own peak rate ({shown})", comparison)]


def tuned_sentences(
    experiment: ExperimentRuns,
    question: Question,
    condition: str,
    variants: list[str],
    at_same: Comparison | None,
    at_best: Comparison | None,
) -> list[str]:
    """What a rate of its own brings to the variant."""
    tried = sorted({rate(experiment, name) for name in variants})
    rates = join_words([format_number(one) for one in tried])
    if at_best is None:
        return [f"None of the rates tried {condition} ({rates}) let every seed finish; try smaller ones."]
    if len(tried) == 1 and at_same:
        return [f"No other rate was tried {condition}, so its own best rate is not known."]
    if at_same and at_best.variant == at_same.variant:
        rivals = {name: format_number(rate(experiment, name)) for name in variants if name != at_best.variant}
        told = training.rival_words(experiment, at_best.variant, rivals)
        return [f"Of the rates tried {condition} ({rates}) the baseline's remains the best{told}."]
    shown = format_number(rate(experiment, at_best.variant))
    its_own = f"a rate of its own ({shown})" if len(tried) == 1 else f"the best of its own rates ({shown}, of {rates})"
    sentences = [outcome(f"{question.words} at {its_own}", at_best)]
    if at_same and failed_words(at_same):
        sentences.append(f"So a rate of its own makes training {condition} stable in these runs.")
    if len(tried) == 1:
        sentences.append(f"No other rate was tried {condition}, so a better one may lie beside it.")
    elif rate(experiment, at_best.variant) in (tried[0], tried[-1]):
        sentences.append("That rate lies at the edge of those tried, so a better one may lie beyond.")
    return sentences
