"""Analysis of every problem of the write-up, and of every other experiment of a study.

A problem's module has `ID` and `analyze(results) -> Finding`.
"""

from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

from lmpipe.analysis.finding import Finding, Findings
from lmpipe.analysis.problems import generic_experiment
from lmpipe.analysis.results import Results
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
    analyze = problem_module(name).analyze if name in PROBLEMS else partial(generic_experiment.analyze, name=name)
    return complete_finding(name, analyze(results), results)


def complete_finding(problem: str, finding: Finding, results: Results) -> Finding:
    """Return a finding as findings.json contains it: with the study's target loss and the write-up's numbers."""
    from lmpipe.analysis.problems.target_loss import add_target
    from lmpipe.analysis.problems.write_up_comparison import compare_with_references

    finding = add_target(finding, results, problem)
    return replace(finding, reference=compare_with_references(problem, finding, results))
