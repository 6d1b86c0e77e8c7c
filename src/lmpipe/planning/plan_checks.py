"""Checks of a plan that no single setting can fail: names that refer to each other, and comparability."""

from collections.abc import Iterable

from lmpipe.io.validation import InvalidValueError
from lmpipe.planning.plan import Plan, unknown_name


def check_plan(plan: Plan) -> None:
    """Raise InvalidValueError for the first inconsistency of a plan."""
    check_best_of(plan)
    check_targets(plan)
    check_samples(plan)
    check_case_collisions(plan)


def check_best_of(plan: Plan) -> None:
    """Raise InvalidValueError unless each best_of names an experiment on one corpus, without cycles."""
    sources = {name: {run.best_of for run in runs} - {None} for name, runs in plan.runs_by_experiment.items()}
    for name, best_of in sources.items():
        key = f"experiments.{name}.max_lr.best_of"
        for source in sorted(best_of):
            if source not in sources:
                raise InvalidValueError(*unknown_name(key, source, sources))
            corpora = list(dict.fromkeys(run.corpus for run in plan.runs_by_experiment[source]))
            if len(corpora) > 1:
                raise InvalidValueError(
                    f"{key} is {source}, whose runs are on {' and '.join(corpora)} and have losses that do not compare",
                    "take the rate from an experiment on one corpus",
                )
    for name in sources:
        reached, front = set(), {name}
        while front:
            front = set().union(*(sources[source] for source in front)) - reached
            reached |= front
        if name in reached:
            raise InvalidValueError(
                f"experiments.{name}: best_of leads back to {name}", "take the rate from another experiment"
            )


def check_targets(plan: Plan) -> None:
    """Raise InvalidValueError if an experiment with a target_loss has several tokenizers: losses do not compare."""
    for name, experiment in plan.study.experiments.items():
        tokenizers = list(dict.fromkeys(run.tokenizer for run in plan.runs_by_experiment[name]))
        if experiment.target_loss is not None and len(tokenizers) > 1:
            raise InvalidValueError(
                f"experiments.{name} has a target_loss and the tokenizers {' and '.join(tokenizers)}, whose losses do "
                "not compare",
                "set target_loss in an experiment with one tokenizer",
            )


def check_samples(plan: Plan) -> None:
    """Raise InvalidValueError unless each entry of samples.models is a run on the corpus that it stands for."""
    runs = {f"{run.experiment}/{run.name}": run for run in plan.runs}
    for corpus, name in (plan.study.samples.models if plan.study.samples else {}).items():
        key = f"samples.models.{corpus}"
        if corpus not in plan.study.corpora:
            raise InvalidValueError(*unknown_name("samples.models", corpus, plan.study.corpora))
        if name not in runs:
            raise InvalidValueError(*unknown_name(key, name, runs))
        if runs[name].corpus != corpus:
            raise InvalidValueError(
                f"{key} is {name}, which is trained on {runs[name].corpus}", f"name a run on {corpus}"
            )


def check_case_collisions(plan: Plan) -> None:
    """Raise InvalidValueError for names that differ in case alone, which some file systems do not distinguish."""
    names: dict[str, Iterable[str]] = {
        "corpora": plan.study.corpora,
        "experiments": plan.runs_by_experiment,
        "accounting.models": plan.models,
    }
    for experiment, runs in plan.runs_by_experiment.items():
        names[f"experiments.{experiment}"] = dict.fromkeys(run.name for run in runs)
    for key, group in names.items():
        seen: dict[str, str] = {}
        for name in group:
            if seen.setdefault(name.casefold(), name) != name:
                raise InvalidValueError(
                    f"{key} has {seen[name.casefold()]!r} and {name!r}, which differ in case alone", "rename one"
                )
