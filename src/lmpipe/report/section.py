"""Sections of the report: one problem each, with its plots, tables, comparison with the write-up, and origin."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from lmpipe.analysis.finding import Finding, Metric, Plot, Reference, Text
from lmpipe.io.formatting import format_bytes, format_seconds, join_words
from lmpipe.planning.lineage import Job, Lineage
from lmpipe.provenance.environment import Environment
from lmpipe.report.plots import palette
from lmpipe.report.plots.style import CSS_COLORS, Drawing
from lmpipe.report.table_cells import FormattedTable, TableCell, footnotes, format_table, metric_text

# A plot with more rows of numbers has them as a file only.
MAX_DATA_ROWS = 60
SENTENCES_PER_PARAGRAPH = 4


@dataclass(frozen=True)
class PlotFigure:
    """A plot with its caption and its numbers, whose file is called `name`."""

    caption: str
    svg: Markup
    name: str
    csv: str
    header: list[str]
    rows: list[list[str]]

    @property
    def page_rows(self) -> list[list[str]]:
        """Rows that are in the page; none if there are too many."""
        return self.rows if len(self.rows) <= MAX_DATA_ROWS else []


@dataclass(frozen=True)
class MetricRow:
    """A metric by name, with its value and 95 % interval as texts."""

    name: str
    value: TableCell
    interval: str


@dataclass(frozen=True)
class ReferenceRow:
    """A number of the write-up next to the study's."""

    label: str
    setting: str
    reference: str
    value: TableCell
    caveat: str


@dataclass(frozen=True)
class ReferenceTable:
    """Comparison with the write-up; `common_caveat` is the caveat that all rows share."""

    rows: list[ReferenceRow]
    common_caveat: str
    note: str
    footnotes: list[str]


@dataclass(frozen=True)
class StageJobs:
    """Finished jobs of one stage: number, seeds, and total wall time."""

    stage: str
    count: int
    seeds: list[int]
    time: str


@dataclass(frozen=True)
class Origin:
    """Jobs that made the results of a section, their environment, and the commands that make the results again."""

    stages: list[StageJobs]
    facts: dict[str, str]
    commands: list[str]


@dataclass(frozen=True)
class Section:
    """One problem, ready for the template."""

    id: str
    finding: Finding
    answer: str
    paragraphs: list[str]
    plots: list[PlotFigure]
    tables: list[FormattedTable]
    texts: list[Text]
    metrics: list[MetricRow]
    reference: ReferenceTable
    sources: list[str]
    origin: Origin | None


def make_section(
    problem: str, finding: Finding, drawings: Mapping[str, Drawing], lineage: Lineage, study: str
) -> Section:
    """Return the section of a problem; `drawings` holds the drawing of each plot by its path."""
    answer, *details = finding.sentences or ["There is nothing to tell."]
    step = SENTENCES_PER_PARAGRAPH
    sources = sorted({metric.source for metric in finding.metrics.values()} - {""})
    return Section(
        problem,
        finding,
        answer,
        [" ".join(details[start : start + step]) for start in range(0, len(details), step)],
        [plot_figure(problem, n, plot, drawings[plot.path]) for n, plot in enumerate(finding.plots, 1)],
        [format_table(table) for table in finding.tables],
        finding.texts,
        [metric_row(name, metric) for name, metric in finding.metrics.items()],
        reference_table(finding.reference),
        sources,
        origin(lineage, sources, study),
    )


# --- plots -----------------------------------------------------------------------------------------------------------


def plot_figure(problem: str, number: int, plot: Plot, drawing: Drawing) -> PlotFigure:
    """Return the n-th plot of a problem."""
    folder, _, name = plot.path.removesuffix(".svg").rpartition("/")
    folder = folder.rpartition("/")[2]
    name = f"{name}.csv" if folder == "figures" else f"{folder}-{name}.csv"
    header, *rows = drawing.table()
    svg = inline_svg(drawing.svg, f"{problem}-{number}-", plot.alt)
    return PlotFigure(plot.caption, svg, name, drawing.csv, header, rows)


