"""Problem experiment_log: every training run of the study, and the cost of all."""

from collections import Counter
from typing import Any

from lmpipe.analysis.finding import Finding, LinePlot, Metric, Plot, Series, Table, missing
from lmpipe.analysis.results import Results
from lmpipe.analysis.runs import Run
from lmpipe.io.formatting import format_int, format_loss, format_seconds, join_words

ID = "experiment_log"
TITLE = "Experiment log"
QUESTION = "Which runs were made, with which results, and what did they cost in tokens and time?"
SOURCE = "runs/*/*/seed*/summary.json"
COLUMNS = [
    "experiment",
    "run",
    "seed",
    "status",
    "steps",
    "tokens",
    "validation loss",
    "bits per byte",
    "time (s)",
    "tokens/s",
    "peak memory (MB)",
]


def analyze(results: Results) -> Finding:
    """Return a table of every run, the totals, and the learning curves of the best run of each experiment."""
    runs = results.runs()
    if not runs:
        return missing("This study has no training runs; add one under experiments: `first: {corpus: stories}`")
    return Finding("answered", totals(runs), sentences(results, runs), [table(runs)], curves(results))


def distinct(runs: list[Run]) -> list[Run]:
    """Return the runs without repetitions: one that two experiments share was trained once."""
    return list({identity(run): run for run in reversed(runs)}.values())[::-1]


def identity(run: Run) -> tuple[Any, ...]:
    """Return everything that decides the result of a run."""
    tokens = run.config.tokens
    return run.seed, repr(run.config.model), repr(run.config.training), tokens.train.sha256, tokens.valid.sha256


def totals(runs: list[Run]) -> dict[str, Metric]:
    """Return sums over the distinct runs, and counts by status."""
    once = distinct(runs)
    statuses = Counter(run.status for run in once)
    best = lowest_by_corpus(runs)
    return {
        "runs": Metric(len(runs), "runs", SOURCE),
        "distinct_runs": Metric(len(once), "runs", SOURCE),
        "total_tokens": Metric(sum(run.summary.tokens for run in once), "tokens", SOURCE),
        "total_wall_seconds": Metric(sum(run.summary.train_seconds for run in once), "s", SOURCE),
        **{
            f"{status}_runs": Metric(statuses[status], "runs", SOURCE)
            for status in ("finished", "diverged", "not_learning")
        },
        **{
            f"lowest_bits_per_byte_{corpus}": Metric(run.summary.bits_per_byte, "bits per byte", SOURCE)
            for corpus, run in best.items()
        },
    }


def lowest_by_corpus(runs: list[Run]) -> dict[str, Run]:
    """Return the run on each corpus with the fewest bits per byte, which compare across tokenizers."""
    finished = [run for run in runs if run.status == "finished" and run.summary.bits_per_byte is not None]
    best: dict[str, Run] = {}
    for run in sorted(finished, key=lambda run: run.summary.bits_per_byte):
        best.setdefault(run.config.corpus, run)
    return best


def sentences(results: Results, runs: list[Run]) -> list[str]:
    """Describe the totals."""
    runs_once = distinct(runs)
    statuses = Counter(run.status for run in runs_once)
    ends = join_words([f"{number} {status}" for status, number in statuses.most_common()])
    tokens, seconds = sum(run.summary.tokens for run in runs_once), sum(run.summary.train_seconds for run in runs_once)
    shared = len(runs) - len(runs_once)
    texts = [
        f"The study trained {format_int(len(runs_once))} models ({ends}) on {format_int(tokens)} tokens in all, which "
        f"took {format_seconds(seconds)} of training time, evaluations left out."
    ]
    if shared:
        texts.append(
            f"{format_int(shared)} more entries of the log are runs that several experiments share; trained once."
        )
    lowest = [
        f"{best.summary.bits_per_byte:.4f} on {corpus}, by `{best.name}` of {best.config.experiment} "
        f"(loss {format_loss(best.loss)} nats per token)"
        for corpus, best in lowest_by_corpus(runs).items()
    ]
    if lowest:
        texts.append(f"The fewest bits per byte: {join_words(lowest)}.")
    devices = sorted({f"{run.summary.device} with {run.summary.threads} threads" for run in runs})
    texts.append(f"Training ran on {join_words(devices).replace(' 1 threads', ' 1 thread')}.")
    return texts


def table(runs: list[Run]) -> Table:
    """Return a row for each run and seed."""
    rows = [
        [
            run.config.experiment,
            run.name,
            run.seed,
            run.status,
            run.summary.steps,
            run.summary.tokens,
            run.loss,
            run.summary.bits_per_byte,
            run.summary.train_seconds,
            round(run.summary.tokens_per_second or 0),
            round(run.summary.peak_memory_bytes / 1e6),
        ]
        for run in runs
    ]
    return Table("Every training run of the study.", COLUMNS, rows)


def curves(results: Results) -> list[Plot]:
    """Return the validation loss of the best run of each experiment, over steps and over training time."""
    best = best_runs(results)
    if not best:
        return []
    plots = []
    for column, xlabel, axis in (("step", "steps", "steps"), ("wall_seconds", "training time (s)", "training time")):
        path = f"figures/experiment_log_{'steps' if column == 'step' else 'time'}.svg"
        series = [
            Series(label, *(values.tolist() for _, values in run.validation_curve(column).items()))
            for label, run in best.items()
        ]
        ends = join_words([f"{label} {format_loss(run.loss)}" for label, run in best.items()])
        plots.append(
            Plot(
                path,
                f"Validation loss of the best run of each experiment against {axis}; only those on the same tokens "
                "compare.",
                f"Line plot of validation losses against {axis}; final losses: {ends}.",
                LinePlot("", xlabel, "validation loss (nats per token)", series, log_x=True),
            )
        )
    return plots


def best_runs(results: Results) -> dict[str, Run]:
    """Return the first seed of the best run of each experiment and corpus, by their names."""
    best = {}
    for experiment in results.experiments():
        by_corpus = experiment.by_corpus()
        for corpus, runs in by_corpus.items():
            name = runs.best()
            if name is not None:
                label = experiment.name if len(by_corpus) == 1 else f"{experiment.name} on {corpus}"
                best[label] = runs.seeds_of(name)[0]
    return best
