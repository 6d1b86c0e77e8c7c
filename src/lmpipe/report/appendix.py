"""Appendix of the report: environment, settings, derivations, figures of the handout, and the time of each job."""

from collections.abc import Sequence
from dataclasses import dataclass

from lmpipe.analysis.finding import Figure, Finding, Gantt, Reference, Span, Table, Text
from lmpipe.analysis.results import Results
from lmpipe.planning.lineage import MAX_PAUSE_SECONDS, Lineage, as_yaml
from lmpipe.provenance.code_digest import TRACKED_PACKAGES
from lmpipe.report.cards import Card, Page, is_derivation, make_card
from lmpipe.report.figure_views import FigureView, figure_view
from lmpipe.report.origin import commit, join_by_key, join_unique, machine
from lmpipe.report.prose import Prose
from lmpipe.report.table_cells import FormattedTable, TableCell, footnotes, format_table, metric_text

RUNS = "experiment_log"
TIMES_TEMPLATE = "times"


@dataclass(frozen=True)
class BuildInfo:
    """Environment of the training runs: machines, versions, commits, seeds and code digests."""

    machines: str
    devices: str
    precisions: str
    commits: str
    versions: dict[str, str]
    seeds: list[int]
    code: dict[str, str]
    num_resumes: int


@dataclass(frozen=True)
class ReferenceRow:
    """A number of the write-up next to the study's."""

    problem: str
    label: str
    setting: str
    reference: str
    value: TableCell


@dataclass(frozen=True)
class Appendix:
    """Content of the appendix."""

    runs: Card | None
    helpers: list[Card]
    times: FigureView | None
    references: list[ReferenceRow]
    footnotes: list[str]
    derivations: list[FormattedTable | Text]
    build: BuildInfo
    settings: str


def make_appendix(page: Page, results: Results, helpers: Sequence[str]) -> Appendix:
    """Return the appendix of a study; `helpers` are experiments that only serve others."""
    rows = [row for problem, finding in page.problems.items() for row in reference_rows(problem, finding.reference)]
    derivations = [
        format_table(element) if isinstance(element, Table) else element
        for finding in page.problems.values()
        for element in (*finding.tables, *finding.texts)
        if is_derivation(element)
    ]
    return Appendix(
        make_card(page, [RUNS]) if RUNS in page.problems else None,
        [make_card(page, [name]) for name in helpers],
        times_view(page),
        rows,
        footnotes([row.value for row in rows]),
        derivations,
        build_info(results),
        as_yaml(results.study.model_dump(mode="json", exclude_none=True)),
    )


def reference_rows(problem: str, reference: Reference) -> list[ReferenceRow]:
    """Return the comparison of one problem with the write-up as texts."""
    return [
        ReferenceRow(
            problem,
            row.label,
            row.setting,
            metric_text(row.reference, row.unit),
            TableCell(metric_text(row.value, row.unit), row.missing_reason, is_code=isinstance(row.value, str)),
        )
        for row in reference.rows
    ]


def timeline(lineage: Lineage) -> list[Span]:
    """Return the jobs over the time since the first one began; pauses between calls are left out."""
    jobs = sorted(lineage.jobs.items(), key=lambda item: item[1].start)
    end = pauses = jobs[0][1].start if jobs else 0.0
    spans = []
    for path, job in jobs:
        if job.start > end + MAX_PAUSE_SECONDS:
            pauses += job.start - end
        end = max(end, job.end)
        label = path.removesuffix("provenance.json").rstrip("/.")
        spans.append(Span(label, job.rule, job.start - pauses, job.end - pauses))
    return spans


def times_view(page: Page) -> FigureView | None:
    """Return the Gantt chart of the study's jobs."""
    spans = timeline(page.lineage)
    if not spans:
        return None
    seconds: dict[str, float] = {}
    for span in spans:
        seconds[span.group] = seconds.get(span.group, 0.0) + span.end - span.start
    largest = max(seconds, key=seconds.get)
    share = seconds[largest] / (sum(seconds.values()) or 1.0)
    facts = {"largest": largest.replace("_", " "), "share": share}
    prose = Prose(TIMES_TEMPLATE, Finding("answered", facts=facts | {"num_jobs": len(spans)}), page.shared)
    return figure_view(TIMES_TEMPLATE, Figure("jobs", Gantt(spans)), prose, page.palette)


def build_info(results: Results) -> BuildInfo:
    """Return the environment of the training runs, each value with all its variants."""
    runs = results.runs()
    environments = [run.summary.environment for run in runs]
    code = [run.summary.code for run in runs]
    # Packages that a code digest covers decide the numbers, too; a corpus may be made of the texts of packages.
    versions = [environment.versions for environment in environments]
    versions += [{name: digests[name] for name in digests if name in TRACKED_PACKAGES} for digests in code]
    versions += [info.versions for info in results.corpora.values()]
    return BuildInfo(
        machines=join_unique(map(machine, environments)),
        devices=join_unique(str(run.summary.device) for run in runs),
        precisions=join_unique(run.summary.precision for run in runs),
        commits=join_unique(map(commit, environments)),
        versions=join_by_key(versions),
        seeds=sorted({run.seed for run in runs}),
        code={name: value for name, value in join_by_key(code).items() if name not in TRACKED_PACKAGES},
        num_resumes=sum(bool(run.summary.num_resumes) for run in runs),
    )
