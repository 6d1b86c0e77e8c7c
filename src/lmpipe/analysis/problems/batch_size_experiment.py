"""Problem batch_size_experiment: loss and speed from one sequence a step up to large batches."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from lmpipe.analysis.finding import Finding, Metric, Table
from lmpipe.analysis.problems import batch_size_limits, run_summary
from lmpipe.analysis.results import ExperimentRuns, Results
from lmpipe.analysis.runs import Run
from lmpipe.analysis.statistics import paired_difference
from lmpipe.io.formatting import format_int, format_loss, format_number, format_percent, format_seconds, join_words

ID = "batch_size_experiment"
TITLE = "Batch size"
QUESTION = (
    "How do the final loss and the speed of training depend on the batch size, "
    "when each size gets a learning rate of its own and sees the same number of tokens?"
)
EXAMPLE_CONFIG = (
    "batch_size_experiment: {corpus: {corpus}, sweep: {batch_size: [1, 4, 16, 64], "
    "max_lr: {best_of: learning_rate, scale: sqrt_batch_size, factor: [0.5, 1, 2]}}}"
)
# Share of the highest throughput at which a larger batch gains little.
SATURATION_FRACTION = 0.95


@dataclass(frozen=True)
class BatchSizeResult:
    """One batch size: its runs, the best of them (None if none finished), and its speeds in tokens per second.

    The loss is in nats per token, or in bits per byte if the tokens of the experiment's runs differ. If a step
    was timed alone on the machine (`is_benchmarked`), that is the only speed; otherwise there is one of each run.
    """

    batch_size: int
    names: tuple[str, ...]
    best: str | None
    loss: float | None
    speeds: tuple[float, ...]
    is_benchmarked: bool

    @property
    def tokens_per_second(self) -> float:
        """The speed, or the mean speed of its runs."""
        return fmean(self.speeds)


def analyze(results: Results) -> Finding:
    """Return the best run of each batch size at equal tokens and at equal time, and the largest that fits."""
    experiment = results.experiment(ID)
    if experiment is None:
        return run_summary.missing_experiment(results, ID, EXAMPLE_CONFIG)
    measure = experiment.ranking_metric()
    if measure is None:
        return run_summary.across_corpora(experiment)
    benchmark = batch_size_limits.read_benchmark(results, experiment)
    sizes = batch_size_results(experiment, measure, batch_size_limits.speeds(benchmark))
    finished = [size for size in sizes if size.best]
    best = min(finished, key=lambda size: size.loss) if finished else None
    seconds = time_budget(experiment, finished)
    sentences = [
        best_sentence(experiment, best, sizes, measure),
        *time_sentences(experiment, finished, seconds),
        speed_sentence(sizes),
        *sharing_sentences(experiment, sizes),
        run_summary.setting_sentence(results, experiment),
        *steps_sentences(experiment, finished),
        *rate_sentences(experiment, finished),
        *edge_sentences(experiment, sizes, best),
        *run_summary.per_byte_sentences(experiment),
        *run_summary.failure_sentences(experiment),
    ]
    is_answered = best and len(sizes) > 1 and all(size.is_benchmarked for size in sizes)
    tables = [
        size_table(experiment, sizes, seconds),
        *batch_size_limits.tables(benchmark),
        run_summary.runs_table(experiment),
    ]
    metrics = size_metrics(experiment, sizes, best, seconds) | batch_size_limits.metrics(benchmark)
    return Finding(
        "answered" if is_answered else "partial", metrics, sentences, tables, run_summary.experiment_plots(experiment)
    )


def batch_size_results(
    experiment: ExperimentRuns, measure: str, benchmark: Mapping[int, float]
) -> list[BatchSizeResult]:
    """Return the batch sizes from small to large; `benchmark` has the speeds of those that were timed alone."""
    names: dict[int, list[str]] = {}
    for name in experiment.names():
        names.setdefault(experiment.setting(name, "batch_size"), []).append(name)
    sizes = []
    for batch_size, members in sorted(names.items()):
        runs = [run for name in members for run in experiment.seeds_of(name)]
        speeds = tuple(speed for run in runs if (speed := run.summary.tokens_per_second)) or (0.0,)
        speeds = (benchmark[batch_size],) if batch_size in benchmark else speeds
        best = experiment.best_among(members)
        lowest = experiment.mean_loss(best, measure) if best else None
        sizes.append(BatchSizeResult(batch_size, tuple(members), best, lowest, speeds, batch_size in benchmark))
    return sizes


def fastest_sizes(sizes: list[BatchSizeResult]) -> list[BatchSizeResult]:
    """Return the fastest size, and those whose range of speeds overlaps with its range."""
    fastest = max(sizes, key=lambda size: size.tokens_per_second)
    return [size for size in sizes if max(size.speeds) >= min(fastest.speeds)]


def saturation_size(sizes: list[BatchSizeResult]) -> BatchSizeResult | None:
    """Return the smallest size that comes close to the highest speed; None if speed ranges overlap at the top."""
    if len(first := fastest_sizes(sizes)) > 1:
        return None
    return next(size for size in sizes if size.tokens_per_second >= SATURATION_FRACTION * first[0].tokens_per_second)


def time_budget(experiment: ExperimentRuns, finished: list[BatchSizeResult]) -> float | None:
    """Return the shortest training time of the best runs, each at the highest speed of its batch size."""
    if len(finished) < 2 or not all(max(size.speeds) for size in finished):
        return None
    return min(experiment.seeds_of(size.best)[0].summary.tokens / max(size.speeds) for size in finished)


def loss_at(run: Run, tokens: float) -> float | None:
    """Return the validation loss of a run after `tokens` tokens, interpolated between its evaluations."""
    curve = run.validation_curve("tokens")
    if curve.empty or tokens < curve["tokens"].iloc[0]:
        return None
    before, after = curve[curve["tokens"] <= tokens], curve[curve["tokens"] > tokens]
    x0, y0 = before.iloc[-1].tolist()
    if after.empty:
        return y0
    x1, y1 = after.iloc[0].tolist()
    return y0 + (tokens - x0) / (x1 - x0) * (y1 - y0)


def loss_range_at(
    experiment: ExperimentRuns, size: BatchSizeResult, seconds: float | None
) -> tuple[float, float] | None:
    """Return the mean loss of a size's best run at a training time, for its lowest and its highest speed."""
    if size.best is None or seconds is None:
        return None
    ends = []
    for speed in (min(size.speeds), max(size.speeds)):
        losses = [loss_at(run, seconds * speed) for run in experiment.seeds_of(size.best)]
        if None in losses:
            return None
        ends.append(fmean(losses))
    return ends[0], ends[1]