def inline_svg(svg: str, id_prefix: str, alt: str) -> Markup:
    """Return an SVG file as an element with unique ids, the colours of the page, and the width of its box."""
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.S)
    body = re.sub(r'\bid="([^"]*)"', rf'id="{id_prefix}\1"', body)
    body = re.sub(r'(?:xlink:)?href="#([^"]*)"', rf'href="#{id_prefix}\1"', body)
    body = re.sub(r"url\(#([^)]*)\)", rf"url(#{id_prefix}\1)", body)
    for color, css_color in (CSS_COLORS | palette.CSS_COLORS).items():
        body = body.replace(color, css_color)
    view_box = re.search(r'viewBox="[^"]*"', svg)[0]
    compact = re.sub(r">\s+<", "><", body.partition(">")[2].strip())
    return Markup(f'<svg {view_box} role="img" aria-label="{escape(alt)}">{compact}')


# --- numbers ---------------------------------------------------------------------------------------------------------


def metric_row(name: str, metric: Metric) -> MetricRow:
    """Return a metric as texts."""
    bounds = [metric_text(bound, metric.unit, brief=True) for bound in metric.interval or ()]
    text = metric_text(metric.value, metric.unit)
    return MetricRow(
        name, TableCell(text, metric.missing_reason, is_code=isinstance(metric.value, str)), " to ".join(bounds)
    )


def reference_table(reference: Reference) -> ReferenceTable:
    """Return the comparison with the write-up as texts."""
    rows = [
        ReferenceRow(
            row.label,
            row.setting,
            metric_text(row.reference, row.unit),
            TableCell(metric_text(row.value, row.unit), row.missing_reason, is_code=isinstance(row.value, str)),
            row.caveat,
        )
        for row in reference.rows
    ]
    caveats = {row.caveat for row in rows}
    common_caveat = caveats.pop() if len(caveats) == 1 else ""
    return ReferenceTable(rows, common_caveat, reference.note, footnotes([row.value for row in rows]))


# --- origin ----------------------------------------------------------------------------------------------------------


def origin(lineage: Lineage, sources: Sequence[str], study: str) -> Origin | None:
    """Return the jobs behind the sources of a section's metrics; None without a record of provenance."""
    jobs = lineage.ancestors(sources)
    if not jobs:
        return None
    environments = [job.environment for job in jobs]
    versions = join_by_key([environment.versions for environment in environments])
    facts = {
        "commit": join_unique(map(commit, environments)),
        "machine": join_unique(map(machine, environments)),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return Origin(stage_jobs(jobs), facts, lineage.rebuild_commands(sources, study))


def stage_jobs(jobs: Iterable[Job]) -> list[StageJobs]:
    """Return jobs by stage, in the order in which the stages first appear."""
    by_stage: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        by_stage[job.rule].append(job)
    return [
        StageJobs(
            stage,
            len(members),
            sorted({seed for job in members for seed in job.seeds}),
            format_seconds(sum(job.wall_seconds for job in members)),
        )
        for stage, members in by_stage.items()
    ]


def machine(environment: Environment) -> str:
    """Return a machine in one line."""
    hardware = environment.hardware
    memory = f", {format_bytes(hardware.memory_bytes)} of memory" if hardware.memory_bytes else ""
    return f"{hardware.processor}, {hardware.cores} cores{memory}, {hardware.system}"


def commit(environment: Environment) -> str:
    """Return the commit of the code, and if files differ from it."""
    if environment.commit is None:
        return "not a git checkout"
    return environment.commit[:12] + (" with local changes" if environment.dirty else "")


def join_by_key(mappings: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the distinct values of each key of several mappings, joined.

    >>> join_by_key([{"torch": "2.9", "numpy": "2.3"}, {"torch": "2.8"}])
    {'torch': '2.9 and 2.8', 'numpy': '2.3'}
    """
    names = dict.fromkeys(name for mapping in mappings for name in mapping)
    return {name: join_unique([mapping[name] for mapping in mappings if name in mapping]) for name in names}


def join_unique(texts: Iterable[str]) -> str:
    """Return distinct texts, joined; "no training run" without any."""
    return join_words(list(dict.fromkeys(texts))) or "no training run"
