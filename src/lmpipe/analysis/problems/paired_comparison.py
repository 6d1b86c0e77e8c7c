"""Paired comparisons of a variant with a baseline: differences in final loss over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from lmpipe.analysis.finding import Metric, Table
from lmpipe.analysis.problems import run_summary
from lmpipe.analysis.results import UNITS, ExperimentRuns
from lmpipe.analysis.runs import Run
from lmpipe.analysis.statistics import Interval, paired_difference
from lmpipe.io.formatting import format_int, format_loss, format_percent, join_words

PAIRED = "Runs of the same seed share their batches and, where shapes agree, their initial weights"
UNPAIRED = "Runs of the same seed do not share their batches here; their differences vary like those of unrelated runs."


@dataclass(frozen=True)
class Comparison:
    """Comparison of a variant with the baseline over the seeds that finished in both; no difference without any.

    `measure` is the metric in which both compare; None if they are on different corpora.
    """

    experiment: ExperimentRuns
    variant: str
    baseline: str
    measure: str | None
    difference: Interval | None

    @property
    def seeds(self) -> list[int]:
        """The seeds that finished in both."""
        return sorted(self.experiment.losses(self.variant).keys() & self.experiment.losses(self.baseline).keys())

    @property
    def differing(self) -> list[str]:
        """The settings in which the two runs differ."""
        values = {name: self.experiment.seeds_of(name)[0] for name in (self.variant, self.baseline)}
        variant, baseline = values[self.variant], values[self.baseline]
        return [key for key in self.experiment.varied_settings() if variant.setting(key) != baseline.setting(key)]

    @property
    def pairs(self) -> list[tuple[Run, Run]]:
        """The runs of both with the same seed, whatever their status."""
        baseline = {run.seed: run for run in self.experiment.seeds_of(self.baseline)}
        return [(run, baseline[run.seed]) for run in self.experiment.seeds_of(self.variant) if run.seed in baseline]

    @property
    def same_batches(self) -> bool:
        """True if runs of the same seed use the same batches: windows of the same tokens, equally many and long.

        For runs of equally many steps, the recorded digests of all batches are compared, too.
        """

        def source(run: Run) -> tuple[Any, ...]:
            return run.config.tokens.train.sha256, run.setting("batch_size"), run.setting("context_length")

        equal_digests = [
            variant.summary.batches_sha256 == baseline.summary.batches_sha256 for variant, baseline in self.equal_steps
        ]
        return all(source(variant) == source(baseline) for variant, baseline in self.pairs) and all(equal_digests)

    @property
    def equal_steps(self) -> list[tuple[Run, Run]]:
        """The pairs of runs that made equally many steps, whose digests of all batches compare."""
        return [
            (variant, baseline) for variant, baseline in self.pairs if variant.summary.steps == baseline.summary.steps
        ]

    @property
    def same_init_fraction(self) -> float | None:
        """The share of the variant's parameters in matrices that begin with the same values; None without a pair."""
        if not self.pairs:
            return None
        sizes = {name: digest.parameters for name, digest in self.pairs[0][0].summary.init_digests.items()}
        return sum(sizes[name] for name in self.same_init) / sum(sizes.values())

    @property
    def same_init(self) -> set[str]:
        """The matrices that begin with the same values as the baseline's of that name, with every seed."""
        digests = [(variant.summary.init_digests, baseline.summary.init_digests) for variant, baseline in self.pairs]
        same = [{name for name in variant if baseline.get(name) == variant[name]} for variant, baseline in digests]
        return set.intersection(*same) if same else set()

    def losses(self, name: str) -> list[float]:
        """Return the losses of one side over the shared seeds, by the common measure."""
        losses = self.experiment.losses(name, self.measure)
        return [losses[seed] for seed in self.seeds]


def compare(experiment: ExperimentRuns, variant: str, baseline: str) -> Comparison:
    """Compare a variant with the baseline."""
    measure = experiment.ranking_metric([variant, baseline])
    sides = [experiment.losses(name, measure) for name in (variant, baseline)] if measure else [{}, {}]
    return Comparison(experiment, variant, baseline, measure, paired_difference(*sides))


def choose_baseline(experiment: ExperimentRuns, names: Sequence[str] | None = None) -> str:
    """Return the run named `baseline` among `names`, or among all; without one, the first."""
    names = names or experiment.names()
    return "baseline" if "baseline" in names else names[0]


def generic_opening(comparison: Comparison) -> str:
    """Return the start of the sentence on a pair of runs that matches no spec."""
    return f"In `{comparison.variant}`, compared with `{comparison.baseline}`"


def describe_outcome(opening: str, comparison: Comparison) -> str:
    """Return a comparison in a sentence that starts with `opening`, such as "With post-norm in place of pre-norm"."""
    if comparison.measure is None:
        return f"{opening}, the corpora differ, so the final losses do not compare."
    failed, difference = describe_failures(comparison), comparison.difference
    if difference is None:
        return f"{opening}, {failed or 'no seed finished in both runs'}, so there is no final loss to compare."
    subject = "the difference in final loss is" if difference.inconclusive else "the final loss is"
    sides = [fmean(comparison.losses(name)) for name in (comparison.variant, comparison.baseline)]
    pair = " against ".join(run_summary.format_loss_value(side, comparison.measure) for side in sides)
    sentence = f"{opening}, {subject} {run_summary.describe_difference(difference, UNITS[comparison.measure])}: {pair}"
    return "; ".join(filter(None, [sentence, *describe_seed_ranges(comparison), failed])) + "."