def size_metrics(
    experiment: ExperimentRuns, sizes: list[BatchSizeResult], best: BatchSizeResult | None, seconds: float | None
) -> dict[str, Metric]:
    """Metrics of the experiment; the speed of every size is one of them."""
    source = run_summary.table_path(experiment)
    first, small = fastest_sizes(sizes), saturation_size(sizes)
    fastest = first[0] if len(first) == 1 else None
    overlap = (
        f"the ranges of speed of batch sizes {join_words([format_int(size.batch_size) for size in first])} overlap"
    )
    speed_source = batch_size_limits.SOURCE if all(size.is_benchmarked for size in sizes) else source
    finished = [size for size in sizes if size.best]
    exponent, paying = rate_exponent(experiment, finished), best_at_equal_time(experiment, finished, seconds)
    level = "no two batch sizes are told apart at equal training time"
    metrics = {
        "best_batch_size": run_summary.metric(
            best.batch_size if best else None, "sequences", source, "no run finished"
        ),
        "best_validation_loss": run_summary.mean_metric(experiment, best.best if best else None),
        "best_max_lr": run_summary.metric(
            experiment.setting(best.best, "max_lr") if best else None, "", source, "no run finished"
        ),
        "fastest_batch_size": run_summary.metric(fastest and fastest.batch_size, "sequences", speed_source, overlap),
        "saturation_batch_size": run_summary.metric(small and small.batch_size, "sequences", speed_source, overlap),
        "time_budget_seconds": run_summary.metric(seconds, "s", source, "fewer than two batch sizes finished"),
        "best_batch_size_at_equal_time": run_summary.metric(paying and paying.batch_size, "sequences", source, level),
        "best_max_lr_exponent": run_summary.metric(exponent, "", source, "fewer than two batch sizes finished"),
    }
    for size in sizes:
        label = f"batch_{size.batch_size}"
        metrics[f"{label}_validation_loss"] = run_summary.mean_metric(experiment, size.best)
        at_time = loss_range_at(experiment, size, seconds)
        metrics[f"{label}_loss_at_equal_time"] = run_summary.metric(
            fmean(at_time) if at_time else None,
            run_summary.NATS,
            source,
            "its curve does not reach so far, or has no time",
        )
        speeds = {"_lowest": min(size.speeds), "": size.tokens_per_second, "_highest": max(size.speeds)}
        for suffix, speed in speeds.items():
            file = batch_size_limits.SOURCE if size.is_benchmarked else source
            metrics[f"{label}_tokens_per_second{suffix}"] = Metric(speed, "tokens per second", file)
    return metrics


