"""Problem batch_size_experiment: loss and speed from one sequence a step up to large batches."""

from collections.abc import Callable, Sequence
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
    """One batch size: its runs, the best of them (None where none finished), and the speed of each run.

    The loss is in nats per token, or in bits per byte where the tokens of the experiment's runs differ.
    """

    batch_size: int
    names: tuple[str, ...]
    best: str | None
    loss: float | None
    speeds: tuple[float, ...]

    @property
    def tokens_per_second(self) -> float:
        """The mean speed of its runs."""
        return fmean(self.speeds)


def find(results: Results) -> Finding:
    """The best run of each batch size at equal tokens and at equal time, and the speed of each."""
    experiment = results.experiment(ID)
    if experiment is None:
        return training.missing(results, ID, LINES)
    measure = experiment.measure_of()
    if measure is None:
        return training.across_corpora(experiment)
    sizes = sizes_of(experiment, measure)
    finished = [size for size in sizes if size.best]
    best = min(finished, key=lambda size: size.loss) if finished else None
    seconds = common_seconds(experiment, finished)
    figures = size_figures(experiment, sizes, best, seconds)
    sentences = [
        best_sentence(experiment, best, sizes, measure),
        speed_sentence(sizes),
        *sharing_sentences(experiment),
        training.setting_sentence(results, experiment),
        *edge_sentences(experiment, sizes, best),
        *time_sentences(experiment, finished, seconds),
        *training.per_byte_sentences(experiment),
        *training.failure_sentences(experiment),
    ]
    status = "answered" if best and len(sizes) > 1 else "partial"
    tables = [size_table(experiment, sizes, seconds), training.runs_table(experiment)]
    return Finding(status, figures, sentences, tables, training.plots(experiment))


def sizes_of(experiment: ExperimentRuns, measure: str) -> list[Size]:
    """The batch sizes that were run, from small to large."""
    names: dict[int, list[str]] = {}
    for name in experiment.names():
        names.setdefault(experiment.setting(name, "batch_size"), []).append(name)
    sizes = []
    for batch_size, members in sorted(names.items()):
        runs = [run for name in members for run in experiment.seeds_of(name)]
        speeds = tuple(speed for run in runs if (speed := run.summary["tokens_per_second"])) or (0.0,)
        best = experiment.best_among(members)
        lowest = experiment.mean_loss(best, measure) if best else None
        sizes.append(Size(batch_size, tuple(members), best, lowest, speeds))
    return sizes


def leaders(sizes: list[Size]) -> list[Size]:
    """The fastest size, and those whose range of speeds overlaps with its own, so that they are not told apart."""
    fastest = max(sizes, key=lambda size: size.tokens_per_second)
    return [size for size in sizes if max(size.speeds) >= min(fastest.speeds)]


def enough(sizes: list[Size]) -> Size | None:
    """The smallest size that comes close to the highest speed; None where the fastest is not told apart."""
    if len(first := leaders(sizes)) > 1:
        return None
    return next(size for size in sizes if size.tokens_per_second >= ENOUGH * first[0].tokens_per_second)


def common_seconds(experiment: ExperimentRuns, finished: list[Size]) -> float | None:
    """The shortest training time of the best runs, each at the highest speed of its batch size."""
    if len(finished) < 2 or not all(max(size.speeds) for size in finished):
        return None
    return min(experiment.seeds_of(size.best)[0].summary["tokens"] / max(size.speeds) for size in finished)


def loss_at(run: Run, tokens: float) -> float | None:
    """The validation loss of a run after so many tokens, interpolated between its evaluations."""
    before = after = None
    for place, value in run.validation_curve("tokens"):
        if place <= tokens:
            before = (place, value)
        elif after is None:
            after = (place, value)
    if before is None or after is None:
        return before[1] if before else None
    share = (tokens - before[0]) / (after[0] - before[0])
    return before[1] + share * (after[1] - before[1])


