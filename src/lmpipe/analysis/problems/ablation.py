"""What ablations share: a baseline, variants that change one thing, and differences paired over seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from lmpipe.analysis.finding import Finding, Metric, Table
from lmpipe.analysis.problems import training
from lmpipe.analysis.results import UNITS, ExperimentRuns, Results, Run
from lmpipe.analysis.statistics import Interval, describe_difference, paired_difference
from lmpipe.io.formatting import format_int, format_loss, format_number, format_percent, join_words

SHARED = "Runs of the same seed share their batches and, where shapes agree, their initial weights"
APART = "Runs of the same seed do not share their batches here; their differences vary like those of unrelated runs."


@dataclass(frozen=True)
class Question:
    """What an ablation asks: one setting, its usual values, the ablated one, and the words that open the answer.

    `companions` are settings that change with it by intention, such as a width that keeps the number of parameters.
    """

    setting: str
    usual: tuple[str, ...]
    ablated: str
    words: str
    companions: tuple[str, ...] = ()


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
    def shares_batches(self) -> bool:
        """Whether runs of the same seed see the same batches: windows of the same tokens, equally many and long.

        Runs that made equally many steps say by a digest whether that is so.
        """

        def source(run: Run) -> tuple[Any, ...]:
            return run.config["tokens"]["train"]["sha256"], run.setting("batch_size"), run.setting("context_length")

        told = [one.summary["batches_sha256"] == two.summary["batches_sha256"] for one, two in self.equally_long]
        return all(source(one) == source(two) for one, two in self.pairs) and all(told)

    @property
    def equally_long(self) -> list[tuple[Run, Run]]:
        """The pairs of runs that made equally many steps, whose digests of all batches compare."""
        return [(one, two) for one, two in self.pairs if one.summary["steps"] == two.summary["steps"]]

    @property
    def same_matrices(self) -> tuple[int, int]:
        """How many matrices begin with the same values with every seed, and how many the variant has."""
        return len(self.same_names), len(self.pairs[0][0].summary["init_digests"]) if self.pairs else 0

    @property
    def same_share(self) -> float | None:
        """The share of the variant's parameters in matrices that begin with the same values; None without a pair."""
        if not self.pairs:
            return None
        sizes = {name: one["parameters"] for name, one in self.pairs[0][0].summary["init_digests"].items()}
        return sum(sizes[name] for name in self.same_names) / sum(sizes.values())

    @property
    def same_names(self) -> set[str]:
        """The matrices that begin with the same values as the baseline's of that name, with every seed."""
        weights = [(one.summary["init_digests"], two.summary["init_digests"]) for one, two in self.pairs]
        same = [{name for name, one in ours.items() if theirs.get(name) == one} for ours, theirs in weights]
        return set.intersection(*same) if same else set()

    def losses(self, name: str) -> list[float]:
        """The losses of one side over the shared seeds, by the common measure."""
        losses = self.experiment.losses(name, self.measure)
        return [losses[seed] for seed in self.seeds]


def compare(experiment: ExperimentRuns, variant: str, baseline: str) -> Comparison:
    """Set a variant beside the baseline."""
    measure = experiment.measure_of([variant, baseline])
    sides = [experiment.losses(name, measure) for name in (variant, baseline)] if measure else [{}, {}]
    return Comparison(experiment, variant, baseline, measure, paired_difference(*sides))


def baseline_of(experiment: ExperimentRuns, names: Sequence[str] | None = None) -> str:
    """Of the given runs, or of all, the one named `baseline`; without one the first."""
    names = names or experiment.names()
    return "baseline" if "baseline" in names else names[0]


def runs_with(experiment: ExperimentRuns, setting: str, values: Sequence[str]) -> list[str]:
    """The runs in which a setting has one of the values."""
    return [name for name in experiment.names() if experiment.setting(name, setting) in values]


def answers(question: Question, comparison: Comparison) -> bool:
    """Whether two runs differ as the question asks, and in nothing besides."""
    ablated = comparison.experiment.setting(comparison.variant, question.setting) == question.ablated
    return ablated and set(comparison.differing) <= {question.setting, *question.companions}


def general_words(comparison: Comparison) -> str:
    """What opens the sentence on a pair of runs that answers no question of its own."""
    return f"In `{comparison.variant}`, compared with `{comparison.baseline}`"


def words_for(question: Question, comparison: Comparison) -> str:
    """What opens the sentence on a pair of runs: the question's own words only where the pair answers it."""
    if answers(question, comparison):
        return question.words
    return f"{general_words(comparison)}, from which it differs in {join_words(comparison.differing)}"


