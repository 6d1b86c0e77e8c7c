"""Findings of problems about training runs, for their tests."""

import re
from pathlib import Path
from typing import Any

from lmpipe.analysis.finding import Finding
from lmpipe.analysis.problems.registry import problem_module
from lmpipe.analysis.results import Results
from tests.support.fake_results import fabricate_study

ON_STORIES = {"corpus": "stories"}


def find(problem: str, results: Results) -> Finding:
    """Return the finding of a study for a problem."""
    return problem_module(problem).analyze(results)


def find_in(folder: Path, problem: str, experiment: dict[str, Any], **changes: Any) -> Finding:
    """Return the finding of a made-up study whose only experiment is that of the problem."""
    return find(problem, fabricate_study(folder, {problem: experiment}, **changes))


def value(finding: Finding, name: str) -> Any:
    """Return a metric of a finding."""
    return finding.metrics[name].value


def code_spans(sentence: str) -> list[str]:
    """Return the names in a sentence that are set as code."""
    return re.findall("`([^`]+)`", sentence)