def losses_at(experiment: ExperimentRuns, size: Size, seconds: float | None) -> tuple[float, float] | None:
    """The loss of a size's best run, as the mean over seeds, at a training time: at its lowest and highest speed."""
    if size.best is None or seconds is None:
        return None
    ends = []
    for speed in (min(size.speeds), max(size.speeds)):
        losses = [loss_at(run, seconds * speed) for run in experiment.seeds_of(size.best)]
        if None in losses:
            return None
        ends.append(fmean(losses))
    return ends[0], ends[1]


def size_figures(
    experiment: ExperimentRuns, sizes: list[Size], best: Size | None, seconds: float | None
) -> dict[str, Figure]:
    """Figures of the experiment; the speed of every size is one of them."""
    source = training.table_path(experiment)
    first, small = leaders(sizes), enough(sizes)
    fastest = first[0] if len(first) == 1 else None
    overlap = f"the ranges of speed of batch sizes {listing([count(size.batch_size) for size in first])} overlap"
    figures = {
        "best_batch_size": training.known(best.batch_size if best else None, "sequences", source, "no run finished"),
        "best_validation_loss": training.figure(experiment, best.best if best else None),
        "best_max_lr": training.known(
            experiment.setting(best.best, "max_lr") if best else None, "", source, "no run finished"
        ),
        "fastest_batch_size": training.known(fastest and fastest.batch_size, "sequences", source, overlap),
        "enough_batch_size": training.known(small and small.batch_size, "sequences", source, overlap),
        "equal_time_seconds": training.known(seconds, "s", source, "fewer than two batch sizes finished"),
    }
    for size in sizes:
        label = f"batch_{size.batch_size}"
        figures[f"{label}_validation_loss"] = training.figure(experiment, size.best)
        speeds = {"_lowest": min(size.speeds), "": size.tokens_per_second, "_highest": max(size.speeds)}
        for suffix, speed in speeds.items():
            figures[f"{label}_tokens_per_second{suffix}"] = Figure(speed, "tokens per second", source)
    return figures


def size_table(experiment: ExperimentRuns, sizes: list[Size], seconds: float | None) -> Table:
    """A row for each batch size with its best run."""
    after = f"loss after {seconds_text(seconds)}" if seconds else "loss at equal time"
    columns = ["batch size", "best max_lr", "rates tried", "steps", "validation loss"]
    columns += [f"{after}, at the lowest speed", "at the highest", "tokens/s, slowest run", "fastest run"]
    rows = []
    for size in sizes:
        runs = experiment.seeds_of(size.best) if size.best else []
        rows.append(
            [
                size.batch_size,
                runs[0].setting("max_lr") if runs else None,
                listing([number(rate) for rate in rates_of(experiment, size)]),
                runs[0].summary["steps"] if runs else None,
                size.loss,
                *(losses_at(experiment, size, seconds) or (None, None)),
                round(min(size.speeds)),
                round(max(size.speeds)),
            ]
        )
    return Table("The best run of each batch size, and the range of speed over all runs of that size.", columns, rows)


def best_sentence(experiment: ExperimentRuns, best: Size | None, sizes: list[Size], measure: str) -> str:
    """The short answer."""
    if best is None:
        return "No run finished, so no batch size can be called best; try smaller learning rates."
    others = {size.best: count(size.batch_size) for size in sizes if size is not best and size.best}
    reached = training.loss_text(best.loss, measure) + training.seeds_words(experiment, best.best, measure)
    if not others:
        only = "was run" if len(sizes) == 1 else "finished"
        return f"Only batch size {count(best.batch_size)} {only}, so there is no comparison; it ends at {reached}."
    tokens = {experiment.setting(size.best, "total_tokens") for size in sizes if size.best}
    losses = {size: training.bare_loss(experiment.mean_loss(name, measure), measure) for name, size in others.items()}
    ends = [f"{told} with {size}" for size, told in losses.items()]
    return (
        f"{'At equal tokens' if len(tokens) == 1 else 'With the tokens that each was given'}, batch size "
        f"{count(best.batch_size)} reaches the lowest final loss: {reached}, {rate_words(experiment, sizes)}, against "
        f"{listing(ends)}{training.rival_words(experiment, best.best, others)}."
    )


