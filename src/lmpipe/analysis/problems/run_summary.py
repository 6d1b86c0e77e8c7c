"""Plots, tables, metrics and sentences that all problems about training runs use."""

from collections.abc import Iterable, Mapping, Sequence
from math import floor, log10
from statistics import fmean
from typing import Any

from lmpipe.analysis.finding import Finding, Metric, Plot, Table, missing
from lmpipe.analysis.problems.write_up_comparison import describe_corpus
from lmpipe.analysis.results import UNITS, ExperimentRuns, Results
from lmpipe.analysis.statistics import Interval, mean_interval, paired_difference
from lmpipe.io.formatting import format_int, format_loss, format_number, join_words

NATS = UNITS["validation_loss"]
# A wider range over seeds, in nats per token, is reported beside the mean, which hides a seed that learned little.
WIDE_NATS = 1.0
UNTESTED = "with one seed each, the ranking is untested"
PER_BYTE = "The runs predict different tokens, so they are compared in bits per byte instead of nats per token."


def missing_experiment(results: Results, problem: str, example: str) -> Finding:
    """Return the finding of a problem whose experiment is not in the study.

    `{corpus}` in `example` becomes the study's simple corpus, `{web}` its web corpus.
    """
    corpus = results.corpus_in_role("simple") or next(iter(results.study.corpora))
    lines = example.replace("{corpus}", corpus).replace("{web}", results.corpus_in_role("web") or "A_WEB_CORPUS")
    return missing(f"This study has no experiment {problem}; add to its file, under experiments: `{lines}`")


def across_corpora(experiment: ExperimentRuns) -> Finding:
    """Return the finding of an experiment whose runs are on several corpora, so that none is the best."""
    corpora = join_words(list(experiment.by_corpus()))
    sentence = f"The runs are on {corpora}, whose losses do not compare, so none of them is the best; use one corpus."
    return Finding("partial", {}, [sentence], [runs_table(experiment)], experiment_plots(experiment))


def per_byte_sentences(experiment: ExperimentRuns) -> list[str]:
    """Report that the runs are ranked in bits per byte, if they are."""
    return [PER_BYTE] if experiment.ranking_metric() == "bits_per_byte" else []


def table_path(experiment: ExperimentRuns) -> str:
    """Return the path of an experiment's table, below the study's folder."""
    return f"experiments/{experiment.name}/table.csv"


def mean_value(experiment: ExperimentRuns, name: str, measure: str = "validation_loss") -> float | None:
    """Return the mean over the finished seeds of one run; None if none finished."""
    values = experiment.finished_values(name, measure)
    return fmean(values) if values else None


def mean_metric(
    experiment: ExperimentRuns,
    name: str | None,
    measure: str = "validation_loss",
    unit: str = NATS,
    missing_reason: str = "",
) -> Metric:
    """Mean over the finished seeds of one run, with its 95 % interval if there are several."""
    source = table_path(experiment)
    values = experiment.finished_values(name, measure) if name else []
    if not values:
        return Metric(None, unit, source, missing_reason=missing_reason or "no run finished")
    interval = mean_interval(values)
    return Metric(interval.mean, unit, source, interval.bounds)


def metric(value: Any, unit: str, source: str, missing_reason: str) -> Metric:
    """Metric whose `missing_reason` counts only if the value is None."""
    return Metric(value, unit, source, missing_reason=missing_reason if value is None else "")


def experiment_plots(experiment: ExperimentRuns) -> list[Plot]:
    """Return the plots of an experiment: learning curves over steps and over time, and the final losses."""
    folder, names = f"experiments/{experiment.name}", experiment.names()
    ending, per_token = describe_best(experiment), experiment.ranking_metric() == "validation_loss"
    measure_name, caution = (
        ("loss", "") if per_token else ("bits per byte", "; heights on different tokens do not compare")
    )
    runs = f"{len(names)} runs ({abbreviate(names)})" if len(names) > 1 else f"the run {names[0]}"
    return [
        Plot(
            f"{folder}/loss_by_step.svg",
            f"Validation loss against optimizer steps{caution}. Curves use fixed windows of the validation split, "
            "final losses all of it.",
            f"Line plot of the validation loss in nats per token against steps for {runs}{ending}.",
        ),
        Plot(
            f"{folder}/loss_by_time.svg",
            "The same against training time, evaluations left out.",
            f"Line plot of the validation loss in nats per token against training time for {runs}{ending}.",
        ),
        Plot(
            f"{folder}/final_loss.svg",
            f"{measure_name.capitalize()} on the whole validation split at the end of each run.",
            f"Final {measure_name} of {runs}{ending}.",
        ),
    ]


