"""Analysis of every problem of the handout, and of every other experiment of a study, beside reference values."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from lmpipe.analysis.effects import correct_comparisons
from lmpipe.analysis.experiment_findings import missing_experiment, target_metrics
from lmpipe.analysis.finding import Finding, Findings, Metric, Reference, ReferenceRow
from lmpipe.analysis.problems import (
    adamw_accounting,
    batch_size_experiment,
    experiment_log,
    generate,
    generic_experiment,
    learning_rate,
    learning_rate_tuning,
    main_experiment,
    tokenizer_experiments,
    tokenizer_training,
    transformer_accounting,
    unicode,
)
from lmpipe.analysis.problems.ablation import ABLATIONS, analyze_ablation
from lmpipe.analysis.results import Results
from lmpipe.study.editions import edition_of, write_up
from lmpipe.study.problems import PROBLEMS, listed_problems

ANALYSES: dict[str, Callable[[Results], Finding]] = {
    "unicode1": unicode.analyze_null_character,
    "unicode2": unicode.analyze_encodings,
    "train_bpe_tinystories": partial(tokenizer_training.analyze_training, role="simple"),
    "train_bpe_expts_owt": tokenizer_training.analyze_web,
    "tokenizer_experiments": tokenizer_experiments.analyze,
    "transformer_accounting": transformer_accounting.analyze,
    "adamw_accounting": adamw_accounting.analyze,
    "learning_rate_tuning": learning_rate_tuning.analyze,
    "learning_rate": learning_rate.analyze,
    "batch_size_experiment": batch_size_experiment.analyze,
    "generate": generate.analyze,
    "main_experiment": main_experiment.analyze,
    "experiment_log": experiment_log.analyze,
    **{name: partial(analyze_ablation, name=name) for name in ABLATIONS},
}


def analyze_problem(name: str, results: Results) -> Finding:
    """Analyze one problem, or an experiment that belongs to none, with its target loss and the write-up's values."""
    if name in PROBLEMS and PROBLEMS[name].is_experiment and results.experiment(name) is None:
        finding = missing_experiment(results, name)
    else:
        finding = ANALYSES.get(name, partial(generic_experiment.analyze, name=name))(results)
    finding = replace(finding, metrics=finding.metrics | target_metrics(results, name))
    return replace(finding, reference=compare_with_references(name, finding, results))


def analyze_all(results: Results, analyze: Callable[[str, Results], Finding] = analyze_problem) -> Findings:
    """Analyze every problem that the report answers, and every other experiment of the study."""
    experiments = results.study.experiments
    listed = listed_problems(results.study.handout, experiments)
    names = [*listed, *(name for name in experiments if name not in PROBLEMS)]
    problems = {name: analyze(name, results) for name in names}
    return Findings(study=results.study.study, problems=correct_comparisons(problems))


def compare_with_references(problem: str, finding: Finding, results: Results) -> Reference:
    """Return the write-up's values beside the study's, and the handout's for metrics that the study has."""
    edition = edition_of(results.study.handout)
    if edition is None:
        return Reference()
    values = [("write-up (2025)", value) for value in write_up().write_up]
    values += [(edition.title, value) for value in edition.values if value.metric in finding.metrics]
    unmeasured, rows = Metric(None, missing_reason="not measured in this study"), []
    for source, value in values:
        if value.problem == problem:
            metric = finding.metrics.get(value.metric, unmeasured)
            setting = ", ".join(filter(None, [source, value.setting]))
            rows.append(
                ReferenceRow(value.label, value.value, metric.value, metric.missing_reason, value.unit, setting)
            )
    return Reference(rows)
