"""The report: findings and plots on one self-contained HTML page that requests nothing from the network."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from lmpipe.analysis.finding import Finding, Findings
from lmpipe.analysis.problems.write_up_comparison import stand_in_for
from lmpipe.analysis.results import ROLE_DATASETS, Results
from lmpipe.analysis.run_states import StudyFiles
from lmpipe.errors import InputError
from lmpipe.io.files import atomic_write
from lmpipe.io.formatting import format_bytes, format_int, format_number, format_seconds, is_number, join_words
from lmpipe.planning.lineage import Lineage, as_yaml
from lmpipe.planning.plan import Plan
from lmpipe.planning.session import StudySession
from lmpipe.planning.stages import STAGES, records
from lmpipe.provenance.code_digest import TRACKED_PACKAGES
from lmpipe.provenance.environment import PACKAGE
from lmpipe.report.incomplete import Gaps, analyze_available, available_results, find_gaps, is_complete
from lmpipe.report.plots.ablations import effects_in, forest_plot
from lmpipe.report.plots.charts import draw
from lmpipe.report.plots.style import Drawing
from lmpipe.report.prose import shared_names, with_sentences
from lmpipe.report.section import commit, inline_svg, join_by_key, join_unique, machine, make_section
from lmpipe.report.table_cells import html_text, markdown_inline, metric_text
from lmpipe.study.paths import StudyPaths
from lmpipe.study.problems import HEADLINES

# Metrics shown large at the top: problem, metric, and label.
TILES = (
    ("experiment_log", "distinct_runs", "models trained"),
    ("experiment_log", "total_tokens", "training tokens in all"),
    ("experiment_log", "total_wall_seconds", "training time, summed over runs"),
    ("tokenizer_experiments", "bytes_per_token_simple_own", "bytes per token, {simple}"),
    ("learning_rate", "best_max_lr", "best peak learning rate"),
    ("main_experiment", "simple_bits_per_byte", "bits per byte, {simple}"),
    ("main_experiment", "web_bits_per_byte", "bits per byte, {web}"),
)
SOURCES = {
    "stories": "stories made by lmpipe's own grammar",
    "docstrings": "the documentation text of installed Python packages",
    "url": "texts named in the study",
}
# HTML cannot contain control characters; their Unicode pictures are visible.
CONTROL_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"} | {127: 0x2421}
TEMPLATES = PACKAGE / "report" / "templates"


@dataclass(frozen=True)
class Corpus:
    """A corpus in the introduction: its text, the text that it replaces or is, its splits and its vocabulary."""

    name: str
    stands_for: str | None
    original: str | None
    source: str
    is_named: bool
    splits: Mapping[str, Mapping[str, int]]
    vocab_size: int


@dataclass(frozen=True)
class Tile:
    """A metric at the top of the page."""

    problem: str
    text: str
    label: str


@dataclass(frozen=True)
class StageRow:
    """A stage of the study: number of jobs, and the total time of those with a record."""

    stage: str
    num_jobs: int
    time: str | None


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


def build_report(study: StudySession) -> bool:
    """Write report.html of a study; return True if all results that it is made of exist.

    A complete study is reported from findings.json, and the plots of its findings are drawn as files, too. Otherwise
    the page is made of the results that exist, and lists those that are missing or failed.

    Raises InputError if there are no results at all, or if a complete study has a damaged one.
    """
    if not study.folder.is_dir():
        raise InputError(study.folder, "has no results of the study yet", "run snakemake first")
    paths = StudyPaths(study.folder)
    snapshot = StudyFiles(study).snapshot(time.time())
    complete = is_complete(snapshot)
    if complete:
        results = Results(study.folder, study.plan.study, study.plan.run_keys())
        findings = Findings.read(paths.findings)
        drawings = draw_plots(findings, study.folder)
        write_page(paths.report, study.plan, results, findings, drawings)
        (study.folder / "figures").mkdir(exist_ok=True)
        for plot in (plot for finding in findings.problems.values() for plot in finding.plots if plot.data):
            drawings[plot.path].save(study.folder / plot.path)
    else:
        results, redrawn, unreadable = available_results(snapshot)
        findings = analyze_available(results, snapshot, unreadable)
        drawings = redrawn | draw_plots(findings, study.folder, skip=redrawn)
        write_page(paths.report, study.plan, results, findings, drawings, find_gaps(snapshot))
    return complete


def draw_plots(findings: Findings, folder: Path, skip: Mapping[str, Drawing] | None = None) -> dict[str, Drawing]:
    """Return the drawing of each plot by its path; plots without data are read from the study's folder."""
    plots = {plot.path: plot for finding in findings.problems.values() for plot in finding.plots}
    return {
        path: draw(plot.data) if plot.data else Drawing.read(folder / path)
        for path, plot in plots.items()
        if path not in (skip or {})
    }


