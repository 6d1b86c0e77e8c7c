"""An experiment that is not a problem of the write-up: a ranking of its runs, or differences from a baseline."""

from lmpipe.analysis.finding import Finding, Metric, Table
from lmpipe.analysis.problems import run_summary
from lmpipe.analysis.problems.paired_comparison import (
    baseline_metrics,
    choose_baseline,
    compare,
    comparison_metrics,
    describe_outcome,
    generic_opening,
    pairing_sentences,
    seed_tables,
)
from lmpipe.analysis.results import UNITS, ExperimentRuns, Results
from lmpipe.io.formatting import join_words

ACROSS = "Losses on different corpora do not compare, so each corpus has a ranking of its own."


def heading(results: Results, name: str) -> tuple[str, str]:
    """Return the title and the question of an experiment, from its name and the settings that it varies."""
    experiment = results.experiment(name)
    title = name.replace("_", " ").replace("-", " ").strip()
    title = title[:1].upper() + title[1:]
    if settings := experiment.swept_settings():
        return title, f"How does the final loss depend on {join_words(settings)}?"
    baseline = choose_baseline(experiment)
    variants = [run for run in experiment.names() if run != baseline]
    if not variants:
        return title, f"How well does the run {baseline} do?"
    return title, f"How do the runs {run_summary.abbreviate(variants)} compare with {baseline}?"


def analyze(results: Results, name: str) -> Finding:
    """Return the finding of a sweep by its best and worst run, or of other runs by differences from the baseline."""
    experiment = results.experiment(name)
    measure = experiment.ranking_metric()
    if measure is None:
        metrics, sentences, tables = ranking_by_corpus(experiment)
    elif experiment.swept_settings() or measure == "bits_per_byte":
        metrics, sentences, tables = ranking(experiment)
    else:
        metrics, sentences, tables = differences(experiment)
    sentences += [run_summary.setting_sentence(results, experiment), *run_summary.per_byte_sentences(experiment)]
    sentences += run_summary.failure_sentences(experiment)
    status = "answered" if any(experiment.finished_values(run) for run in experiment.names()) else "partial"
    tables = [run_summary.runs_table(experiment), *tables]
    return Finding(status, metrics, sentences, tables, run_summary.experiment_plots(experiment))


def ranking_by_corpus(experiment: ExperimentRuns) -> tuple[dict[str, Metric], list[str], list[Table]]:
    """Return the best run on each corpus, since losses on different corpora do not compare."""
    metrics, sentences = {}, []
    for corpus, runs in experiment.by_corpus().items():
        corpus_metrics, corpus_sentences, _ = ranking(runs, f"On {corpus}, the ")
        metrics |= {
            f"{corpus}_best_run" if name == "best_run" else name: metric for name, metric in corpus_metrics.items()
        }
        sentences += corpus_sentences
    return metrics, [*sentences, ACROSS], []


def ranking(experiment: ExperimentRuns, opening: str = "The ") -> tuple[dict[str, Metric], list[str], list[Table]]:
    """Return the best and the worst run whose seeds all finished."""
    names, measure = experiment.names(), experiment.ranking_metric()
    metrics = {name: run_summary.mean_metric(experiment, name, measure, UNITS[measure]) for name in names}
    if len(names) == 1:
        return metrics, [f"{opening}run `{names[0]}` {ending(experiment, names[0], measure)}."], []
    means = {name: mean for name in names if (mean := experiment.mean_loss(name, measure)) is not None}
    if not means:
        return metrics, [f"{opening}runs did not finish with every seed."], []
    best, worst = min(means, key=means.get), max(means, key=means.get)
    metrics = {"best_run": Metric(best, "", run_summary.table_path(experiment)), **metrics}
    rivals = {name: f"`{name}`" for name in names if name != best}
    sentence = f"{opening}best of {len(names)} runs is `{best}` with {describe_mean(experiment, best, measure)}"
    sentence += run_summary.describe_runner_up(experiment, best, rivals)
    if best != worst:
        sentence += f"; the worst that finished is `{worst}` with {describe_mean(experiment, worst, measure)}"
    return metrics, [f"{sentence}."], []


def describe_mean(experiment: ExperimentRuns, name: str, measure: str) -> str:
    """Return a run's mean with its unit, for a sentence."""
    value = run_summary.format_loss_with_unit(run_summary.mean_value(experiment, name, measure), measure)
    return f"{value}{run_summary.describe_seeds(experiment, name, measure)}"


def ending(experiment: ExperimentRuns, name: str, measure: str) -> str:
    """Describe the end of an experiment's only run."""
    finished = experiment.finished_values(name, measure)
    return f"ends at {describe_mean(experiment, name, measure)}" if finished else "did not finish"


def differences(experiment: ExperimentRuns) -> tuple[dict[str, Metric], list[str], list[Table]]:
    """Return the differences of every run from the baseline."""
    baseline = choose_baseline(experiment)
    comparisons = [compare(experiment, name, baseline) for name in experiment.names() if name != baseline]
    metrics = baseline_metrics(experiment, baseline)
    for comparison in comparisons:
        metrics |= comparison_metrics(comparison, f"{comparison.variant}_")
    if not comparisons:
        return metrics, [f"The run `{baseline}` {ending(experiment, baseline, 'validation_loss')}."], []
    sentences = [describe_outcome(generic_opening(comparison), comparison) for comparison in comparisons]
    return metrics, [*sentences, *pairing_sentences(comparisons)], seed_tables(comparisons)
