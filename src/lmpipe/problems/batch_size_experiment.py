"""Problem batch_size_experiment: loss and speed from one sequence a step up to large batches."""

from dataclasses import dataclass
from statistics import fmean

from lmpipe.problems import Figure, Finding, Table, training
from lmpipe.problems.wording import count, listing, loss, number, percent, seconds_text
from lmpipe.results import ExperimentRuns, Results, Run

ID = "batch_size_experiment"
TITLE = "Batch size"
QUESTION = (
    "How do the final loss and the speed of training depend on the batch size, "
    "when each size gets a learning rate of its own and sees the same number of tokens?"
)
LINES = (
    "batch_size_experiment: {corpus: {corpus}, vary: {batch_size: [1, 4, 16, 64], "
    "max_lr: {best_of: learning_rate, sqrt_rule: [0.5, 1, 2]}}}"
)
# The share of the highest throughput from which on a larger batch is said to gain little.
ENOUGH = 0.95


@dataclass(frozen=True)
class Size:
    """One batch size: its runs, the best of them (None where none finished), and its mean speed."""

    batch_size: int
    names: tuple[str, ...]
    best: str | None
    loss: float | None
    tokens_per_second: float


def find(results: Results) -> Finding:
    """The best run of each batch size at equal tokens and at equal time, and the speed of each."""
    experiment = results.experiment(ID)
    if experiment is None:
        return training.missing(results, ID, LINES)
    sizes = sizes_of(experiment)
    finished = [size for size in sizes if size.best]
    best = min(finished, key=lambda size: size.loss) if finished else None
    seconds = common_seconds(experiment, finished)
    figures = size_figures(experiment, sizes, best, seconds)
    sentences = [
        best_sentence(best, sizes),
        speed_sentence(sizes),
        training.setting_sentence(results, experiment),
        *edge_sentences(experiment, sizes, best),
        *time_sentences(experiment, finished, seconds),
        *training.failure_sentences(experiment),
    ]
    status = "answered" if best and len(sizes) > 1 else "partial"
    tables = [size_table(experiment, sizes, seconds), training.runs_table(experiment)]
    return Finding(status, figures, sentences, tables, training.plots(experiment))


def sizes_of(experiment: ExperimentRuns) -> list[Size]:
    """The batch sizes that were run, from small to large."""
    names: dict[int, list[str]] = {}
    for name in experiment.names():
        names.setdefault(experiment.setting(name, "batch_size"), []).append(name)
    sizes = []
    for batch_size, members in sorted(names.items()):
        speeds = [run.summary["tokens_per_second"] or 0 for name in members for run in experiment.seeds_of(name)]
        best = experiment.best_among(members)
        sizes.append(
            Size(batch_size, tuple(members), best, experiment.mean_loss(best) if best else None, fmean(speeds))
        )
    return sizes


def enough(sizes: list[Size]) -> Size:
    """The smallest size that comes close to the highest speed."""
    fastest = max(size.tokens_per_second for size in sizes)
    return next(size for size in sizes if size.tokens_per_second >= ENOUGH * fastest)


def common_seconds(experiment: ExperimentRuns, finished: list[Size]) -> float | None:
    """The training time that the best run of every size reached: the shortest of their times."""
    times = [run.summary["wall_seconds"] for size in finished for run in experiment.seeds_of(size.best)]
    return min(times) if len(finished) > 1 else None


def loss_at(run: Run, seconds: float) -> float | None:
    """The validation loss of a run at a training time, interpolated between its evaluations."""
    before = after = None
    for time, value in run.validation_curve("wall_seconds"):
        if time <= seconds:
            before = (time, value)
        elif after is None:
            after = (time, value)
    if before is None or after is None:
        return before[1] if before else None
    share = (seconds - before[0]) / (after[0] - before[0])
    return before[1] + share * (after[1] - before[1])


def mean_loss_at(experiment: ExperimentRuns, size: Size, seconds: float | None) -> float | None:
    """The mean over seeds of the loss of a size's best run at a training time."""
    if size.best is None or seconds is None:
        return None
    losses = [loss_at(run, seconds) for run in experiment.seeds_of(size.best)]
    return None if None in losses else fmean(losses)


def size_figures(
    experiment: ExperimentRuns, sizes: list[Size], best: Size | None, seconds: float | None
) -> dict[str, Figure]:
    """Figures of the experiment; the speed of every size is one of them."""
    source = training.table_path(experiment)
    fastest = max(sizes, key=lambda size: size.tokens_per_second)
    figures = {
        "best_batch_size": training.known(best.batch_size if best else None, "sequences", source, "no run finished"),
        "best_validation_loss": training.figure(experiment, best.best if best else None),
        "best_max_lr": training.known(
            experiment.setting(best.best, "max_lr") if best else None, "", source, "no run finished"
        ),
        "fastest_batch_size": Figure(fastest.batch_size, "sequences", source),
        "fastest_tokens_per_second": Figure(fastest.tokens_per_second, "tokens per second", source),
        "enough_batch_size": Figure(enough(sizes).batch_size, "sequences", source),
        "equal_time_seconds": training.known(seconds, "s", source, "fewer than two batch sizes finished"),
    }
    for size in sizes:
        label = f"batch_{size.batch_size}"
        figures[f"{label}_validation_loss"] = training.figure(experiment, size.best)
        figures[f"{label}_tokens_per_second"] = Figure(size.tokens_per_second, "tokens per second", source)
    return figures


