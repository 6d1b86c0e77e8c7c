"""Problem batch_size_experiment: final loss against batch size, and the tokens and steps that reach a loss."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import linear_regression, median, pvariance

from pydantic import JsonValue

from lmpipe.analysis.effects import effect_of, expectations
from lmpipe.analysis.experiment_findings import groups_table, loss_yardsticks, several_corpora, table_path
from lmpipe.analysis.finding import Figure, Finding, Line, Lines, Metric, Table, Yardstick, optional_metric
from lmpipe.analysis.outcomes import NATS, NO_RUN, NOISE_SOURCE, SeedGroup, best_group, seed_groups, study_noise
from lmpipe.analysis.problems import measured
from lmpipe.analysis.rate_sweeps import RateSweep, rate_sweep
from lmpipe.analysis.results import Results
from lmpipe.analysis.runs import Run, group_by
from lmpipe.analysis.statistics import SeedNoise, t_quantile

ID = "batch_size_experiment"
ONE_SIZE = "only one batch size learned"


@dataclass(frozen=True)
class BatchSize:
    """One batch size in sequences: its runs at the best peak rate, and the outcomes at all rates."""

    batch_size: int
    best: SeedGroup
    sweep: RateSweep
    tokens_to_loss: float | None
    """Training tokens that reach the loss which every size reaches."""

    @property
    def steps_to_loss(self) -> float | None:
        """Optimizer steps that reach the loss which every size reaches."""
        return self.tokens_to_loss and self.tokens_to_loss / (self.batch_size * self.best.model.context_length)


def analyze(results: Results) -> Finding:
    """Return the loss of each batch size at its best rate, and the tokens that reach a common loss."""
    experiment = results.experiment(ID)
    if experiment.ranking_metric() != "validation_loss":
        return several_corpora(results, experiment)
    groups, noise = seed_groups(results, experiment), study_noise(results)
    sizes = batch_sizes(results, groups)
    tables = [groups_table(groups)]
    if not sizes:
        return Finding("missing", tables=tables, reason="No seed learned at any batch size; add smaller rates")
    best = min(sizes, key=lambda size: size.best.center)
    tied = tied_sizes(sizes, best, noise)
    benchmark = measured.read_benchmark(results, experiment)
    limits = measured.batch_size_limits(benchmark)
    speeds = {row.batch_size: row.tokens_per_second for row in benchmark.sizes} if benchmark else {}
    effects = {size.best.name: effect_of(results, size.best, sizes[0].best, noise) for size in sizes[1:]}
    return Finding(
        "answered" if len(sizes) > 1 else "partial",
        best_metrics(table_path(experiment), sizes, best, tied, noise)
        | size_metrics(table_path(experiment), sizes)
        | limits.metrics,
        facts=size_facts(sizes, tied, noise) | limits.facts,
        tables=[size_table(sizes, speeds), *limits.tables, *tables],
        figures=[loss_figure(results, sizes, noise), *iso_loss_figures(sizes)],
        expectations=expectations(results, ID, effects),
        reason="" if len(sizes) > 1 else "Only one batch size learned",
    )


def batch_sizes(results: Results, groups: Sequence[SeedGroup]) -> list[BatchSize]:
    """Return the batch sizes with a seed that learned, from small to large."""
    by_size = group_by(groups, lambda group: group.training.batch_size)
    best = {size: group for size, members in sorted(by_size.items()) if (group := best_group(members))}
    # The highest of the final losses, which every size reaches.
    level = max((group.center for group in best.values()), default=0.0)
    sizes = []
    for size, group in best.items():
        sweep = rate_sweep(results, [run for member in by_size[size] for run in member.runs])
        tokens = [tokens_at(run, level) for run in group.learned]
        sizes.append(BatchSize(size, group, sweep, None if None in tokens else median(tokens)))
    return sizes


def tokens_at(run: Run, level: float) -> float | None:
    """Return the training tokens at which a run's validation loss first reaches a level, between two evaluations."""
    points = list(run.validation_losses().items())
    for (x0, y0), (x1, y1) in pairwise(points):
        if y1 <= level < y0:
            return x0 + (y0 - level) / (y0 - y1) * (x1 - x0)
    return points[-1][0] if points and run.loss is not None and run.loss <= level else None


def rate_exponent(sizes: Sequence[BatchSize], source: str) -> Metric:
    """Return the slope of log(best rate) against log(batch size), with its 95 % interval from three sizes on."""
    if len(sizes) < 2:
        return Metric(None, "", source, missing_reason=ONE_SIZE)
    x = [math.log(size.batch_size) for size in sizes]
    y = [math.log(size.sweep.optimum or size.best.max_lr) for size in sizes]
    slope, intercept = linear_regression(x, y)
    degrees = len(x) - 2
    if not degrees:
        return Metric(slope, "", source)
    residuals = sum((rate - intercept - slope * size) ** 2 for size, rate in zip(x, y, strict=True))
    half_width = t_quantile(degrees) * math.sqrt(residuals / degrees / (len(x) * pvariance(x)))
    return Metric(slope, "", source, (slope - half_width, slope + half_width))