def outcome(words: str, comparison: Comparison) -> str:
    """A comparison in a sentence that opens with `words`, such as "With post-norm in place of pre-norm"."""
    if comparison.measure is None:
        return f"{words}, the corpora differ, so the final losses do not compare."
    failed, difference = failed_words(comparison), comparison.difference
    if difference is None:
        return f"{words}, {failed or 'no seed finished in both runs'}, so there is no final loss to compare."
    told = "the difference in final loss is" if difference.unresolved else "the final loss is"
    sides = [fmean(comparison.losses(name)) for name in (comparison.variant, comparison.baseline)]
    pair = " against ".join(training.bare_loss(side, comparison.measure) for side in sides)
    told = f"{words}, {told} {describe_difference(difference, UNITS[comparison.measure])}: {pair}"
    return "; ".join(filter(None, [told, *range_words(comparison), failed])) + "."


def range_words(comparison: Comparison) -> list[str]:
    """The seeds' range of either side, where it is so wide that the mean hides that a run learned little."""
    experiment, wide = comparison.experiment, []
    for name in (comparison.variant, comparison.baseline):
        if training.is_wide(experiment, name):
            losses = training.values(experiment, name)
            entropy = experiment.seeds_of(name)[0].summary["unigram_entropy"]
            ends = (
                f"the seeds of `{name}` end between {format_loss(min(losses))} and "
                f"{format_loss(max(losses))} {training.NATS}"
            )
            wide.append(f"{ends}, where token frequencies alone give {format_loss(entropy)}")
    return wide


def failed_words(comparison: Comparison) -> str:
    """Which of the variant's seeds did not finish, such as "1 of 3 seeds diverged"."""
    statuses = comparison.experiment.statuses(comparison.variant)
    counts = {
        word: statuses.count(status) for status, word in (("diverged", "diverged"), ("not_learning", "got stuck"))
    }
    if len(statuses) == 1:
        return join_words([f"the only seed {word}" for word, number in counts.items() if number])
    return join_words([f"{number} of {len(statuses)} seeds {word}" for word, number in counts.items() if number])


def pairing_sentences(comparisons: Sequence[Comparison]) -> list[str]:
    """Whether runs of one seed share what chance decides, so that pairing them takes it out of the differences."""
    apart = [f"`{one.variant}`" for one in comparisons if not one.shares_batches]
    if len(apart) == len(comparisons):
        return [APART]
    exception = f"; the batches of {join_words(apart)} are other ones" if apart else ""
    paired = [one for one in comparisons if one.shares_batches]
    several = any(one.difference and one.difference.count > 1 for one in paired)
    interval = ["Intervals are Student's t over the seeds' differences."] if several else []
    return [f"{SHARED}, so differences are paired over seeds{exception}.", *interval, *digest_sentences(paired)]


def digest_sentences(comparisons: Sequence[Comparison]) -> list[str]:
    """The same by metrics: how many batches and initial values agree, as runs recorded them while they trained."""
    steps = {run.summary["steps"] for one in comparisons for run, _ in one.equally_long}
    batches = (
        f"all {format_int(max(steps))} batches of a run are" if len(steps) == 1 else "the batches of a whole run are"
    )
    shares: dict[str, list[str]] = {}
    for one in comparisons:
        if one.same_share is not None:
            same, matrices = one.same_matrices
            told = f"{format_percent(one.same_share)} of the parameters in matrices ({same} of {matrices} matrices)"
            shares.setdefault(told, []).append(f"`{one.variant}`")
    if not steps or not shares:
        return []
    values = join_words([f"{told} in {join_words(names)}" for told, names in shares.items()])
    return [
        f"By the digests that runs recorded while they trained, {batches} those of `{comparisons[0].baseline}` with "
        f"the same seed, and so are the initial values of {values}."
    ]


def seed_tables(comparisons: Sequence[Comparison]) -> list[Table]:
    """The paired losses themselves, a row for each seed and variant; no table where the corpora differ."""
    experiment, baseline = comparisons[0].experiment, comparisons[0].baseline
    measure = experiment.measure_of([baseline, *(one.variant for one in comparisons)])
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


def comparison_metrics(comparison: Comparison, prefix: str = "") -> dict[str, Metric]:
    """Metrics of one comparison; names start with `prefix`."""
    experiment, difference = comparison.experiment, comparison.difference
    source, summaries = training.table_path(experiment), f"runs/{experiment.name}/*/seed*/summary.json"
    statuses = experiment.statuses(comparison.variant)
    unit = UNITS[comparison.measure or "validation_loss"]
    reason = "no seed finished in both runs" if comparison.measure else "the corpora differ"
    shown = Metric(None, unit, source, missing_reason=reason)
    if difference is not None:
        shown = Metric(difference.mean, unit, source, difference.bounds)
    return {
        f"{prefix}variant": Metric(comparison.variant, "", source),
        f"{prefix}validation_loss": training.mean_metric(experiment, comparison.variant),
        f"{prefix}difference": shown,
        f"{prefix}paired_seeds": Metric(len(comparison.seeds), "seeds", source),
        f"{prefix}same_initial_weights": training.metric(
            comparison.same_share, "share of the parameters in matrices", summaries, "no seed was run with both"
        ),
        f"{prefix}same_batches": Metric(comparison.shares_batches, "", summaries),
        f"{prefix}diverged_seeds": Metric(statuses.count("diverged"), "seeds", source),
    }


