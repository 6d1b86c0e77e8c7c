"""Rendered prose of findings, for the tests of templates."""

from lmpipe.analysis.finding import Finding
from lmpipe.report.prose import CARD_BLOCKS, FIGURE_BLOCKS, Prose


def render(problem: str, finding: Finding) -> dict[str, str]:
    """Return every block of a finding's card and figures by name."""
    prose = Prose(problem, finding)
    names = [*CARD_BLOCKS, "care", *(f"{figure.id}_{part}" for figure in finding.figures for part in FIGURE_BLOCKS)]
    return {name: prose.block(name) for name in names}
