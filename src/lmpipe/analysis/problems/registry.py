"""Registry of the problems of the write-up, in the order of the report.

A problem's module has `ID`, `TITLE`, `QUESTION` and `analyze(results) -> Finding`.
"""

from dataclasses import replace
from importlib import import_module
from typing import Any

from lmpipe.analysis.finding import Finding, Findings
from lmpipe.analysis.problems import generic_experiment
from lmpipe.analysis.results import Results

# In the order of the report. Each is a module of this package; only adamwAccounting's file follows Python's naming.
PROBLEMS = (
    "unicode1",
    "unicode2",
    "train_bpe_tinystories",
    "train_bpe_expts_owt",
    "tokenizer_experiments",
    "transformer_accounting",
    "adamwAccounting",
    "learning_rate_tuning",
    "learning_rate",
    "batch_size_experiment",
    "generate",
    "layer_norm_ablation",
    "pre_norm_ablation",
    "no_pos_emb",
    "swiglu_ablation",
    "main_experiment",
    "experiment_log",
)


def module_of(problem: str) -> Any:
    """The module of a problem id."""
    return import_module(f"lmpipe.analysis.problems.{'adamw_accounting' if problem == 'adamwAccounting' else problem}")


def analyze_all(results: Results) -> Findings:
    """Analyze every problem, and every other experiment of the study."""
    names = [*PROBLEMS, *(name for name in results.run_keys if name not in PROBLEMS)]
    return Findings(study=results.study.study, problems={name: analyze_problem(name, results) for name in names})


def analyze_problem(name: str, results: Results) -> Finding:
    """Analyze one problem, or an experiment that belongs to none."""
    if name in PROBLEMS:
        module = module_of(name)
        return entry(name, module.TITLE, module.QUESTION, module.analyze(results), results)
    title, question = generic_experiment.heading(results, name)
    return entry(name, title, question, generic_experiment.analyze(results, name), results)


def entry(problem: str, title: str, question: str, finding: Finding, results: Results) -> Finding:
    """Finding of a problem as findings.json holds it: with the study's target loss and the write-up's numbers."""
    from lmpipe.analysis.problems.target_loss import add_target
    from lmpipe.analysis.problems.write_up_comparison import compare_with_write_up

    finding = add_target(finding, results, problem)
    reference = compare_with_write_up(problem, finding, results)
    return replace(finding, title=title, question=question, reference=reference)