def size_table(experiment: ExperimentRuns, sizes: list[BatchSizeResult], seconds: float | None) -> Table:
    """Return a row for each batch size: its best run, and its speed, or its range of speeds inside runs."""
    after = f"loss after {format_seconds(seconds)}" if seconds else "loss at equal time"
    all_benchmarked = all(size.is_benchmarked for size in sizes)
    columns = ["batch size", "best max_lr", "rates tried", "steps", "validation loss"]
    columns += [after] if all_benchmarked else [f"{after}, at the lowest speed", "at the highest"]
    columns += ["tokens/s"] if all_benchmarked else ["tokens/s, lowest", "highest", "timed"]
    rows = []
    for size in sizes:
        runs = experiment.seeds_of(size.best) if size.best else []
        at_time = list(loss_range_at(experiment, size, seconds) or (None, None))
        speeds = [round(min(size.speeds)), round(max(size.speeds))]
        timing = "alone" if size.is_benchmarked else "in runs"
        cells = [*at_time[:1], speeds[0]] if all_benchmarked else [*at_time, *speeds, timing]
        rows.append(
            [
                size.batch_size,
                runs[0].setting("max_lr") if runs else None,
                join_words([format_number(rate) for rate in rates_of(experiment, size)]),
                runs[0].summary.steps if runs else None,
                size.loss,
                *cells,
            ]
        )
    steps = (
        "a step timed alone on the machine" if all_benchmarked else "a step timed alone, or of all runs of that size"
    )
    return Table(f"The best run of each batch size, and the speed of {steps}.", columns, rows)


def best_sentence(
    experiment: ExperimentRuns, best: BatchSizeResult | None, sizes: list[BatchSizeResult], measure: str
) -> str:
    """Return the short answer."""
    if best is None:
        return "No run finished, so no batch size can be called best; try smaller learning rates."
    rivals = {size.best: format_int(size.batch_size) for size in sizes if size is not best and size.best}
    reached = run_summary.format_loss_with_unit(best.loss, measure) + run_summary.describe_seeds(
        experiment, best.best, measure
    )
    if not rivals:
        only = "was run" if len(sizes) == 1 else "finished"
        return f"Only batch size {format_int(best.batch_size)} {only}, so there is no comparison; it ends at {reached}."
    tokens = {experiment.setting(size.best, "total_tokens") for size in sizes if size.best}
    losses = {
        size: run_summary.format_loss_value(experiment.mean_loss(name, measure), measure)
        for name, size in rivals.items()
    }
    ends = [f"{loss} with {size}" for size, loss in losses.items()]
    return (
        f"{'At equal tokens' if len(tokens) == 1 else 'With the tokens that each was given'}, batch size "
        f"{format_int(best.batch_size)} reaches the lowest final loss: {reached}, "
        f"{describe_tuning(experiment, sizes)}, against "
        f"{join_words(ends)}{run_summary.describe_runner_up(experiment, best.best, rivals)}."
    )


def rates_of(experiment: ExperimentRuns, size: BatchSizeResult) -> list[float]:
    """Return the peak rates that were tried with a size, from small to large."""
    return sorted({experiment.setting(name, "max_lr") for name in size.names})


def describe_tuning(experiment: ExperimentRuns, sizes: list[BatchSizeResult]) -> str:
    """Describe the rates that each size was tuned over; without a choice the comparison is unfair."""
    rates = {size: rates_of(experiment, size) for size in sizes}
    untuned = [format_int(size.batch_size) for size in sizes if len(rates[size]) == 1]
    if not untuned:
        return "each size at the best of its own rates"
    if len(untuned) < len(sizes):
        return f"with rates tuned for each size but {join_words(untuned)}, which had a single one"
    if len(all_rates := {rate for size_rates in rates.values() for rate in size_rates}) == 1:
        return f"all at the rate {format_number(all_rates.pop())}, tuned for none of them"
    return "each at a rate that was not tuned for it"


