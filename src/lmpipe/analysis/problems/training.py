"""What the problems about training runs share: their plots, tables, and the sentences on setting and failures."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from lmpipe.analysis.finding import Finding, Metric, Plot, Table, missing
from lmpipe.analysis.problems.reference import corpus_in_words
from lmpipe.analysis.results import UNITS, ExperimentRuns, Results, Run
from lmpipe.analysis.statistics import describe_difference, mean_interval, paired_difference
from lmpipe.io.formatting import format_int, format_loss, format_number, join_words

NATS = UNITS["validation_loss"]
# A spread over seeds, in nats per token, of which a mean alone would hide that a run learned little or nothing.
WIDE_NATS = 1.0
UNTESTED = "with one seed each, the ranking is untested"
PER_BYTE = "The runs predict different tokens, so they are compared in bits per byte instead of nats per token."


def missing_experiment(results: Results, problem: str, lines: str) -> Finding:
    """The finding of a problem whose experiment this study lacks.

    `{corpus}` in `lines` becomes the study's simple corpus, `{web}` the one in the place of web text.
    """
    corpus = results.corpus_in_role("simple") or next(iter(results.study["corpora"]))
    added = lines.replace("{corpus}", corpus).replace("{web}", results.corpus_in_role("web") or "A_WEB_CORPUS")
    return missing(f"This study has no experiment {problem}; add to its file, under experiments: `{added}`")


def across_corpora(experiment: ExperimentRuns) -> Finding:
    """The finding of an experiment that asks for its best run, but whose runs are on several corpora."""
    corpora = join_words(list(experiment.by_corpus()))
    sentence = f"The runs are on {corpora}, whose losses do not compare, so none of them is the best; use one corpus."
    return Finding("partial", {}, [sentence], [runs_table(experiment)], plots(experiment))


def per_byte_sentences(experiment: ExperimentRuns) -> list[str]:
    """That the runs are ranked in bits per byte, where they are."""
    return [PER_BYTE] if experiment.measure_of() == "bits_per_byte" else []


def table_path(experiment: ExperimentRuns) -> str:
    """Where the numbers of an experiment's runs lie, below the study's folder."""
    return f"experiments/{experiment.name}/table.csv"


def values(experiment: ExperimentRuns, name: str, measure: str = "validation_loss") -> list[float]:
    """What the finished seeds of one run measured."""
    return list(experiment.losses(name, measure).values())


def mean(experiment: ExperimentRuns, name: str, measure: str = "validation_loss") -> float | None:
    """The mean over the finished seeds of one run; None where none finished."""
    measured = values(experiment, name, measure)
    return fmean(measured) if measured else None


def mean_metric(
    experiment: ExperimentRuns,
    name: str | None,
    measure: str = "validation_loss",
    unit: str = NATS,
    missing_reason: str = "",
) -> Metric:
    """Mean over the finished seeds of one run, with its 95 % interval if there are several."""
    source = table_path(experiment)
    measured = values(experiment, name, measure) if name else []
    if not measured:
        return Metric(None, unit, source, missing_reason=missing_reason or "no run finished")
    interval = mean_interval(measured)
    return Metric(interval.mean, unit, source, interval.bounds)


def metric(value: Any, unit: str, source: str, missing_reason: str) -> Metric:
    """Metric whose `missing_reason` counts only if the value is None."""
    return Metric(value, unit, source, missing_reason=missing_reason if value is None else "")


def plots(experiment: ExperimentRuns) -> list[Plot]:
    """The plots of an experiment: learning curves over steps and over time, and the final losses."""
    folder, names = f"experiments/{experiment.name}", experiment.names()
    ending, per_token = best_words(experiment), experiment.measure_of() == "validation_loss"
    measured, caution = ("loss", "") if per_token else ("bits per byte", "; heights on different tokens do not compare")
    runs = f"{len(names)} runs ({brief(names)})" if len(names) > 1 else f"the run {names[0]}"
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
            f"{measured.capitalize()} on the whole validation split at the end of each run.",
            f"Final {measured} of {runs}{ending}.",
        ),
    ]


def best_words(experiment: ExperimentRuns) -> str:
    """The best run for those who cannot see a plot; nothing where none is the best."""
    best, measure = experiment.best(), experiment.measure_of()
    if best is None:
        return ""
    return f"; the lowest final value is {loss_text(experiment.mean_loss(best, measure), measure)}, of {best}"


def loss_text(value: float, measure: str) -> str:
    """A loss with the unit of its measure.

    >>> loss_text(2.3145, "validation_loss"), loss_text(0.71612, "bits_per_byte")
    ('2.314 nats per token', '0.7161 bits per byte')
    """
    return f"{bare_loss(value, measure)} {UNITS[measure]}"


def bare_loss(value: float, measure: str) -> str:
    """A loss without its unit, which the sentence gives elsewhere."""
    return format_loss(value) if measure == "validation_loss" else format_number(value, 4)


def brief(names: Sequence[str]) -> str:
    """Up to six names in full, more as the first, the last and how many lie between."""
    return join_words(names) if len(names) <= 6 else f"{names[0]} to {names[-1]}"


def runs_table(experiment: ExperimentRuns, names: Iterable[str] | None = None) -> Table:
    """A row for each run, averaged over its finished seeds."""
    settings = experiment.varied_settings()
    shown = list(experiment.names() if names is None else names)
    several = any(len(values(experiment, name)) > 1 for name in shown)
    columns = ["run", *settings, "seeds", "validation loss", *(["± (95 %)"] if several else [])]
    columns += ["perplexity", "bits per byte", "steps", "tokens", "tokens/s", "time (s)"]
    rows = [run_row(experiment, name, settings, several) for name in shown]
    caption = "Final results of each run: means over the seeds that finished, and how many did."
    return Table(caption, columns, rows, "fewer than two of its seeds finished")


def run_row(experiment: ExperimentRuns, name: str, settings: list[str], several: bool) -> list[Any]:
    """One row of `runs_table`."""
    runs, losses = experiment.seeds_of(name), values(experiment, name)
    finished = sum(run.status == "finished" for run in runs)
    half_width = mean_interval(losses).half_width if len(losses) > 1 else None
    return [
        name,
        *(experiment.setting(name, key) for key in settings),
        f"{finished} of {len(runs)}" + failure_words(runs),
        mean(experiment, name),
        *([half_width] if several else []),
        mean(experiment, name, "perplexity"),
        mean(experiment, name, "bits_per_byte"),
        round(fmean(run.summary["steps"] for run in runs)),
        round(fmean(run.summary["tokens"] for run in runs)),
        round(fmean(run.summary["tokens_per_second"] or 0 for run in runs)),
        fmean(run.summary["train_seconds"] for run in runs),
    ]


def failure_words(runs: list[Run]) -> str:
    """What became of the runs that did not finish, for a cell of a table."""
    failed = sorted({run.status for run in runs if run.status != "finished"})
    return f" ({join_words(failed)})" if failed else ""


def setting_sentence(results: Results, experiment: ExperimentRuns) -> str:
    """What all runs of an experiment have in common, in a sentence."""
    runs = experiment.runs
    parts = []
    if parameters := common(run.summary["parameters"] for run in runs):
        parts.append(f"a model of {format_int(parameters)} parameters")
    if corpus := common(run.setting("corpus") for run in runs):
        parts.append(f"on {corpus_in_words(results, corpus)}")
    if tokens := common(run.setting("total_tokens") for run in runs):
        parts.append(f"for {format_int(tokens)} tokens")
    if batch_size := common(run.setting("batch_size") for run in runs):
        parts.append(f"with batch size {format_int(batch_size)}")
    seeds = sorted({run.seed for run in runs})
    once = (
        f"once (seed {seeds[0]})" if len(seeds) == 1 else f"with the seeds {join_words([str(seed) for seed in seeds])}"
    )
    return f"Each run trains {' '.join(parts) or 'its own model'}, {once}."


def common(found: Iterable[Any]) -> Any | None:
    """The value that all members share; None where they differ."""
    distinct = set(found)
    return distinct.pop() if len(distinct) == 1 else None


def failure_sentences(experiment: ExperimentRuns) -> list[str]:
    """Which runs diverged, and when, and which ended no better than the unigram entropy."""
    diverged = [f"`{run.name}` (seed {run.seed}) at {when(run)}" for run in experiment.runs if run.status == "diverged"]
    stuck = [
        f"`{run.name}` (seed {run.seed}, {format_loss(run.loss)} against {format_loss(run.summary['unigram_entropy'])})"
        for run in experiment.runs
        if run.status == "not_learning"
    ]
    sentences = [f"Diverged: {join_words(diverged)}."] if diverged else []
    return sentences + ([f"Stuck, no better than the unigram entropy: {join_words(stuck)}."] if stuck else [])


def when(run: Run) -> str:
    """Where a run stopped."""
    return f"step {format_int(run.summary['diverged_step'])} of {format_int(run.summary['planned_steps'])}"


def seeds_words(experiment: ExperimentRuns, name: str, measure: str = "validation_loss") -> str:
    """How many seeds stand behind a mean: nothing for one, ", mean of 3 seeds" for three, with their range if wide."""
    measured = values(experiment, name, measure)
    spread = (
        f" from {format_number(min(measured), 4)} to {format_number(max(measured), 4)}"
        if is_wide(experiment, name)
        else ""
    )
    return f", mean of {len(measured)} seeds{spread}" if len(measured) > 1 else ""


def is_wide(experiment: ExperimentRuns, name: str) -> bool:
    """Whether the seeds of a run differ so much that their mean alone would mislead."""
    losses = values(experiment, name)
    return bool(losses) and max(losses) - min(losses) > WIDE_NATS


def rival_words(experiment: ExperimentRuns, best: str, rivals: Mapping[str, str]) -> str:
    """How far seeds tell the best run from the others, to follow its metrics; nothing where it is the only one.

    `rivals` says how a sentence names each other run; those without a finished run for every seed are left out.
    """
    measure = experiment.measure_of([best, *rivals])
    means = {name: experiment.mean_loss(name, measure) for name in rivals} if measure else {}
    ranked = sorted((name for name in means if means[name] is not None), key=means.get)
    if not ranked:
        return ""
    theirs = {name: experiment.losses(name, measure) for name in (best, *ranked)}
    differences = {name: paired_difference(theirs[name], theirs[best]) for name in ranked}
    second = differences[ranked[0]]
    if second.count == 1:
        return f"; {UNTESTED}"
    told, runner_up = describe_difference(second, UNITS[measure]), rivals[ranked[0]]
    alike = join_words([rivals[name] for name in ranked[1:] if not differences[name].resolved])
    if second.unresolved:
        also = f", nor is that from {alike} resolved" if alike else ""
        return f"; the difference from the second, {runner_up}, is {told}{also}"
    also = f"; the difference from {alike} is not resolved" if alike else ""
    return f"; the second, {runner_up}, ends {told}{also}"