def best_metrics(
    source: str, sizes: Sequence[BatchSize], best: BatchSize, tied: list[int], noise: SeedNoise | None
) -> dict[str, Metric]:
    """Return the best size, the range that ties with it, and the exponent of the rate."""
    visible = noise and noise.difference_half_width(best.best.num_seeds)
    return {
        "best_batch_size": Metric(best.batch_size, "sequences", source),
        "best_validation_loss": best.best.metric(source),
        "best_max_lr": Metric(best.best.max_lr, "", source),
        "smallest_tied_batch_size": Metric(tied[0], "sequences", source),
        "largest_tied_batch_size": Metric(tied[-1], "sequences", source),
        "smallest_visible_difference": optional_metric(visible, NATS, NOISE_SOURCE, "no setting has two seeds"),
        "largest_batch_difference": Metric(sizes[-1].best.center - best.best.center, NATS, source),
        "best_max_lr_exponent": rate_exponent(sizes, source),
        "common_loss": Metric(max(size.best.center for size in sizes), NATS, source),
    }


def size_metrics(source: str, sizes: Sequence[BatchSize]) -> dict[str, Metric]:
    """Return the loss, the rate, and the tokens and steps to the common loss of each size."""
    metrics = {}
    for size in sizes:
        prefix = f"batch_{size.batch_size}"
        metrics |= {
            f"{prefix}_validation_loss": size.best.metric(source),
            f"{prefix}_max_lr": Metric(size.best.max_lr, "", source),
            f"{prefix}_tokens_to_common_loss": optional_metric(size.tokens_to_loss, "tokens", source, NO_RUN),
            f"{prefix}_steps_to_common_loss": optional_metric(size.steps_to_loss, "steps", source, NO_RUN),
        }
    return metrics


def tied_sizes(sizes: Sequence[BatchSize], best: BatchSize, noise: SeedNoise | None) -> list[int]:
    """Return the sizes whose loss is within the noise of seeds of the lowest, best one included."""
    tied = []
    for size in sizes:
        limit = noise.difference_half_width(size.best.num_seeds, best.best.num_seeds) if noise else 0.0
        if size.best.center - best.best.center <= limit:
            tied.append(size.batch_size)
    return tied


def size_facts(sizes: Sequence[BatchSize], tied: list[int], noise: SeedNoise | None) -> dict[str, JsonValue]:
    """Return the sizes that tie with the best, those that are worse, and those with a rate at the border."""
    names = [size.batch_size for size in sizes]
    return {
        "sizes": names,
        "tied": tied,
        "worse": [name for name in names if name not in tied],
        "is_bracketed": (names[0] == 1 or names[0] < tied[0]) and tied[-1] < names[-1],
        "border": [size.batch_size for size in sizes if len(size.sweep.points) > 1 and size.sweep.is_at_border],
        "untuned": [size.batch_size for size in sizes if len(size.sweep.points) == 1],
        "num_seeds": max(size.best.num_seeds for size in sizes),
        "has_noise": noise is not None,
    }


def size_table(sizes: Sequence[BatchSize], speeds: dict[int, float]) -> Table:
    """Return a row for each batch size at its best rate."""
    rows = [
        [
            size.batch_size,
            size.best.max_lr,
            len(size.sweep.points),
            max(run.summary.steps for run in size.best.runs),
            size.best.center,
            size.tokens_to_loss and round(size.tokens_to_loss),
            size.steps_to_loss and round(size.steps_to_loss),
            round(speeds[size.batch_size]) if size.batch_size in speeds else None,
        ]
        for size in sizes
    ]
    columns = ["batch size", "best rate", "rates tried", "steps", "loss", "tokens to the common loss"]
    columns += ["steps to the common loss", "tokens/s"]
    return Table("Each batch size at its best rate", columns, rows, "not timed alone, or the loss was not reached")


def loss_figure(results: Results, sizes: Sequence[BatchSize], noise: SeedNoise | None) -> Figure:
    """Return the final loss against the batch size with the band of seed noise, and every rate tried as a point."""
    x = [size.batch_size for size in sizes]
    centers = [size.best.center for size in sizes]
    half = [noise.difference_half_width(size.best.num_seeds) / math.sqrt(2) if noise else 0.0 for size in sizes]
    low, high = ([y + sign * width for y, width in zip(centers, half, strict=True)] for sign in (-1, 1))
    line = Line("best rate", "baseline", x, centers, *([low, high] if noise else []))
    others = [
        (size.batch_size, median(point.losses))
        for size in sizes
        for point in size.sweep.full_points
        if point.max_lr != size.best.max_lr
    ]
    points = [Line("other rates", "baseline", *map(list, zip(*others, strict=True)), style="points")] if others else []
    yardsticks = loss_yardsticks(results, sizes[0].best.runs[0], orders=(2, 3))
    y_label = f"final loss ({NATS})"
    return Figure("loss", Lines("sequences in a batch", y_label, [line, *points], yardsticks, log_x=True))


def iso_loss_figures(sizes: Sequence[BatchSize]) -> list[Figure]:
    """Return the tokens that reach the common loss against the batch size; none if fewer than two sizes reach it."""
    reached = [(size.batch_size, size.tokens_to_loss) for size in sizes if size.tokens_to_loss]
    if len(reached) < 2:
        return []
    line = Line("tokens", "baseline", *map(list, zip(*reached, strict=True)))
    marks = [Yardstick("fewest tokens", min(reached, key=lambda point: point[1])[0])]
    return [
        Figure("iso_loss", Lines("sequences in a batch", "tokens to the common loss", [line], [], marks, True, True))
    ]