def speed_sentence(sizes: list[BatchSizeResult]) -> str:
    """Describe the speed of each batch size, and the size above which it hardly grows."""
    first, small = fastest_sizes(sizes), saturation_size(sizes)
    rates = [f"{format_range(size.speeds, format_int)} with {format_int(size.batch_size)}" for size in sizes]
    sentence = f"Tokens per second, {describe_timing(sizes)}: {join_words(rates)}; "
    if small is None:
        overlapping = join_words([format_int(size.batch_size) for size in first])
        return f"{sentence}the ranges of {overlapping} overlap, so which of them is the fastest is not told apart."
    share = format_percent(small.tokens_per_second / first[0].tokens_per_second)
    nearly = "" if small is first[0] else f", but {format_int(small.batch_size)} already reaches {share} of its speed"
    in_runs = not any(size.is_benchmarked for size in sizes)
    once = "; each was timed once" if in_runs and max(len(size.speeds) for size in sizes) == 1 else ""
    return f"{sentence}the fastest is {format_int(first[0].batch_size)}{nearly}{once}."


def describe_timing(sizes: list[BatchSizeResult]) -> str:
    """Describe the timing: a step alone on the machine, or inside the runs."""
    inside = [format_int(size.batch_size) for size in sizes if not size.is_benchmarked]
    if len(inside) == len(sizes):
        return "as timed inside these runs"
    benchmark = "of steps timed alone on the machine"
    return f"{benchmark} (with {join_words(inside)}, which had none, inside the runs)" if inside else benchmark


def format_range(values: Sequence[float], format_value: Callable[[float], str]) -> str:
    """Return the ends of a range, or the one number that both round to."""
    return " to ".join(dict.fromkeys([format_value(min(values)), format_value(max(values))]))


def sharing_sentences(experiment: ExperimentRuns, sizes: list[BatchSizeResult]) -> list[str]:
    """Warn that runs which shared their machine are slowed down by other jobs."""
    shared = {name for size in sizes if not size.is_benchmarked for name in size.names}
    for run in (run for run in experiment.runs if run.name in shared):
        hardware = run.summary.environment.hardware
        on_cpu = run.summary.device == hardware.processor
        if on_cpu and run.summary.threads < (hardware.cores or 0):
            return [
                f"A run took {run.summary.threads} of {hardware.cores} cores and shared the machine with what "
                "ran beside it, so a part of these differences in speed is noise."
            ]
    return []


def edge_sentences(experiment: ExperimentRuns, sizes: list[BatchSizeResult], best: BatchSizeResult | None) -> list[str]:
    """Warn if the best size, or the best rate of a size, is at the edge of the grid."""
    sentences = []
    if best and len(sizes) > 1 and best in (sizes[0], sizes[-1]):
        end = "smallest" if best is sizes[0] else "largest"
        sentences.append(f"The best batch size is the {end} one tried, so the optimum may lie beyond the grid.")
    at_edge = [format_int(size.batch_size) for size in sizes if rate_at_edge(experiment, size)]
    if at_edge:
        sizes_text = f"batch size{'s' if len(at_edge) > 1 else ''} {join_words(at_edge)}"
        sentences.append(
            f"For {sizes_text} the best rate lies at the edge of the rates tried, so a better one may lie beyond, "
            "and the comparison may be unfair to them."
        )
    return sentences


def rate_at_edge(experiment: ExperimentRuns, size: BatchSizeResult) -> bool:
    """Return True if a size's best rate is the smallest or largest of several that were tried."""
    rates = rates_of(experiment, size)
    return size.best is not None and len(rates) > 1 and experiment.setting(size.best, "max_lr") in (rates[0], rates[-1])


def steps_sentences(experiment: ExperimentRuns, finished: list[BatchSizeResult]) -> list[str]:
    """Describe the number of optimizer steps of the smallest and the largest size."""
    if len(finished) < 2:
        return []
    first, last = finished[0], finished[-1]
    steps = [format_int(experiment.seeds_of(size.best)[0].summary.steps) for size in (first, last)]
    return [
        f"That leaves {steps[0]} optimizer steps with batch size {format_int(first.batch_size)} and {steps[1]} with "
        f"{format_int(last.batch_size)}."
    ]


def rate_exponent(experiment: ExperimentRuns, finished: list[BatchSizeResult]) -> float | None:
    """Return the exponent of the best rate's growth with the batch size (least squares of logarithms)."""
    if len(finished) < 2:
        return None
    sizes = [math.log(size.batch_size) for size in finished]
    rates = [math.log(experiment.setting(size.best, "max_lr")) for size in finished]
    mean_size, mean_rate = fmean(sizes), fmean(rates)
    covariance = sum((x - mean_size) * (y - mean_rate) for x, y in zip(sizes, rates, strict=True))
    return covariance / sum((x - mean_size) ** 2 for x in sizes)


