"""Appendix of the report: environment, settings, derivations, values of the handout, and the time of each job."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from lmpipe.analysis.finding import Figure, Finding, Gantt, Span, Table
from lmpipe.analysis.results import Results
from lmpipe.io.formatting import format_bytes, join_words
from lmpipe.planning.session import RESULTS, workflow_command
from lmpipe.provenance.code_digest import TRACKED_PACKAGES
from lmpipe.provenance.environment import Environment
from lmpipe.report.cards import FigureView, Page, is_derivation, make_card
from lmpipe.report.prose import Prose
from lmpipe.report.table_cells import footnotes, format_table, value_cell
from lmpipe.study.labels import corpus_label
from lmpipe.study.paths import StudyPaths

RUNS = "experiment_log"
TIMES_TEMPLATE = "_times"  # no experiment has such a name


def make_appendix(page: Page, results: Results, helpers: Sequence[str]) -> dict[str, Any]:
    """Return the content of the appendix by name; `helpers` are experiments that only serve others."""
    references = [(prose, row) for prose in page.prose.values() for row in prose.finding.reference.rows]
    derivations = [
        format_table(element) if isinstance(element, Table) else element
        for finding in page.problems.values()
        for element in (*finding.tables, *finding.texts)
        if is_derivation(element)
    ]
    settings = results.study.model_dump(mode="json", exclude_none=True)
    return {
        "runs": make_card(page, [RUNS]) if RUNS in page.problems else None,
        "is_paired": RUNS in page.problems and page.problems[RUNS].facts.get("is_paired", False),
        "helpers": [make_card(page, [name]) for name in helpers],
        "times": times_view(page),
        "texts": format_table(texts_table(results)),
        "references": references,
        "footnotes": footnotes([value_cell(row) for _, row in references]),
        "derivations": derivations,
        "command": workflow_command(StudyPaths(RESULTS / results.study.study).study_file),
        "settings": yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, allow_unicode=True),
        **environment_facts(results),
    }


def times_view(page: Page) -> FigureView | None:
    """Return the Gantt chart of the study's jobs."""
    spans = [
        Span(path.removesuffix("provenance.json").rstrip("/."), job.rule.replace("_", " "), start, end)
        for path, job, start, end in page.lineage.timeline()
    ]
    if not spans:
        return None
    seconds: Counter[str] = Counter()
    for span in spans:
        seconds[span.group] += span.end - span.start
    ((largest, most),) = seconds.most_common(1)
    facts = {"largest": largest, "share": most / (seconds.total() or 1.0), "num_jobs": len(spans)}
    return page.figure(
        Prose(TIMES_TEMPLATE, Finding("answered", facts=facts), page.shared), Figure("jobs", Gantt(spans))
    )


def texts_table(results: Results) -> Table:
    """Return documents and bytes of each split, and what was left out, for each corpus."""
    columns = ["corpus", "documents", "size", "validation documents", "validation size", "share", "overlap"]
    columns += ["files", "equal files left out", "blank records left out"]
    rows = []
    for name, info in results.corpora.items():
        sizes = [cell for _, split in info.splits for cell in (split.documents, format_bytes(split.bytes))]
        overlap = None if info.ngram_overlap is None else f"{info.ngram_overlap:.1%}"
        shares = [f"{info.splits.valid_share:.1%}", overlap]
        counts = [info.files, info.equal_files, info.blank_records]
        rows.append([corpus_label(results.study, name), *sizes, *shares, *counts])
    caption = (
        "Splits of each corpus. The overlap is the share of the 13-grams of words in the validation text that the "
        "training text has, too; of validation texts above 4 MB a sample is compared."
    )
    return Table(caption, columns, rows)


def environment_facts(results: Results) -> dict[str, Any]:
    """Return the environment of the training runs, each value with all its variants."""
    runs = results.runs()
    environments = [run.summary.environment for run in runs]
    code = [run.summary.code for run in runs]
    # Packages that a code digest covers decide the numbers, too; a corpus may be made of the texts of packages.
    versions = [environment.versions for environment in environments]
    versions += [{name: digests[name] for name in digests if name in TRACKED_PACKAGES} for digests in code]
    versions += [info.versions for info in results.corpora.values()]
    return {
        "machines": join_unique(map(machine, environments)),
        "commits": join_unique(map(commit, environments)),
        "environment": {
            "device": join_unique(str(run.summary.device) for run in runs),
            "precision": join_unique(run.summary.precision for run in runs),
            "seeds": ", ".join(map(str, sorted({run.seed for run in runs}))) or "no training run",
            "resumed runs": sum(bool(run.summary.num_resumes) for run in runs),
            **join_by_key(versions),
        },
        "code": {name: value for name, value in join_by_key(code).items() if name not in TRACKED_PACKAGES},
    }


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
    return {name: join_unique(mapping[name] for mapping in mappings if name in mapping) for name in names}


def join_unique(texts: Iterable[str]) -> str:
    """Return distinct texts, joined; "no training run" without any."""
    return join_words(list(dict.fromkeys(texts))) or "no training run"