def size_table(experiment: ExperimentRuns, sizes: list[Size], seconds: float | None) -> Table:
    """A row for each batch size with its best run."""
    after = f"loss after {seconds_text(seconds)}" if seconds else "loss at equal time"
    columns = ["batch size", "best max_lr", "rates tried", "steps", "validation loss", after, "tokens/s", "time (s)"]
    rows = []
    for size in sizes:
        runs = experiment.seeds_of(size.best) if size.best else []
        rates = sorted({experiment.setting(name, "max_lr") for name in size.names})
        rows.append(
            [
                size.batch_size,
                runs[0].setting("max_lr") if runs else None,
                listing([number(rate) for rate in rates]),
                runs[0].summary["steps"] if runs else None,
                size.loss,
                mean_loss_at(experiment, size, seconds),
                round(size.tokens_per_second),
                fmean(run.summary["wall_seconds"] for run in runs) if runs else None,
            ]
        )
    return Table("The best run of each batch size.", columns, rows)


def best_sentence(best: Size | None, sizes: list[Size]) -> str:
    """The short answer."""
    if best is None:
        return "No run finished, so no batch size can be called best; try smaller learning rates."
    ends = [f"{loss(size.loss)} with {count(size.batch_size)}" for size in sizes if size is not best and size.best]
    others = f", against {listing(ends)}" if ends else ""
    return (
        f"At equal tokens, batch size {count(best.batch_size)} reaches the lowest final loss: {loss(best.loss)} nats "
        f"per token, each size at the best of its own rates{others}."
    )


def speed_sentence(sizes: list[Size]) -> str:
    """Speed against batch size, and from where on it hardly grows."""
    fastest, small = max(sizes, key=lambda size: size.tokens_per_second), enough(sizes)
    rates = [f"{count(size.tokens_per_second)} with {count(size.batch_size)}" for size in sizes]
    sentence = f"Tokens per second, as timed inside these runs: {listing(rates)}; the fastest is {fastest.batch_size}"
    if small is fastest:
        return f"{sentence}."
    share = percent(small.tokens_per_second / fastest.tokens_per_second)
    return f"{sentence}, but {small.batch_size} already reaches {share} of its speed."


def edge_sentences(experiment: ExperimentRuns, sizes: list[Size], best: Size | None) -> list[str]:
    """Whether the best size, or the best rate of a size, lies at the edge of what was tried."""
    sentences = []
    if best and len(sizes) > 1 and best in (sizes[0], sizes[-1]):
        end = "smallest" if best is sizes[0] else "largest"
        sentences.append(f"The best batch size is the {end} one tried, so the optimum may lie beyond the grid.")
    at_edge = [count(size.batch_size) for size in sizes if rate_at_edge(experiment, size)]
    if at_edge:
        sizes_words = f"batch size{'s' if len(at_edge) > 1 else ''} {listing(at_edge)}"
        sentences.append(
            f"For {sizes_words} the best rate lies at the edge of the rates tried, so a better one may lie beyond, "
            "and the comparison may be unfair to them."
        )
    return sentences


def rate_at_edge(experiment: ExperimentRuns, size: Size) -> bool:
    """Whether a size's best rate is the smallest or largest of several that were tried."""
    rates = sorted({experiment.setting(name, "max_lr") for name in size.names})
    return size.best is not None and len(rates) > 1 and experiment.setting(size.best, "max_lr") in (rates[0], rates[-1])


def time_sentences(experiment: ExperimentRuns, finished: list[Size], seconds: float | None) -> list[str]:
    """The comparison at equal training time instead of equal tokens."""
    if seconds is None:
        return []
    at_time = {size: mean_loss_at(experiment, size, seconds) for size in finished}
    known = {size: value for size, value in at_time.items() if value is not None}
    if not known:
        return []
    best = min(known, key=known.get)
    ends = [f"{loss(value)} with {count(size.batch_size)}" for size, value in known.items()]
    return [
        f"At equal training time ({seconds_text(seconds)}, the shortest of these runs) the losses, here those of the "
        f"curves, whose windows are a part of the validation split, stand at {listing(ends)}: batch size "
        f"{count(best.batch_size)} is ahead. Schedules of slower sizes are cut off there."
    ]