def write_page(
    output: Path,
    plan: Plan,
    results: Results,
    findings: Findings,
    drawings: Mapping[str, Drawing],
    gaps: Gaps | None = None,
) -> None:
    """Write the page of a study; `gaps` lists what is missing of an incomplete one."""
    shared = shared_names(results.study)
    problems = {name: with_sentences(name, finding, shared) for name, finding in findings.problems.items()}
    lineage = Lineage.read(results.folder, records(plan))
    effects = effects_in(problems)
    has_effects = any(effect.value is not None for effect in effects)
    alt = "; ".join(f"{effect.title}, {effect.variant}: {effect.text}" for effect in effects)
    html = page_template().render(
        study=findings.study,
        gaps=gaps,
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "report.js").read_text(encoding="utf-8")),
        corpora=corpora(results, results.study.corpora if gaps is None else results.corpora),
        tiles=headline_tiles(results, problems),
        headlines=headlines(problems),
        statuses=status_text(problems),
        effects=effects if has_effects else [],
        effects_svg=inline_svg(forest_plot(effects).svg, "effects-", f"Differences in final loss. {alt}.")
        if has_effects
        else "",
        stages=stage_rows(plan, lineage),
        sections=[
            make_section(problem, finding, drawings, lineage, findings.study) for problem, finding in problems.items()
        ],
        build=build_info(results),
        settings=as_yaml(results.study.model_dump(mode="json", exclude_none=True)),
    )
    data = html.lstrip().translate(CONTROL_PICTURES).encode("utf-8", "replace")
    with atomic_write(output, "wb", len(data)) as file:
        file.write(data)


def page_template() -> Template:
    """Return the template of the page."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = {"markdown": markdown_inline, "html": html_text, "count": format_int, "bytes": format_bytes}
    environment.filters |= filters | {"data_uri": data_uri}
    return environment.get_template("report.html.j2")


def data_uri(text: str, kind: str = "text/csv") -> str:
    r"""Return a text as a data URI.

    >>> data_uri("a,b\n1,2\n")
    'data:text/csv;charset=utf-8,a,b%0A1,2%0A'
    """
    return f"data:{kind};charset=utf-8,{quote(text, safe=' ,.:;=+-_/()[]@!*~')}"


# --- first page ------------------------------------------------------------------------------------------------------


def corpora(results: Results, names: Iterable[str]) -> list[Corpus]:
    """Return the introduction of the named corpora; raise InputError if one does not exist."""
    rows = []
    for name in names:
        info, settings = results.corpora[name], results.study.corpora[name]
        replaced = stand_in_for(results, name)
        original = None if replaced else settings.stands_for
        source = SOURCES.get(info.source, info.source)
        # A user's files may be a part of the text that they replace.
        is_named = info.source == "url"
        rows.append(Corpus(name, replaced, original, source, is_named, info.splits, settings.tokenizer.vocab_size))
    return rows


def headline_tiles(results: Results, problems: Mapping[str, Finding]) -> list[Tile]:
    """Return the metrics at the top, that the study has."""
    tiles = []
    for problem, name, label in TILES:
        metrics = problems[problem].metrics if problem in problems else {}
        named = {role: metrics[f"{role}_corpus"].value for role in ROLE_DATASETS if f"{role}_corpus" in metrics}
        names = {role: named.get(role) or results.corpus_in_role(role) or "" for role in ROLE_DATASETS}
        metric = metrics.get(name)
        if metric is not None and metric.value is not None:
            is_large = metric.unit == "tokens" and is_number(metric.value) and metric.value >= 1e6
            text = metric_text(metric.value, metric.unit, brief=True)
            text = f"{format_number(metric.value / 1e6)} million" if is_large else text
            tiles.append(Tile(problem, text, label.format(**names)))
    return tiles


def headlines(problems: Mapping[str, Finding]) -> dict[str, Finding]:
    """Return the findings whose short answers are at the top, by problem."""
    return {
        problem: problems[problem]
        for problem in HEADLINES
        if problem in problems and problems[problem].status != "missing"
    }


def status_text(problems: Mapping[str, Finding]) -> str:
    """Return the number of problems by status.

    >>> status_text({"a": Finding("answered"), "b": Finding("missing")})
    '1 answered and 1 missing of 2 problems'
    """
    statuses = Counter(finding.status for finding in problems.values())
    if statuses["answered"] == len(problems):
        return f"all {len(problems)} problems answered"
    counts = [f"{statuses[status]} {status}" for status in ("answered", "partial", "missing") if statuses[status]]
    return f"{join_words(counts)} of {len(problems)} problems"


def stage_rows(plan: Plan, lineage: Lineage) -> list[StageRow]:
    """Return the stages before the report with their jobs."""
    seconds: Counter[str] = Counter()
    for job in lineage.jobs.values():
        seconds[job.rule] += job.wall_seconds
    jobs = {stage.rule: len(paths) for stage in STAGES if (paths := stage.records(plan)) and stage.rule != "report"}
    return [StageRow(rule, num, format_seconds(seconds[rule]) if seconds[rule] else None) for rule, num in jobs.items()]


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
