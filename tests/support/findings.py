"""Findings of problems about training runs, for their tests."""

import re
from pathlib import Path
from typing import Any

from lmpipe.analysis.finding import Finding
from lmpipe.analysis.problems.registry import problem_module
from lmpipe.analysis.results import Results
from lmpipe.report.prose import CARD_BLOCKS, FIGURE_BLOCKS, Prose
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


def prose(problem: str, finding: Finding) -> dict[str, str]:
    """Return every block of a problem's prose; raises if the template names a metric or fact that is not there."""
    blocks = [f"{figure.id}_{block}" for figure in finding.figures for block in FIGURE_BLOCKS]
    rendered = Prose(problem, finding)
    return {name: rendered.block(name) for name in (*CARD_BLOCKS, *blocks)}
