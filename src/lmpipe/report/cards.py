"""Cards of the report: one question or several, each with its answer, one figure, and everything else folded away."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from lmpipe.analysis.finding import Expectation, Figure, Finding, MarkedText, Metric, Text
from lmpipe.planning.lineage import Lineage
from lmpipe.report.figure_views import FigureView, figure_view, plot_view
from lmpipe.report.origin import Origin, origin
from lmpipe.report.plots.palette import Palette
from lmpipe.report.plots.style import Drawing
from lmpipe.report.prose import EXPERIMENT_TEMPLATE, Prose, has_template
from lmpipe.report.table_cells import FormattedTable, TableCell, format_table, markdown_inline, metric_text
from lmpipe.study.problems import PROBLEMS

DERIVATION = "Derivation"
NOTHING = "There is no result."


@dataclass(frozen=True)
class Page:
    """Content that all parts of a page share."""

    study: str
    problems: Mapping[str, Finding]
    palette: Palette
    lineage: Lineage
    drawings: Mapping[str, Drawing]
    shared: Mapping[str, Any]

    def prose(self, problem: str) -> Prose | None:
        """Return the prose of a finding; None for one that has sentences instead of a template."""
        finding = self.problems[problem]
        has_prose = has_template(problem) or (problem not in PROBLEMS and has_template(EXPERIMENT_TEMPLATE))
        is_old = not has_prose or (finding.sentences and finding.status != "missing")
        return None if is_old else Prose(problem, finding, self.shared)


@dataclass(frozen=True)
class Entry:
    """One problem of a card."""

    id: str
    aliases: tuple[str, ...]
    status: str
    question: Markup
    answer: Markup
    details: Markup
    caveat: Markup
    found: Markup
    reason: Markup
    expectations: Sequence[Expectation]


@dataclass(frozen=True)
class MetricRow:
    """A metric by name, with its value and 95 % interval as texts."""

    name: str
    value: TableCell
    interval: str


@dataclass(frozen=True)
class Card:
    """Problems that share a figure and numbers; `samples` are texts that stand in the place of a figure."""

    id: str
    entries: list[Entry]
    figures: list[FigureView]
    samples: list[MarkedText]
    texts: list[Text | MarkedText]
    tables: list[FormattedTable]
    metrics: list[MetricRow]
    sources: list[str]
    origin: Origin | None


def make_card(page: Page, problems: Sequence[str]) -> Card:
    """Return the card of one or several problems."""
    findings = {problem: page.problems[problem] for problem in problems}
    figures = [view for problem in problems for view in views(page, problem)]
    texts = [text for finding in findings.values() for text in finding.texts if not is_derivation(text)]
    samples = [] if figures else [text for text in texts if isinstance(text, MarkedText)]
    metrics = {name: metric for finding in findings.values() for name, metric in finding.metrics.items()}
    sources = sorted({metric.source for metric in metrics.values()} - {""})
    return Card(
        problems[0],
        [make_entry(page, problem) for problem in problems],
        figures,
        samples,
        [text for text in texts if text not in samples],
        [format_table(table) for f in findings.values() for table in f.tables if not is_derivation(table)],
        [metric_row(name, metric) for name, metric in metrics.items()],
        sources,
        origin(page.lineage, sources, page.study),
    )


def is_derivation(element: Any) -> bool:
    """Return True for tables and texts that belong to the appendix."""
    return element.caption.startswith(DERIVATION)


def views(page: Page, problem: str) -> list[FigureView]:
    """Return the figures of a problem."""
    finding, prose = page.problems[problem], page.prose(problem)
    if prose is None:
        return [plot_view(problem, plot, page.drawings) for plot in finding.plots]
    return [figure_view(problem, figure, prose, page.palette) for figure in card_figures(problem, finding)]


def card_figures(problem: str, finding: Finding) -> list[Figure]:
    """Return the figures of a problem's card; the hero is on the front page."""
    return [figure for figure in finding.figures if (problem, figure.id) != HERO]


HERO = ("main_experiment", "hero")


def make_entry(page: Page, problem: str) -> Entry:
    """Return the texts of one problem."""
    finding, prose = page.problems[problem], page.prose(problem)
    aliases = PROBLEMS[problem].aliases if problem in PROBLEMS else ()
    if prose is None:
        answer, *details = finding.sentences or [NOTHING]
        blocks = {"question": finding.question, "answer": answer, "details": " ".join(details)}
        question, answer, details, caveat, found = (
            markdown_inline(blocks.get(name, "")) for name in ("question", "answer", "details", "caveat", "found")
        )
    elif finding.status == "missing":
        question, answer = prose.html("question"), markdown_inline(finding.reason or NOTHING)
        details = caveat = found = Markup("")
    else:
        names = ("question", "answer", "details", "caveat", "found")
        question, answer, details, caveat, found = map(prose.html, names)
    reason = markdown_inline(finding.reason if finding.status == "partial" else "")
    texts = (question, answer, details, caveat, found, reason)
    return Entry(problem, aliases, finding.status, *texts, finding.expectations)


def metric_row(name: str, metric: Metric) -> MetricRow:
    """Return a metric as texts."""
    bounds = [metric_text(bound, metric.unit, brief=True) for bound in metric.interval or ()]
    text = metric_text(metric.value, metric.unit)
    cell = TableCell(text, metric.missing_reason, is_code=isinstance(metric.value, str))
    return MetricRow(name, cell, " to ".join(filter(None, bounds)))
