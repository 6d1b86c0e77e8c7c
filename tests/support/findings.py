"""Findings of made-up studies, for their tests."""

from pathlib import Path
from typing import Any

from lmpipe.analysis.finding import Finding
from lmpipe.analysis.problems.registry import analyze_problem
from lmpipe.analysis.results import Results
from tests.support.fake_results import fabricate_study

ON_STORIES = {"corpus": "stories"}


def find(problem: str, results: Results) -> Finding:
    """Return the finding of a study for a problem."""
    return analyze_problem(problem, results)


def find_in(folder: Path, problem: str, experiment: dict[str, Any], **changes: Any) -> Finding:
    """Return the finding of a made-up study whose only experiment is that of the problem."""
    return find(problem, fabricate_study(folder, {problem: experiment}, **changes))


def value(finding: Finding, name: str) -> Any:
    """Return a metric of a finding."""
    return finding.metrics[name].value
