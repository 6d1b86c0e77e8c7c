"""Cards of the report: one question or several, each with its answer, one figure, and everything else folded away."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from lmpipe.analysis.finding import Expectation, Finding, MarkedText, Metric, Text
from lmpipe.planning.lineage import Lineage
from lmpipe.report.figure_views import FigureView, figure_view
from lmpipe.report.origin import Origin, origin
from lmpipe.report.plots.palette import Palette
from lmpipe.report.prose import Prose
from lmpipe.report.table_cells import FormattedTable, TableCell, format_table, markdown_inline, metric_text
from lmpipe.study.problems import PROBLEMS

DERIVATION, SAMPLES_PER_MODEL = "Derivation", 2
# An open sample is cut here; the whole text is folded away.
MAX_SAMPLE_CHARACTERS = 420
NOTHING = "There is no result."
# Figure of the front page, by problem and name.
HERO = ("main_experiment", "hero")


@dataclass(frozen=True)
class Page:
    """Content that all parts of a page share."""

    study: str
    problems: Mapping[str, Finding]
    palette: Palette
    lineage: Lineage
    shared: Mapping[str, Any]

    def prose(self, problem: str) -> Prose:
        """Return the prose of a finding."""
        return Prose(problem, self.problems[problem], self.shared)


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

    @property
    def num_shown(self) -> int:
        """Number of figures that are not folded away: one, or one for each of several problems."""
        return len(self.entries)


def make_card(page: Page, problems: Sequence[str]) -> Card:
    """Return the card of one or several problems."""
    findings = {problem: page.problems[problem] for problem in problems}
    figures = [view for problem in problems for view in views(page, problem)]
    texts = [text for finding in findings.values() for text in finding.texts if not is_derivation(text)]
    samples = [] if figures else shown_samples([text for text in texts if isinstance(text, MarkedText)])
    folded = [text for text in texts if text not in samples]
    metrics = {name: metric for finding in findings.values() for name, metric in finding.metrics.items()}
    sources = sorted({metric.source for metric in metrics.values()} - {""})
    return Card(
        problems[0],
        [make_entry(page, problem) for problem in problems],
        figures,
        list(map(shorten, samples)),
        folded + [text for text in samples if shorten(text) != text],
        [format_table(table) for f in findings.values() for table in f.tables if not is_derivation(table)],
        [metric_row(name, metric) for name, metric in metrics.items()],
        sources,
        origin(page.lineage, sources, page.study),
    )


def shown_samples(texts: Sequence[MarkedText]) -> list[MarkedText]:
    """Return the first samples of each model, whose name begins the caption; the others are folded away."""
    models = [text.caption.partition(",")[0] for text in texts]
    return [text for index, text in enumerate(texts) if models[:index].count(models[index]) < SAMPLES_PER_MODEL]


def shorten(text: MarkedText) -> MarkedText:
    """Return the first characters of a sample, with an ellipsis if there are more."""
    spans, room = [], MAX_SAMPLE_CHARACTERS
    for piece, mark in text.spans:
        if len(piece) > room:
            return MarkedText(text.caption, [*spans, (piece[:room].rstrip() + " …", mark)])
        spans.append((piece, mark))
        room -= len(piece)
    return text


def is_derivation(element: Any) -> bool:
    """Return True for tables and texts that belong to the appendix."""
    return element.caption.startswith(DERIVATION)


def views(page: Page, problem: str) -> list[FigureView]:
    """Return the figures of a problem's card; the hero is on the front page."""
    figures = [figure for figure in page.problems[problem].figures if (problem, figure.id) != HERO]
    prose = page.prose(problem)
    return [figure_view(problem, figure, prose, page.palette) for figure in figures]


def make_entry(page: Page, problem: str) -> Entry:
    """Return the texts of one problem."""
    finding, prose = page.problems[problem], page.prose(problem)
    aliases = PROBLEMS[problem].aliases if problem in PROBLEMS else ()
    question, missing = prose.html("question"), finding.status == "missing"
    answer, details, caveat, found = (
        Markup("") if missing else prose.html(name) for name in ("answer", "details", "caveat", "found")
    )
    if missing:
        answer = markdown_inline(finding.reason or NOTHING)
    reason = markdown_inline(finding.reason if finding.status == "partial" else "")
    texts = (question, answer, details, caveat, found, reason)
    return Entry(problem, aliases, finding.status, *texts, finding.expectations)


def metric_row(name: str, metric: Metric) -> MetricRow:
    """Return a metric as texts."""
    bounds = [metric_text(bound, metric.unit, brief=True) for bound in metric.interval or ()]
    text = metric_text(metric.value, metric.unit)
    cell = TableCell(text, metric.missing_reason, is_code=isinstance(metric.value, str))
    return MetricRow(name, cell, " to ".join(filter(None, bounds)))