def compare_all(
    results: Results, problem: str, lines: str, question: Question
) -> tuple[ExperimentRuns, str, list[Comparison]] | Finding:
    """An experiment, its baseline and every other run beside that; what to say where there is nothing to compare."""
    experiment = results.experiment(problem)
    if experiment is None:
        return training.missing_experiment(results, problem, lines)
    usual = runs_with(experiment, question.setting, question.usual)
    if not usual or not runs_with(experiment, question.setting, [question.ablated]):
        return nothing_to_compare(experiment, question)
    baseline = baseline_of(experiment, usual)
    others = [name for name in experiment.names() if name != baseline]
    return experiment, baseline, [compare(experiment, name, baseline) for name in others]


def analyze_ablation(
    results: Results,
    problem: str,
    lines: str,
    question: Question,
    more: Callable[[ExperimentRuns, Comparison], tuple[dict[str, Metric], list[str]]] | None = None,
) -> Finding:
    """The finding of an ablation: runs with the usual value of a setting against those with the ablated one.

    `lines` are what a study without the experiment may add; `more` adds metrics and sentences on the answering pair.
    """
    compared = compare_all(results, problem, lines, question)
    if isinstance(compared, Finding):
        return compared
    experiment, baseline, comparisons = compared
    main = next((one for one in comparisons if answers(question, one)), None)
    comparisons.sort(key=lambda one: one is not main)
    metrics = baseline_metrics(experiment, baseline) | (comparison_metrics(main) if main else {})
    sentences = [outcome(words_for(question, one), one) for one in comparisons]
    sentences[1:1] = [training.setting_sentence(results, experiment), *pairing_sentences(comparisons)]
    sentences += rate_sentences(results, question, main) if main else []
    if main and more is not None:
        added_metrics, added_sentences = more(experiment, main)
        metrics, sentences = metrics | added_metrics, sentences + added_sentences
    sentences += training.failure_sentences(experiment)
    tables = [training.runs_table(experiment), *seed_tables(comparisons)]
    answered = main and (main.difference or "diverged" in experiment.statuses(main.variant))
    return Finding("answered" if answered else "partial", metrics, sentences, tables, training.plots(experiment))


def baseline_metrics(experiment: ExperimentRuns, baseline: str) -> dict[str, Metric]:
    """Which run the others are set beside, and its loss."""
    return {
        "baseline": Metric(baseline, "", training.table_path(experiment)),
        "baseline_validation_loss": training.mean_metric(experiment, baseline),
    }


def rate_sentences(results: Results, question: Question, comparison: Comparison) -> list[str]:
    """That only one side had its peak rate tuned, where both took it from the same sweep."""
    experiment, pair = comparison.experiment, (comparison.baseline, comparison.variant)
    tuned = {name: tuned_value(results, experiment, name, question.setting) for name in pair}
    rates = {experiment.setting(name, "max_lr") for name in runs_with(experiment, question.setting, [question.ablated])}
    own = [name for name in pair if tuned[name] == experiment.setting(name, question.setting)]
    if len(own) != 1 or len(rates) > 1:
        return []
    (other,) = (name for name in pair if name not in own)
    sweep = experiment.seeds_of(own[0])[0].config["lr_source"]["best_of"]
    return [
        f"Both run at the peak rate {format_number(rates.pop())}, which `{sweep}` tuned for the model of `{own[0]}`; "
        f"at a rate of its own `{other}` may do better, so a part of the difference may lie in the rate."
    ]


def tuned_value(results: Results, experiment: ExperimentRuns, name: str, setting: str) -> str | None:
    """A setting of the run whose peak rate a run took over from a sweep; None where it took none."""
    taken = experiment.seeds_of(name)[0].config.get("lr_source")
    sweep = results.experiment(taken["best_of"]) if taken else None
    return next((run.setting(setting) for run in sweep.runs if run.name == taken["best_run"]), None) if sweep else None


def nothing_to_compare(experiment: ExperimentRuns, question: Question) -> Finding:
    """The finding of an ablation whose runs all lie on one side of the question."""
    baseline, usual = baseline_of(experiment), " or ".join(question.usual)
    comparisons = [compare(experiment, name, baseline) for name in experiment.names() if name != baseline]
    sentence = (
        f"The experiment {experiment.name} needs a run with {question.setting}: {usual} and one with "
        f"{question.setting}: {question.ablated}, which otherwise agree; it has no such pair."
    )
    return Finding(
        "partial",
        baseline_metrics(experiment, baseline),
        [sentence, *(outcome(words_for(question, one), one) for one in comparisons)],
        [training.runs_table(experiment), *(seed_tables(comparisons) if comparisons else [])],
        training.plots(experiment),
    )