def rates_of(experiment: ExperimentRuns, size: Size) -> list[float]:
    """The peak rates that were tried with a size, from small to large."""
    return sorted({experiment.setting(name, "max_lr") for name in size.names})


def rate_words(experiment: ExperimentRuns, sizes: list[Size]) -> str:
    """Whether each size had a choice of rates, without which the comparison is unfair."""
    rates = {size: rates_of(experiment, size) for size in sizes}
    untuned = [count(size.batch_size) for size in sizes if len(rates[size]) == 1]
    if not untuned:
        return "each size at the best of its own rates"
    if len(untuned) < len(sizes):
        return f"with rates tuned for each size but {listing(untuned)}, which had a single one"
    if len(tried := {rate for own in rates.values() for rate in own}) == 1:
        return f"all at the rate {number(tried.pop())}, tuned for none of them"
    return "each at a rate that was not tuned for it"


def speed_sentence(sizes: list[Size]) -> str:
    """Speed against batch size, and from where on it hardly grows; a range where a size was timed more than once."""
    first, small = leaders(sizes), enough(sizes)
    rates = [f"{range_words(size.speeds, count)} with {count(size.batch_size)}" for size in sizes]
    sentence = f"Tokens per second, as timed inside these runs: {listing(rates)}; "
    if small is None:
        overlapping = listing([count(size.batch_size) for size in first])
        return f"{sentence}the ranges of {overlapping} overlap, so which of them is the fastest is not told apart."
    share = percent(small.tokens_per_second / first[0].tokens_per_second)
    nearly = "" if small is first[0] else f", but {count(small.batch_size)} already reaches {share} of its speed"
    once = "" if max(len(size.speeds) for size in sizes) > 1 else "; each was timed once"
    return f"{sentence}the fastest is {count(first[0].batch_size)}{nearly}{once}."


def range_words(values: Sequence[float], words: Callable[[float], str]) -> str:
    """The ends of a range, or the one number that both round to."""
    return " to ".join(dict.fromkeys([words(min(values)), words(max(values))]))


def sharing_sentences(experiment: ExperimentRuns) -> list[str]:
    """That runs which leave cores of their machine to others are slowed down by what happens to run there."""
    for run in experiment.runs:
        hardware = run.summary["environment"]["hardware"]
        on_cpu = run.summary["device"] == hardware["processor"]
        if on_cpu and run.summary["threads"] < (hardware["cores"] or 0):
            return [
                f"A run took {run.summary['threads']} of {hardware['cores']} cores and shared the machine with what "
                "ran beside it, so a part of these differences in speed is noise."
            ]
    return []


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
    rates = rates_of(experiment, size)
    return size.best is not None and len(rates) > 1 and experiment.setting(size.best, "max_lr") in (rates[0], rates[-1])


def time_sentences(experiment: ExperimentRuns, finished: list[Size], seconds: float | None) -> list[str]:
    """The comparison at equal training time instead of equal tokens, as far as the speeds are known."""
    at_time = {size: ends for size in finished if (ends := losses_at(experiment, size, seconds)) is not None}
    if len(at_time) < 2:
        return []
    ahead = min(at_time, key=lambda size: max(at_time[size]))
    level = [count(size.batch_size) for size in at_time if min(at_time[size]) <= max(at_time[ahead])]
    ends = [f"{range_words(losses, loss)} with {count(size.batch_size)}" for size, losses in at_time.items()]
    verdict = f"{listing(level)} are not told apart" if len(level) > 1 else f"batch size {level[0]} is ahead"
    return [
        f"At equal training time ({seconds_text(seconds)}, the shortest of these runs) the losses, here those of the "
        f"curves, whose windows are a part of the validation split, stand over each size's range of speed at "
        f"{listing(ends)}: {verdict}. Schedules of slower sizes are cut off there."
    ]
