"""What the tests of the problems about training runs share: finding, and reading a finding."""

from typing import Any

from lmpipe.analysis.finding import Finding
from lmpipe.analysis.problems.registry import problem_module
from lmpipe.analysis.results import Results

ON_STORIES = {"corpus": "stories"}


def find(problem: str, results: Results) -> Finding:
    """Return the finding of a study for a problem."""
    return problem_module(problem).analyze(results)


def text_of(finding: Finding) -> str:
    """All sentences of a finding."""
    return " ".join(finding.sentences)


def value(finding: Finding, name: str) -> Any:
    """Return a figure of a finding."""
    return finding.metrics[name].value
