"""The section of an experiment that is no problem of the write-up: whatever a study varies, compared and told."""

from lmpipe.problems import Figure, Finding, training
from lmpipe.problems.ablation import PAIRED, baseline_of, compare, comparison_figures, outcome, seed_table
from lmpipe.problems.wording import listing, number
from lmpipe.results import ExperimentRuns, Results

PER_BYTE = "The runs predict different tokens, so they are compared in bits per byte instead of nats per token."


def heading(results: Results, name: str) -> tuple[str, str]:
    """Title and question of an experiment, from its name and from what it varies."""
    experiment = results.experiment(name)
    title = name.replace("_", " ").replace("-", " ").strip()
    title = title[:1].upper() + title[1:]
    if settings := experiment.swept_settings():
        return title, f"How does the final loss depend on {listing(settings)}?"
    baseline = baseline_of(experiment)
    others = [run for run in experiment.names() if run != baseline]
    if not others:
        return title, f"How well does the run {baseline} do?"
    return title, f"How do the runs {training.brief(others)} compare with {baseline}?"


def find(results: Results, name: str) -> Finding:
    """A sweep told by its best and worst values, anything else by differences from the baseline."""
    experiment = results.experiment(name)
    settings = experiment.swept_settings()
    per_token = experiment.comparable_per_token()
    if settings or not per_token:
        figures, sentences = ranking(experiment, "validation_loss" if per_token else "bits_per_byte")
        tables = [training.runs_table(experiment)]
    else:
        figures, sentences, tables = differences(experiment)
    sentences += [training.setting_sentence(results, experiment), *([] if per_token else [PER_BYTE])]
    sentences += training.failure_sentences(experiment)
    status = "answered" if any(training.values(experiment, run) for run in experiment.names()) else "partial"
    return Finding(status, figures, sentences, tables, training.plots(experiment))


def ranking(experiment: ExperimentRuns, measure: str) -> tuple[dict[str, Figure], list[str]]:
    """The best and the worst run whose seeds all finished."""
    unit = training.NATS if measure == "validation_loss" else "bits per byte"
    whole = [name for name in experiment.names() if set(experiment.statuses(name)) == {"finished"}]
    ranked = sorted(whole, key=lambda name: training.mean(experiment, name, measure))
    figures = {name: training.figure(experiment, name, measure, unit) for name in experiment.names()}
    if not ranked:
        return figures, ["No run finished with every seed."]
    best, worst = ranked[0], ranked[-1]
    source = training.table_path(experiment)
    figures = {"best_run": Figure(best, "", source), **figures}
    first = f"The best of {len(experiment.names())} runs is `{best}` with {shown(experiment, best, measure, unit)}"
    if best == worst:
        return figures, [f"{first}."]
    return figures, [f"{first}; the worst that finished is `{worst}` with {shown(experiment, worst, measure, unit)}."]


def shown(experiment: ExperimentRuns, name: str, measure: str, unit: str) -> str:
    """A run's mean with its unit, for a sentence."""
    value = number(training.mean(experiment, name, measure), 4)
    return f"{value} {unit}{training.seeds_words(experiment, name)}"


def differences(experiment: ExperimentRuns) -> tuple[dict[str, Figure], list[str], list]:
    """Every run beside the baseline."""
    baseline = baseline_of(experiment)
    comparisons = [compare(experiment, name, baseline) for name in experiment.names() if name != baseline]
    figures = {"baseline_validation_loss": training.figure(experiment, baseline)}
    for comparison in comparisons:
        figures |= comparison_figures(comparison, f"{comparison.variant}_")
    if not comparisons:
        value = shown(experiment, baseline, "validation_loss", training.NATS)
        ended = (
            f"The run `{baseline}` ends at {value}." if training.values(experiment, baseline) else "No run finished."
        )
        return figures, [ended], [training.runs_table(experiment)]
    sentences = [outcome(f"In `{one.variant}`, compared with `{baseline}`", one) for one in comparisons]
    return figures, [*sentences, PAIRED], [training.runs_table(experiment), seed_table(comparisons)]


def single(experiment: ExperimentRuns, name: str) -> str:
    """What became of an experiment's only run."""
    if not training.values(experiment, name):
        return f"The run `{name}` did not finish."
    return f"The run `{name}` ends at {shown(experiment, name, 'validation_loss', training.NATS)}."
