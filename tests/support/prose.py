"""Rendered prose of findings, for the tests of templates."""

from collections.abc import Mapping
from typing import Any

from lmpipe.analysis.finding import Finding
from lmpipe.report.prose import Prose

CARD_BLOCKS = ("question", "answer", "details", "caveat", "outcome", "finding", "warning")
FIGURE_BLOCKS = ("title", "subtitle", "alt")


def render(problem: str, finding: Finding, shared: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return every block of a finding's card and figures by name."""
    prose = Prose(problem, finding, shared)
    names = [*CARD_BLOCKS, *(f"{figure.id}_{block}" for figure in finding.figures for block in FIGURE_BLOCKS)]
    return {name: prose.block(name) for name in names}
