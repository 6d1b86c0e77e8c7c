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

SHARED = "Runs of the same seed share their batches and, where shapes agree, their initial weights"
APART = "Runs of the same seed do not share their batches here; their differences vary like those of unrelated runs."


@dataclass(frozen=True)
class Comparison:
    """A variant beside the baseline, over the seeds that finished in both; no difference where there are none.

    `measure` is what both can be measured by; None where they are on different corpora.
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
        """The runs of both, seed by seed, whatever became of them."""
        baseline = {run.seed: run for run in self.experiment.seeds_of(self.baseline)}
        return [(run, baseline[run.seed]) for run in self.experiment.seeds_of(self.variant) if run.seed in baseline]

    @property
    def same_batches(self) -> bool:
        """True if runs of the same seed use the same batches: windows of the same tokens, equally many and long.

        Runs that made equally many steps say by a digest whether that is so.
        """

        def source(run: Run) -> tuple[Any, ...]:
            return run.config.tokens.train.sha256, run.setting("batch_size"), run.setting("context_length")

        told = [one.summary.batches_sha256 == two.summary.batches_sha256 for one, two in self.equal_steps]
        return all(source(one) == source(two) for one, two in self.pairs) and all(told)

    @property
    def equal_steps(self) -> list[tuple[Run, Run]]:
        """The pairs of runs that made equally many steps, whose digests of all batches compare."""
        return [(one, two) for one, two in self.pairs if one.summary.steps == two.summary.steps]

    @property
    def num_same_init(self) -> tuple[int, int]:
        """Number of matrices with the same initial values for every seed, and number of the variant's matrices."""
        return len(self.same_init), len(self.pairs[0][0].summary.init_digests) if self.pairs else 0

    @property
    def same_init_fraction(self) -> float | None:
        """The share of the variant's parameters in matrices that begin with the same values; None without a pair."""
        if not self.pairs:
            return None
        sizes = {name: one.parameters for name, one in self.pairs[0][0].summary.init_digests.items()}
        return sum(sizes[name] for name in self.same_init) / sum(sizes.values())

    @property
    def same_init(self) -> set[str]:
        """The matrices that begin with the same values as the baseline's of that name, with every seed."""
        weights = [(one.summary.init_digests, two.summary.init_digests) for one, two in self.pairs]
        same = [{name for name, one in ours.items() if theirs.get(name) == one} for ours, theirs in weights]
        return set.intersection(*same) if same else set()

    def losses(self, name: str) -> list[float]:
        """Return the losses of one side over the shared seeds, by the common measure."""
        losses = self.experiment.losses(name, self.measure)
        return [losses[seed] for seed in self.seeds]


def compare(experiment: ExperimentRuns, variant: str, baseline: str) -> Comparison:
    """Set a variant beside the baseline."""
    measure = experiment.ranking_metric([variant, baseline])
    sides = [experiment.losses(name, measure) for name in (variant, baseline)] if measure else [{}, {}]
    return Comparison(experiment, variant, baseline, measure, paired_difference(*sides))


def choose_baseline(experiment: ExperimentRuns, names: Sequence[str] | None = None) -> str:
    """Of the given runs, or of all, the one named `baseline`; without one the first."""
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
    told = "the difference in final loss is" if difference.inconclusive else "the final loss is"
    sides = [fmean(comparison.losses(name)) for name in (comparison.variant, comparison.baseline)]
    pair = " against ".join(run_summary.format_loss_value(side, comparison.measure) for side in sides)
    told = f"{opening}, {told} {run_summary.describe_difference(difference, UNITS[comparison.measure])}: {pair}"
    return "; ".join(filter(None, [told, *describe_seed_ranges(comparison), failed])) + "."


def describe_seed_ranges(comparison: Comparison) -> list[str]:
    """Return the seeds' range of either side, where it is so wide that the mean hides that a run learned little."""
    experiment, wide = comparison.experiment, []
    for name in (comparison.variant, comparison.baseline):
        if run_summary.has_wide_spread(experiment, name):
            losses = run_summary.finished_values(experiment, name)
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
    shown = Metric(None, unit, source, missing_reason=reason)
    if difference is not None:
        shown = Metric(difference.mean, unit, source, difference.bounds)
    return {
        f"{prefix}variant": Metric(comparison.variant, "", source),
        f"{prefix}validation_loss": run_summary.mean_metric(experiment, comparison.variant),
        f"{prefix}difference": shown,
        f"{prefix}paired_seeds": Metric(len(comparison.seeds), "seeds", source),
        f"{prefix}same_initial_weights": run_summary.metric(
            comparison.same_init_fraction, "share of the parameters in matrices", summaries, "no seed was run with both"
        ),
        f"{prefix}same_batches": Metric(comparison.same_batches, "", summaries),
        f"{prefix}diverged_seeds": Metric(statuses.count("diverged"), "seeds", source),
    }


def seed_tables(comparisons: Sequence[Comparison]) -> list[Table]:
    """Return the paired losses themselves, a row for each seed and variant; no table where the corpora differ."""
    experiment, baseline = comparisons[0].experiment, comparisons[0].baseline
    measure = experiment.ranking_metric([baseline, *(one.variant for one in comparisons)])
    if measure is None:
        return []
    base, rows = experiment.losses(baseline, measure), []
    for name in (one.variant for one in comparisons):
        ours = experiment.losses(name, measure)
        for seed in (run.seed for run in experiment.seeds_of(name)):
            both = seed in ours and seed in base
            rows.append([seed, name, ours.get(seed), base.get(seed), ours[seed] - base[seed] if both else None])
    columns = ["seed", "run", "validation loss", f"of {baseline}", "difference"]
    caption = f"Losses of each seed beside the baseline's with the same seed, in {UNITS[measure]}."
    return [Table(caption, columns, rows, "the run, or the baseline's with that seed, has no final loss")]


def pairing_sentences(comparisons: Sequence[Comparison]) -> list[str]:
    """Describe the pairing: runs of one seed share batches and initial weights, so their noise cancels."""
    apart = [f"`{one.variant}`" for one in comparisons if not one.same_batches]
    if len(apart) == len(comparisons):
        return [APART]
    exception = f"; the batches of {join_words(apart)} are other ones" if apart else ""
    paired = [one for one in comparisons if one.same_batches]
    several = any(one.difference and one.difference.count > 1 for one in paired)
    interval = ["Intervals are Student's t over the seeds' differences."] if several else []
    return [f"{SHARED}, so differences are paired over seeds{exception}.", *interval, *digest_sentences(paired)]


def digest_sentences(comparisons: Sequence[Comparison]) -> list[str]:
    """Describe the pairing by the digests of batches and initial weights that the runs recorded."""
    steps = {run.summary.steps for one in comparisons for run, _ in one.equal_steps}
    batches = (
        f"all {format_int(max(steps))} batches of a run are" if len(steps) == 1 else "the batches of a whole run are"
    )
    shares: dict[str, list[str]] = {}
    for one in comparisons:
        if one.same_init_fraction is not None:
            same, matrices = one.num_same_init
            share = format_percent(one.same_init_fraction)
            told = f"{share} of the parameters in matrices ({same} of {matrices} matrices)"
            shares.setdefault(told, []).append(f"`{one.variant}`")
    if not steps or not shares:
        return []
    values = join_words([f"{told} in {join_words(names)}" for told, names in shares.items()])
    return [
        f"By the digests that runs recorded while they trained, {batches} those of `{comparisons[0].baseline}` with "
        f"the same seed, and so are the initial values of {values}."
    ]
