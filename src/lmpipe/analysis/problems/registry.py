"""The problems of the write-up, one module each: its question, its figures from the results, its sentences, its plots.

A problem's module has `ID`, `TITLE`, `QUESTION` and `find(results) -> Finding`. Everything a reader sees of a problem
comes from its Finding; the report only lays it out.
"""

from dataclasses import asdict
from importlib import import_module
from typing import Any

from lmpipe.analysis.finding import Finding
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


def find_all(results: Results) -> dict[str, dict[str, Any]]:
    """The findings of every problem, and of every other experiment of the study, ready for findings.json."""
    from lmpipe.analysis.problems import general_experiment

    (results.folder / "figures").mkdir(exist_ok=True)
    findings = {}
    for problem in PROBLEMS:
        module = module_of(problem)
        findings[problem] = entry(problem, module.TITLE, module.QUESTION, module.find(results), results)
    for name in results.plan:
        if name not in PROBLEMS:
            title, question = general_experiment.heading(results, name)
            findings[name] = entry(name, title, question, general_experiment.find(results, name), results)
    return findings


def entry(problem: str, title: str, question: str, finding: Finding, results: Results) -> dict[str, Any]:
    """One entry of findings.json, with the study's own target and the write-up's figures for the same problem."""
    from lmpipe.analysis.problems.reference import beside_write_up
    from lmpipe.analysis.problems.target import add_target

    add_target(finding, results, problem)
    reference = beside_write_up(problem, finding, results)
    return {"title": title, "question": question, **asdict(finding), "reference": reference}