def describe_best(experiment: ExperimentRuns) -> str:
    """Return the best run for the alternative text of a plot; empty if none is the best."""
    best, measure = experiment.best(), experiment.ranking_metric()
    if best is None:
        return ""
    return (
        f"; the lowest final value is {format_loss_with_unit(experiment.mean_loss(best, measure), measure)}, of {best}"
    )


def format_loss_with_unit(value: float, measure: str) -> str:
    """Return a loss with the unit of its measure.

    >>> format_loss_with_unit(2.3145, "validation_loss"), format_loss_with_unit(0.71612, "bits_per_byte")
    ('2.314 nats per token', '0.7161 bits per byte')
    """
    return f"{format_loss_value(value, measure)} {UNITS[measure]}"


def format_loss_value(value: float, measure: str) -> str:
    """Return a loss without its unit."""
    return format_loss(value) if measure == "validation_loss" else format_number(value, 4)


def abbreviate(names: Sequence[str]) -> str:
    """Return up to six names in full, or the first and the last of more."""
    return join_words(names) if len(names) <= 6 else f"{names[0]} to {names[-1]}"


def runs_table(experiment: ExperimentRuns, names: Iterable[str] | None = None) -> Table:
    """Return a row for each run, averaged over its finished seeds."""
    settings = experiment.varied_settings()
    run_names = list(experiment.names() if names is None else names)
    several = any(len(experiment.finished_values(name)) > 1 for name in run_names)
    columns = ["run", *settings, "seeds", "validation loss", *(["± (95 %)"] if several else [])]
    columns += ["perplexity", "bits per byte", "steps", "tokens", "tokens/s", "time (s)"]
    rows = [run_row(experiment, name, settings, several) for name in run_names]
    caption = "Final results of each run: means over the seeds that finished, and how many did."
    return Table(caption, columns, rows, "fewer than two of its seeds finished")


def run_row(experiment: ExperimentRuns, name: str, settings: list[str], several: bool) -> list[Any]:
    """One row of `runs_table`."""
    runs, losses = experiment.seeds_of(name), experiment.finished_values(name)
    finished = sum(run.status == "finished" for run in runs)
    failed = sorted({run.status for run in runs if run.status != "finished"})
    half_width = mean_interval(losses).half_width if len(losses) > 1 else None
    return [
        name,
        *(experiment.setting(name, key) for key in settings),
        f"{finished} of {len(runs)}" + (f" ({join_words(failed)})" if failed else ""),
        mean_value(experiment, name),
        *([half_width] if several else []),
        mean_value(experiment, name, "perplexity"),
        mean_value(experiment, name, "bits_per_byte"),
        round(fmean(run.summary.steps for run in runs)),
        round(fmean(run.summary.tokens for run in runs)),
        round(fmean(run.summary.tokens_per_second or 0 for run in runs)),
        fmean(run.summary.train_seconds for run in runs),
    ]


def setting_sentence(results: Results, experiment: ExperimentRuns) -> str:
    """Describe the settings that all runs of an experiment share."""
    runs = experiment.runs
    phrases = []
    if parameters := common_value(run.summary.parameters for run in runs):
        phrases.append(f"a model of {format_int(parameters)} parameters")
    if corpus := common_value(run.setting("corpus") for run in runs):
        phrases.append(f"on {describe_corpus(results, corpus)}")
    if tokens := common_value(run.setting("total_tokens") for run in runs):
        phrases.append(f"for {format_int(tokens)} tokens")
    if batch_size := common_value(run.setting("batch_size") for run in runs):
        phrases.append(f"with batch size {format_int(batch_size)}")
    seeds = sorted({run.seed for run in runs})
    once = (
        f"once (seed {seeds[0]})" if len(seeds) == 1 else f"with the seeds {join_words([str(seed) for seed in seeds])}"
    )
    return f"Each run trains {' '.join(phrases) or 'its own model'}, {once}."


def common_value(values: Iterable[Any]) -> Any | None:
    """Return the value that all members share; None if they differ."""
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None


