"""What ablations share: a baseline, variants that change one thing, and differences paired over seeds."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from lmpipe.intervals import Interval, describe_difference, paired_difference
from lmpipe.problems import Figure, Finding, Table, training
from lmpipe.problems.wording import listing, loss
from lmpipe.results import ExperimentRuns, Results

PAIRED = (
    "Runs of the same seed share their batches and, where shapes agree, their initial weights, "
    "so differences are paired over seeds."
)


@dataclass(frozen=True)
class Comparison:
    """A variant beside the baseline, over the seeds that finished in both; no difference where there are none."""

    experiment: ExperimentRuns
    variant: str
    baseline: str
    difference: Interval | None

    @property
    def seeds(self) -> list[int]:
        """The seeds that finished in both."""
        return sorted(self.experiment.losses(self.variant).keys() & self.experiment.losses(self.baseline).keys())

    def mean_loss(self, name: str) -> float:
        """The mean loss of one side over the shared seeds."""
        losses = self.experiment.losses(name)
        return fmean(losses[seed] for seed in self.seeds)


def compare(experiment: ExperimentRuns, variant: str, baseline: str) -> Comparison:
    """Set a variant beside the baseline."""
    difference = paired_difference(experiment.losses(variant), experiment.losses(baseline))
    return Comparison(experiment, variant, baseline, difference)


def baseline_of(experiment: ExperimentRuns) -> str:
    """The run named `baseline`; without one the first."""
    names = experiment.names()
    return "baseline" if "baseline" in names else names[0]


def variants_of(experiment: ExperimentRuns, setting: str, value: str) -> list[str]:
    """The runs with a setting's changed value; where the study changes it otherwise, all but the baseline."""
    others = [name for name in experiment.names() if name != baseline_of(experiment)]
    changed = [name for name in others if experiment.setting(name, setting) == value]
    return changed or others


def outcome(words: str, comparison: Comparison) -> str:
    """A comparison in a sentence that opens with `words`, such as "With post-norm in place of pre-norm"."""
    failed = failed_words(comparison)
    if comparison.difference is None:
        return f"{words}, {failed or 'no seed finished in both runs'}, so there is no final loss to compare."
    difference, direction = comparison.difference, describe_difference(comparison.difference)
    pair = f"{loss(comparison.mean_loss(comparison.variant))} against {loss(comparison.mean_loss(comparison.baseline))}"
    resolved = difference.resolved or difference.count == 1
    told = f"the final loss is {direction}" if resolved else f"the difference in final loss is {direction}"
    return f"{words}, {told}: {pair}" + (f"; {failed}." if failed else ".")


def failed_words(comparison: Comparison) -> str:
    """Which of the variant's seeds did not finish, such as "1 of 3 seeds diverged"."""
    statuses = comparison.experiment.statuses(comparison.variant)
    counts = {word: statuses.count(status) for status, word in (("diverged", "diverged"), ("stuck", "got stuck"))}
    return listing([f"{number} of {len(statuses)} seeds {word}" for word, number in counts.items() if number])


def seed_table(comparisons: list[Comparison]) -> Table:
    """The paired losses themselves: a row for each seed and variant."""
    rows = [
        [seed, comparison.variant, ours := comparison.experiment.losses(comparison.variant).get(seed),
         base := comparison.experiment.losses(comparison.baseline).get(seed),
         None if ours is None or base is None else ours - base]
        for comparison in comparisons
        for seed in [run.seed for run in comparison.experiment.seeds_of(comparison.variant)]
    ]  # fmt: skip
    columns = ["seed", "run", "validation loss", f"of {comparisons[0].baseline}", "difference"]
    return Table("Losses of each seed beside the baseline's with the same seed, in nats per token.", columns, rows)


def comparison_figures(comparison: Comparison, prefix: str = "") -> dict[str, Figure]:
    """Figures of one comparison; names start with `prefix`."""
    experiment, difference = comparison.experiment, comparison.difference
    source = training.table_path(experiment)
    statuses = experiment.statuses(comparison.variant)
    shown = Figure(None, training.NATS, source, reason="no seed finished in both runs")
    if difference is not None:
        shown = Figure(difference.mean, training.NATS, source, difference.bounds)
    return {
        f"{prefix}variant": Figure(comparison.variant, "", source),
        f"{prefix}validation_loss": training.figure(experiment, comparison.variant),
        f"{prefix}difference": shown,
        f"{prefix}paired_seeds": Figure(len(comparison.seeds), "seeds", source),
        f"{prefix}diverged_seeds": Figure(statuses.count("diverged"), "seeds", source),
    }


def find_ablation(
    results: Results,
    problem: str,
    lines: str,
    setting: str,
    value: str,
    words: str,
    more: Callable[[ExperimentRuns, Comparison], tuple[dict[str, Figure], list[str]]] | None = None,
) -> Finding:
    """The finding of an ablation that changes one setting to `value`.

    `lines` are what a study without the experiment may add; `words` open the answer; `more` adds figures and sentences.
    """
    experiment = results.experiment(problem)
    if experiment is None:
        return training.missing(results, problem, lines)
    baseline = baseline_of(experiment)
    variants = variants_of(experiment, setting, value)
    if not variants:
        return nothing_to_compare(experiment, baseline)
    main, *others = comparisons = [compare(experiment, variant, baseline) for variant in variants]
    figures = {"baseline_validation_loss": training.figure(experiment, baseline), **comparison_figures(main)}
    sentences = [outcome(words, main), training.setting_sentence(results, experiment), PAIRED]
    sentences += [outcome(f"In the run `{other.variant}`", other) for other in others]
    if more is not None:
        added_figures, added_sentences = more(experiment, main)
        figures, sentences = figures | added_figures, sentences + added_sentences
    sentences += training.failure_sentences(experiment)
    tables = [training.runs_table(experiment), seed_table(comparisons)]
    status = "answered" if main.difference or "diverged" in experiment.statuses(main.variant) else "partial"
    return Finding(status, figures, sentences, tables, training.plots(experiment))


def nothing_to_compare(experiment: ExperimentRuns, baseline: str) -> Finding:
    """The finding of an ablation that has a baseline only."""
    return Finding(
        "partial",
        {"baseline_validation_loss": training.figure(experiment, baseline)},
        [f"The experiment {experiment.name} has the run `{baseline}` only; add a run that changes something."],
        [training.runs_table(experiment)],
        training.plots(experiment),
    )