def describe_seed_ranges(comparison: Comparison) -> list[str]:
    """Describe a wide range over seeds of either side, whose mean would hide a seed that learned little."""
    experiment, wide = comparison.experiment, []
    for name in (comparison.variant, comparison.baseline):
        if run_summary.has_wide_spread(experiment, name):
            losses = experiment.finished_values(name)
            entropy = experiment.seeds_of(name)[0].summary.unigram_entropy
            ends = (
                f"the seeds of `{name}` end between {format_loss(min(losses))} and "
                f"{format_loss(max(losses))} {run_summary.NATS}"
            )
            wide.append(f"{ends}, where token frequencies alone give {format_loss(entropy)}")
    return wide


def describe_failures(comparison: Comparison) -> str:
    """Describe the variant's seeds that did not finish, such as "1 of 3 seeds diverged"."""
    statuses = comparison.experiment.statuses(comparison.variant)
    counts = {
        word: statuses.count(status) for status, word in (("diverged", "diverged"), ("not_learning", "got stuck"))
    }
    if len(statuses) == 1:
        return join_words([f"the only seed {word}" for word, number in counts.items() if number])
    return join_words([f"{number} of {len(statuses)} seeds {word}" for word, number in counts.items() if number])


def baseline_metrics(experiment: ExperimentRuns, baseline: str) -> dict[str, Metric]:
    """Return the baseline's name and loss."""
    return {
        "baseline": Metric(baseline, "", run_summary.table_path(experiment)),
        "baseline_validation_loss": run_summary.mean_metric(experiment, baseline),
    }


def comparison_metrics(comparison: Comparison, prefix: str = "") -> dict[str, Metric]:
    """Metrics of one comparison; names start with `prefix`."""
    experiment, difference = comparison.experiment, comparison.difference
    source, summaries = run_summary.table_path(experiment), f"runs/{experiment.name}/*/seed*/summary.json"
    statuses = experiment.statuses(comparison.variant)
    unit = UNITS[comparison.measure or "validation_loss"]
    reason = "no seed finished in both runs" if comparison.measure else "the corpora differ"
    difference_metric = Metric(None, unit, source, missing_reason=reason)
    if difference is not None:
        difference_metric = Metric(difference.mean, unit, source, difference.bounds)
    return {
        f"{prefix}variant": Metric(comparison.variant, "", source),
        f"{prefix}validation_loss": run_summary.mean_metric(experiment, comparison.variant),
        f"{prefix}difference": difference_metric,
        f"{prefix}paired_seeds": Metric(len(comparison.seeds), "seeds", source),
        f"{prefix}same_initial_weights": run_summary.metric(
            comparison.same_init_fraction, "share of the parameters in matrices", summaries, "no seed was run with both"
        ),
        f"{prefix}same_batches": Metric(comparison.same_batches, "", summaries),
        f"{prefix}diverged_seeds": Metric(statuses.count("diverged"), "seeds", source),
    }


def seed_tables(comparisons: Sequence[Comparison]) -> list[Table]:
    """Return the paired losses, a row for each seed and variant; no table if the corpora differ."""
    experiment, baseline = comparisons[0].experiment, comparisons[0].baseline
    measure = experiment.ranking_metric([baseline, *(comparison.variant for comparison in comparisons)])
    if measure is None:
        return []
    baseline_losses, rows = experiment.losses(baseline, measure), []
    for name in (comparison.variant for comparison in comparisons):
        losses = experiment.losses(name, measure)
        for seed in (run.seed for run in experiment.seeds_of(name)):
            loss, baseline_loss = losses.get(seed), baseline_losses.get(seed)
            difference = None if loss is None or baseline_loss is None else loss - baseline_loss
            rows.append([seed, name, loss, baseline_loss, difference])
    columns = ["seed", "run", "validation loss", f"of {baseline}", "difference"]
    caption = f"Losses of each seed beside the baseline's with the same seed, in {UNITS[measure]}."
    return [Table(caption, columns, rows, "the run, or the baseline's with that seed, has no final loss")]


def pairing_sentences(comparisons: Sequence[Comparison]) -> list[str]:
    """Describe the pairing: runs of one seed share batches and initial weights, so their noise cancels."""
    unpaired = [f"`{comparison.variant}`" for comparison in comparisons if not comparison.same_batches]
    if len(unpaired) == len(comparisons):
        return [UNPAIRED]
    exception = f"; the batches of {join_words(unpaired)} are other ones" if unpaired else ""
    paired = [comparison for comparison in comparisons if comparison.same_batches]
    several = any(comparison.difference and comparison.difference.count > 1 for comparison in paired)
    interval = ["Intervals are Student's t over the seeds' differences."] if several else []
    return [f"{PAIRED}, so differences are paired over seeds{exception}.", *interval, *digest_sentences(paired)]


def digest_sentences(comparisons: Sequence[Comparison]) -> list[str]:
    """Describe the pairing by the digests of batches and initial weights that the runs recorded."""
    steps = {run.summary.steps for comparison in comparisons for run, _ in comparison.equal_steps}
    batches = (
        f"all {format_int(max(steps))} batches of a run are" if len(steps) == 1 else "the batches of a whole run are"
    )
    shares: dict[str, list[str]] = {}
    for comparison in comparisons:
        if comparison.same_init_fraction is not None:
            same, matrices = len(comparison.same_init), len(comparison.pairs[0][0].summary.init_digests)
            share = format_percent(comparison.same_init_fraction)
            share_text = f"{share} of the parameters in matrices ({same} of {matrices} matrices)"
            shares.setdefault(share_text, []).append(f"`{comparison.variant}`")
    if not steps or not shares:
        return []
    values = join_words([f"{share_text} in {join_words(names)}" for share_text, names in shares.items()])
    return [
        f"By the digests that runs recorded while they trained, {batches} those of `{comparisons[0].baseline}` with "
        f"the same seed, and so are the initial values of {values}."
    ]