def failure_sentences(experiment: ExperimentRuns) -> list[str]:
    """List the runs that diverged, and those that ended no better than the unigram entropy."""
    diverged = [
        f"`{run.name}` (seed {run.seed}) at step {format_int(run.summary.detected_step)} of "
        f"{format_int(run.summary.planned_steps)}"
        for run in experiment.runs
        if run.status == "diverged"
    ]
    stuck = [
        f"`{run.name}` (seed {run.seed}, {format_loss(run.loss)} against {format_loss(run.summary.unigram_entropy)})"
        for run in experiment.runs
        if run.status == "not_learning"
    ]
    sentences = [f"Diverged: {join_words(diverged)}."] if diverged else []
    return sentences + ([f"Stuck, no better than the unigram entropy: {join_words(stuck)}."] if stuck else [])


def describe_seeds(experiment: ExperimentRuns, name: str, measure: str = "validation_loss") -> str:
    """Return the number of seeds of a mean, such as ", mean of 3 seeds", with their range if it is wide."""
    values = experiment.finished_values(name, measure)
    spread = (
        f" from {format_number(min(values), 4)} to {format_number(max(values), 4)}"
        if has_wide_spread(experiment, name)
        else ""
    )
    return f", mean of {len(values)} seeds{spread}" if len(values) > 1 else ""


def has_wide_spread(experiment: ExperimentRuns, name: str) -> bool:
    """Return True if the losses of a run's seeds differ by more than WIDE_NATS."""
    losses = experiment.finished_values(name)
    return bool(losses) and max(losses) - min(losses) > WIDE_NATS


def describe_runner_up(experiment: ExperimentRuns, best: str, rivals: Mapping[str, str]) -> str:
    """Describe the difference of the best run from the second; empty if it is the only run.

    `rivals` maps each other run to its name in a sentence; those without a finished run for every seed are left out.
    """
    measure = experiment.ranking_metric([best, *rivals])
    means = {name: experiment.mean_loss(name, measure) for name in rivals} if measure else {}
    ranked = sorted((name for name in means if means[name] is not None), key=means.get)
    if not ranked:
        return ""
    losses = {name: experiment.losses(name, measure) for name in (best, *ranked)}
    differences = {name: paired_difference(losses[name], losses[best]) for name in ranked}
    second = differences[ranked[0]]
    if second.count == 1:
        return f"; {UNTESTED}"
    difference_text, runner_up = describe_difference(second, UNITS[measure]), rivals[ranked[0]]
    alike = join_words([rivals[name] for name in ranked[1:] if not differences[name].significant])
    if second.inconclusive:
        also = f", nor is that from {alike} resolved" if alike else ""
        return f"; the difference from the second, {runner_up}, is {difference_text}{also}"
    also = f"; the difference from {alike} is not resolved" if alike else ""
    return f"; the second, {runner_up}, ends {difference_text}{also}"


def describe_difference(difference: Interval, unit: str = "nats per token") -> str:
    """Describe a difference, claiming no more than its interval supports.

    >>> describe_difference(Interval(0.031, 0.012, 3))
    'higher by 0.031 nats per token (95 % interval 0.019 to 0.043, 3 seeds)'
    """
    low, high = difference.bounds or (difference.mean, difference.mean)
    digits = decimal_places(max(abs(low), abs(high)))
    if difference.inconclusive:
        bounds = f"{low:+.{digits}f} to {high:+.{digits}f}".replace("-", "−")
        return f"not resolved with {difference.count} seeds (95 % interval {bounds} {unit})"
    if difference.mean == 0:
        seeds = "one seed, so no interval" if difference.count == 1 else f"equal with each of {difference.count} seeds"
        return f"no different ({seeds})"
    if difference.mean < 0:
        low, high = -high, -low
    size = f"{'higher' if difference.mean > 0 else 'lower'} by {abs(difference.mean):.{digits}f} {unit}"
    if difference.bounds is None:
        return f"{size} (one seed, so no interval)"
    return f"{size} (95 % interval {low:.{digits}f} to {high:.{digits}f}, {difference.count} seeds)"


def decimal_places(largest: float) -> int:
    """Return the number of decimals, at least three, that show two digits of the largest number.

    >>> decimal_places(1.5), decimal_places(0.0004)
    (3, 5)
    """
    return max(3, 1 - floor(log10(largest))) if largest else 3
