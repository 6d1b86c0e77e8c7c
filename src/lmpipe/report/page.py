"""The report: findings and figures on one self-contained HTML page that requests nothing from the network."""

import time
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from lmpipe.analysis.finding import Findings
from lmpipe.analysis.results import Results
from lmpipe.analysis.run_states import StudyFiles
from lmpipe.errors import InputError
from lmpipe.io.files import atomic_write
from lmpipe.io.formatting import format_bytes, format_count, format_int, format_seconds, join_words
from lmpipe.planning.lineage import Lineage
from lmpipe.planning.plan import Plan
from lmpipe.planning.session import StudySession
from lmpipe.planning.stages import records
from lmpipe.provenance.environment import PACKAGE
from lmpipe.report.appendix import make_appendix
from lmpipe.report.cards import Page, make_card, plan_chapters
from lmpipe.report.front import forest_view, make_front
from lmpipe.report.incomplete import Gaps, analyze_available, available_results, find_gaps
from lmpipe.report.plots.figures import draw
from lmpipe.report.plots.palette import Palette
from lmpipe.report.prose import format_nats, shared_names
from lmpipe.report.table_cells import html_text, interval_text, markdown_inline, metric_text, value_cell
from lmpipe.study.problems import PROBLEMS

# HTML cannot contain control characters; their Unicode pictures are visible.
CONTROL_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"} | {127: 0x2421}
TEMPLATES = PACKAGE / "report" / "templates"
# Jobs that a report has no results of, so that it is the same whenever it is written.
LATER_RULES = ("report", "collect_provenance")


def build_report(study: StudySession) -> bool:
    """Write report.html of a study; return True if all results that it is made of exist.

    A complete study is reported from findings.json, and its figures are drawn as files, too. Otherwise the page is made
    of the results that exist, and lists those that are missing or failed.

    Raises InputError if there are no results at all, or if a complete study has a damaged one.
    """
    if not study.folder.is_dir():
        raise InputError(study.folder, "has no results of the study yet", "run snakemake first")
    snapshot = StudyFiles(study).snapshot(time.time())
    complete = snapshot.has_results("report")
    if complete:
        results = Results(study.folder, study.plan.study, study.plan.run_keys())
        findings = Findings.read(study.paths.findings)
        write_page(study.paths.report, study.plan, results, findings)
        study.paths.figures.mkdir(exist_ok=True)
        palette = page_palette(findings)
        for problem, finding in findings.problems.items():
            for figure in finding.figures:
                draw(figure.data, palette).save(study.paths.figures / f"{problem}-{figure.id}.svg")
    else:
        results, unreadable = available_results(snapshot)
        findings = analyze_available(results, snapshot, unreadable)
        write_page(study.paths.report, study.plan, results, findings, find_gaps(snapshot))
    return complete


def page_palette(findings: Findings) -> Palette:
    """Return the colours of all variants on a page."""
    return Palette(figure for finding in findings.problems.values() for figure in finding.figures)


def write_page(output: Path, plan: Plan, results: Results, findings: Findings, gaps: Gaps | None = None) -> None:
    """Write the page of a study; `gaps` lists what is missing of an incomplete one."""
    page = Page(
        findings.study,
        findings.problems,
        page_palette(findings),
        Lineage.read(results.folder, records(plan, without=LATER_RULES)),
        shared_names(results.study),
    )
    helpers = helper_experiments(plan, findings)
    names = [name for name in findings.problems if name not in helpers]
    chapters = plan_chapters(names, others_first=results.study.handout == "none")
    html = page_template().render(
        study=findings.study,
        gaps=gaps,
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "report.js").read_text(encoding="utf-8")),
        front=make_front(page, results, results.study.corpora if gaps is None else results.corpora),
        chapters={name: [make_card(page, card) for card in cards] for name, cards in chapters.items()},
        forest=forest_view(page),
        appendix=make_appendix(page, results, helpers),
    )
    data = html.lstrip().translate(CONTROL_PICTURES).encode("utf-8", "replace")
    with atomic_write(output, "wb", len(data)) as file:
        file.write(data)


def helper_experiments(plan: Plan, findings: Findings) -> list[str]:
    """Return the experiments of no problem that serve others: with their best rate, or texts of the first figure."""
    samples = plan.study.samples
    with_texts = {run.partition("/")[0] for runs in (samples.progress if samples else {}).values() for run in runs}
    serving = with_texts | {run.best_of for run in plan.runs}
    return [name for name in findings.problems if name in serving and name not in PROBLEMS]


def page_template() -> Template:
    """Return the template of the page."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "aliases": lambda problem: PROBLEMS[problem].aliases if problem in PROBLEMS else (),
        "bytes": format_bytes,
        "cell": value_cell,
        "clause": clause,
        "count": format_int,
        "data_uri": data_uri,
        "html": html_text,
        "interval": interval_text,
        "loss": format_nats,
        "markdown": markdown_inline,
        "metric": metric_text,
        "rounded_count": format_count,
        "seconds": format_seconds,
        "words": join_words,
    }
    return environment.get_template("report.html.j2")


def clause(sentence: str) -> str:
    """Return a sentence as a clause; a word with capitals inside, such as RMSNorm, keeps its own.

    >>> clause("The gate helps."), clause("RMSNorm keeps scales")
    ('the gate helps', 'RMSNorm keeps scales')
    """
    first = sentence.partition(" ")[0]
    is_name = any(letter.isupper() for letter in first[1:])
    return (sentence if is_name else sentence[:1].lower() + sentence[1:]).rstrip(".")


def data_uri(text: str, kind: str = "text/csv") -> str:
    r"""Return a text as a data URI.

    >>> data_uri("a,b\n1,2\n")
    'data:text/csv;charset=utf-8,a,b%0A1,2%0A'
    """
    return f"data:{kind};charset=utf-8,{quote(text, safe=' ,.:;=+-_/()[]@!*~')}"