def rate_sentences(experiment: ExperimentRuns, finished: list[BatchSizeResult]) -> list[str]:
    """Describe the growth of the best rate with the batch size, if each size had a choice."""
    exponent = rate_exponent(experiment, finished)
    if exponent is None or any(len(rates_of(experiment, size)) < 2 for size in finished):
        return []
    best = [
        f"{format_number(experiment.setting(size.best, 'max_lr'))} with {format_int(size.batch_size)}"
        for size in finished
    ]
    power = format_number(exponent, 2).replace("-", "−")
    return [
        f"The best rates are {join_words(best)}: as far as these grids tell, they grow with "
        "the batch size to the power "
        f"of {power}, where the square-root rule, around which they were sought, has 0.5."
    ]


def best_at_equal_time(
    experiment: ExperimentRuns, finished: list[BatchSizeResult], seconds: float | None
) -> BatchSizeResult | None:
    """Return the size with the lowest loss at equal training time.

    None if fewer than two sizes compare, or if their ranges of speed leave the order open.
    """
    at_time = {size: ends for size in finished if (ends := loss_range_at(experiment, size, seconds)) is not None}
    if len(at_time) < 2:
        return None
    ahead = min(at_time, key=lambda size: max(at_time[size]))
    level = [size for size in at_time if min(at_time[size]) <= max(at_time[ahead])]
    return ahead if len(level) == 1 else None


def time_sentences(experiment: ExperimentRuns, finished: list[BatchSizeResult], seconds: float | None) -> list[str]:
    """Return the comparison at equal training time instead of equal tokens, for sizes of known speed."""
    at_time = {size: ends for size in finished if (ends := loss_range_at(experiment, size, seconds)) is not None}
    if len(at_time) < 2:
        return []
    ends = [
        f"{format_range(losses, format_loss)} with {format_int(size.batch_size)}" for size, losses in at_time.items()
    ]
    paying = best_at_equal_time(experiment, finished, seconds)
    if paying is None:
        ahead = min(at_time, key=lambda size: max(at_time[size]))
        level = [format_int(size.batch_size) for size in at_time if min(at_time[size]) <= max(at_time[ahead])]
        verdict = f"{join_words(level)} are not told apart, so it is open from where on more stops paying"
    else:
        verdict = describe_best_at_equal_time(experiment, paying, list(at_time), seconds)
    verb = "are" if all(size.is_benchmarked for size in at_time) else "stand over each size's range of speed at"
    return [
        f"At equal training time ({format_seconds(seconds)}, the shortest of these runs) the losses, here those of the "
        f"curves, whose windows are a part of the validation split, {verb}: {join_words(ends)}. There {verdict}. "
        "Schedules of slower sizes are cut off there, which speaks against them."
    ]


def describe_best_at_equal_time(
    experiment: ExperimentRuns, paying: BatchSizeResult, compared: list[BatchSizeResult], seconds: float
) -> str:
    """Describe the best size at equal time, with its difference from the second."""
    runner_up = describe_runner_up_at_equal_time(experiment, paying, compared, seconds)
    sentence = f"batch size {format_int(paying.batch_size)} is ahead{runner_up}"
    if paying is compared[-1]:
        return f"{sentence}, the largest that was tried, so more may still pay"
    if paying is compared[0]:
        return f"{sentence}, the smallest that was tried: no larger batch pays"
    return f"{sentence}: up to that size a larger batch pays, and beyond it more stops paying"


def describe_runner_up_at_equal_time(
    experiment: ExperimentRuns, ahead: BatchSizeResult, compared: list[BatchSizeResult], seconds: float
) -> str:
    """Describe the difference of the best size from the second at equal time, in brackets."""

    def by_seed(size: BatchSizeResult) -> dict[int, float]:
        tokens = seconds * size.tokens_per_second
        return {run.seed: loss_at(run, tokens) for run in experiment.seeds_of(size.best)}

    losses = {size: by_seed(size) for size in compared}
    second = min((size for size in compared if size is not ahead), key=lambda size: fmean(losses[size].values()))
    difference = paired_difference(losses[second], losses[ahead])
    if difference is None or difference.count == 1:
        return f" ({run_summary.UNTESTED})"
    subject = "the difference from the second" if difference.inconclusive else "the second"
    verb = "is" if difference.inconclusive else "ends"
    return f" ({subject}, {format_int(second.batch_size)}, {verb} {run_summary.describe_difference(difference)})"
