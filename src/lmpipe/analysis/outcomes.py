"""Outcomes of runs: groups of seeds, seeds that failed, and the noise of a seed."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from statistics import fmean, median

from lmpipe.analysis.finding import Metric, optional_metric
from lmpipe.analysis.results import UNITS, ExperimentRuns, Results
from lmpipe.analysis.runs import Run, group_by
from lmpipe.analysis.statistics import NORMAL_QUANTILE, SeedNoise, mean_interval, pooled_noise
from lmpipe.data.documents import NgramBudget
from lmpipe.study.labels import colour_key, run_label
from lmpipe.study.paths import RELATIVE
from lmpipe.study.settings import ModelConfig, TrainingSettings

NATS = UNITS["validation_loss"]
BITS = UNITS["bits_per_byte"]
NO_RUN = "no seed learned"
# The noise of seeds is that of all runs: a metric of the experiment log.
NOISE_SOURCE = str(RELATIVE.findings)


@dataclass(frozen=True)
class SeedGroup:
    """Runs that differ in their seed alone, one for each seed, by seed; their final values are in `measure`."""

    name: str
    """Name of the runs in their experiment."""
    label: str
    """Name in the report."""
    variant: str
    """Key of the colour."""
    runs: list[Run]
    learned: list[Run]
    """Those that did not fail."""
    measure: str = "validation_loss"

    @property
    def values(self) -> dict[int, float]:
        """Final values by seed, without seeds that failed."""
        return {run.seed: getattr(run.summary, self.measure) for run in self.learned}

    @property
    def num_seeds(self) -> int:
        """Number of seeds."""
        return len(self.runs)

    @property
    def num_failed(self) -> int:
        """Number of seeds that failed."""
        return len(self.runs) - len(self.learned)

    def middle(self, measure: str) -> float | None:
        """Return the mean over the seeds; the median of the others if some failed; None if all did."""
        values = [getattr(run.summary, measure) for run in self.learned]
        return (median if self.num_failed else fmean)(values) if values else None

    @property
    def unit(self) -> str:
        """Unit of the values."""
        return UNITS[self.measure]

    @property
    def center(self) -> float | None:
        """Middle of the values."""
        return self.middle(self.measure)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean: over seeds, or for one seed over validation documents; None if a seed failed."""
        if self.num_failed:
            return None
        if self.num_seeds > 1:
            return mean_interval(list(self.values.values()))
        return document_interval(self.runs[0]) if self.measure == "validation_loss" else None

    @property
    def max_lr(self) -> float:
        """Peak learning rate."""
        return self.training.max_lr

    @property
    def training(self) -> TrainingSettings:
        """Training settings of the runs."""
        return self.runs[0].config.training

    @property
    def model(self) -> ModelConfig:
        """Model of the runs."""
        return self.runs[0].config.model

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return self.runs[0].summary.parameters

    def metric(self, source: str) -> Metric:
        """Return the center as a metric, with its interval."""
        return optional_metric(self.center, self.unit, source, NO_RUN, self.interval)

    def perplexity(self, source: str) -> Metric:
        """Return exp of the mean loss, which is the perplexity, with its interval."""
        bounds = self.interval and (math.exp(self.interval[0]), math.exp(self.interval[1]))
        return optional_metric(None if self.center is None else math.exp(self.center), "", source, NO_RUN, bounds)


def document_interval(run: Run) -> tuple[float, float] | None:
    """Return the 95 % interval of a run's loss over validation documents; None if the run has no standard error."""
    error = run.summary.validation_loss_se
    if run.loss is None or error is None:
        return None
    return run.loss - NORMAL_QUANTILE * error, run.loss + NORMAL_QUANTILE * error


def has_failed(run: Run, budget: NgramBudget | None) -> bool:
    """Return True if a run diverged, or ended nearer to the unigram than to the bigram loss of its training tokens."""
    if run.status != "finished" or run.loss is None:
        return True
    losses = {ngram.order: ngram.loss for ngram in budget.ngrams} if budget else {}
    return 2 in losses and run.loss > (losses[1] + losses[2]) / 2


def learned_runs(results: Results, runs: Iterable[Run]) -> list[Run]:
    """Return the runs of an experiment that did not fail.

    A run that is too short for a yardstick fails if it ends nearer to the unigram entropy than to the best run of its
    model and length.
    """
    good = [run for run in runs if not has_failed(run, results.yardstick(run))]
    short = [run for run in good if results.yardstick(run) is None]
    settings = attrgetter("config.corpus", "config.model", "config.training.total_tokens")
    failed = set()
    for alike in group_by(short, lambda run: repr(settings(run))).values():
        best = min(run.loss for run in alike)
        failed |= {id(run) for run in alike if 2 * run.loss > best + run.summary.unigram_entropy}
    return [run for run in good if id(run) not in failed]


def seed_groups(results: Results, experiment: ExperimentRuns, measure: str = "validation_loss") -> list[SeedGroup]:
    """Return every group of seeds of an experiment, in the order of the study."""
    groups, good = [], set(map(id, learned_runs(results, experiment.runs)))
    for name in experiment.names():
        runs = experiment.seeds_of(name)
        learned = [run for run in runs if id(run) in good]
        label, variant = (make(results.study, experiment.name, name) for make in (run_label, colour_key))
        groups.append(SeedGroup(name, label, variant, runs, learned, measure))
    return groups


def best_group(groups: Iterable[SeedGroup]) -> SeedGroup | None:
    """Return the group with the lowest center among those with the fewest failed seeds; None if no seed learned."""
    learned = [group for group in groups if group.values]
    return min(learned, key=lambda group: (group.num_failed / group.num_seeds, group.center), default=None)


@lru_cache(maxsize=1)  # asked 35 times for the laptop study, a third of the analysis
def study_noise(results: Results) -> SeedNoise | None:
    """Return the seed noise of a study, in nats per token; None without two seeds of anything.

    It is pooled over groups none of whose seeds failed, each setting at the best of its peak rates, because the
    spread over seeds grows towards the edge of stability, where no result is reported.
    """
    best: dict[tuple[str, ...], SeedGroup] = {}
    for experiment in results.experiments():
        for group in seed_groups(results, experiment):
            config, seeds = group.runs[0].config, [run.seed for run in group.runs]
            training = config.training.model_dump(exclude={"max_lr"})
            key = tuple(map(repr, (config.corpus, config.tokenizer.name, config.model, training, seeds)))
            if not group.num_failed and (key not in best or group.center < best[key].center):
                best[key] = group
    return pooled_noise(list(group.values.values()) for group in best.values())
