"""Analysis of every problem of the write-up, and of every other experiment of a study.

A problem's module has `ID` and `analyze(results) -> Finding`; TITLE and QUESTION where it has no prose template.
"""

from dataclasses import replace
from importlib import import_module
from typing import Any

from lmpipe.analysis.finding import Finding, Findings
from lmpipe.analysis.problems import generic_experiment
from lmpipe.analysis.results import Results
from lmpipe.study.labels import experiment_label
from lmpipe.study.problems import PROBLEMS, listed_problems


def problem_module(problem: str) -> Any:
    """Import the module of a problem."""
    return import_module(f"lmpipe.analysis.problems.{problem}")


def analyze_all(results: Results) -> Findings:
    """Analyze every problem, and every other experiment of the study."""
    listed = listed_problems(results.study.handout, results.run_keys)
    names = [*listed, *(name for name in results.run_keys if name not in PROBLEMS)]
    return Findings(study=results.study.study, problems={name: analyze_problem(name, results) for name in names})


def analyze_problem(name: str, results: Results) -> Finding:
    """Analyze one problem, or an experiment that belongs to none."""
    if name in PROBLEMS:
        module = problem_module(name)
        return complete_finding(name, *headings(module), module.analyze(results), results)
    title = experiment_label(results.study, name).capitalize()
    return complete_finding(name, title, "", generic_experiment.analyze(results, name), results)


def headings(module: Any) -> tuple[str, str]:
    """Return the title and question of a problem's module; empty where its prose template has them."""
    return getattr(module, "TITLE", ""), getattr(module, "QUESTION", "")


def complete_finding(problem: str, title: str, question: str, finding: Finding, results: Results) -> Finding:
    """Return a finding as findings.json contains it: with the study's target loss and the write-up's numbers."""
    from lmpipe.analysis.problems.target_loss import add_target
    from lmpipe.analysis.problems.write_up_comparison import compare_with_references

    finding = add_target(finding, results, problem)
    reference = compare_with_references(problem, finding, results)
    return replace(finding, title=title, question=question, reference=reference)
