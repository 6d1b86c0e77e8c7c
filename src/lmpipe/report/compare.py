"""Comparison of two studies: unequal settings, code, versions, machines and texts, and metrics."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lmpipe.analysis.finding import Cell, Finding, Findings, Metric
from lmpipe.errors import InputError
from lmpipe.io.documents import Document
from lmpipe.io.files import atomic_write
from lmpipe.io.formatting import format_bytes, format_int, format_number, is_number
from lmpipe.planning.dry_run import differences
from lmpipe.provenance.job_records import RECORD, FileInfo, JobRecord, StudyProvenance
from lmpipe.study.paths import RELATIVE

TEMPLATES = Path(__file__).with_name("templates")

# Metrics with these units, or with these words in their names, depend on the machine and its load.
MACHINE_UNITS = ("s", "h", "tokens per second", "bytes per second", "FLOP/s")
MACHINE_NAMES = ("peak_memory", "utilization", "run_memory", "added_run", "stage_share")
DIGEST_DIGITS = 12
MAX_CELL_LENGTH = 60
NO_VALUE = "–"
Content = TypeVar("Content")
DIFFERENCES, METRICS = ("settings", "provenance", "texts", "statuses"), ("metrics", "machine_dependent", "unpaired")


class Difference(Document):
    """A value that differs between two studies."""

    name: str
    """Path of the setting, name of the fact, path of the text, or id of the problem."""
    first: Any
    """Value of the first study; null if it has none."""
    second: Any
    """Value of the second study; null if it has none."""


class MetricDifference(Document):
    """One metric of two studies."""

    problem: str
    """Id of the problem or name of the experiment."""
    metric: str
    """Name of the metric."""
    unit: str
    """Unit of the values."""
    present_in: Literal["first", "second", "both"]
    """Studies that have the metric."""
    first: Cell
    """Value of the first study; null if it is undefined."""
    second: Cell
    """Value of the second study; null if it is undefined."""
    first_interval: tuple[float, float] | None
    """95 % interval of the first value, if there are several seeds."""
    second_interval: tuple[float, float] | None
    """95 % interval of the second value, if there are several seeds."""
    difference: float | int | None
    """Second minus first; null unless both are numbers."""
    percent: float | None
    """Difference in percent of the first value; null if that is zero."""
    is_resolved: bool | None
    """True if the intervals are disjoint; null without two intervals."""
    is_machine_dependent: bool
    """True for times, speeds and memory."""


class Comparison(Document):
    """Differences between two finished studies."""

    first: str
    """Results folder of the first study."""
    second: str
    """Results folder of the second study."""
    settings: list[Difference]
    """Settings that differ, by their paths in the study file."""
    provenance: list[Difference]
    """Code digests, versions, hardware, devices and commits that differ, each with all its values."""
    texts: list[Difference]
    """Texts and vocabularies that differ; losses per token compare only between equal ones."""
    statuses: list[Difference]
    """Problems whose status differs."""
    metrics: list[MetricDifference]
    """Metrics of both studies that differ, but for machine-dependent ones."""
    machine_dependent: list[MetricDifference]
    """Times, speeds and memory that differ."""
    unpaired: list[MetricDifference]
    """Metrics that only one study has."""
    num_equal: int
    """Number of equal metrics."""


def compare(first: str | Path, second: str | Path, output: str | Path | None = None) -> None:
    """Print the differences between two studies' results folders; write them to `output`, a .json or .md file.

    Raises InputError if a folder has no finished study, or for another kind of file.
    """
    if output is not None and Path(output).suffix not in (".json", ".md"):
        raise InputError(f"--output {output}", "is neither a .json nor a .md file", "choose one of these endings")
    comparison = compare_studies(Path(first), Path(second))
    text = format_markdown(comparison)
    print(text, end="")
    if output is not None and Path(output).suffix == ".json":
        comparison.write(output)
    elif output is not None:
        with atomic_write(output) as file:
            file.write(text)


def compare_studies(first: Path, second: Path) -> Comparison:
    """Compare two finished studies by their results folders; raise InputError if one is not."""
    folders = (first, second)
    collected = [read_result(folder, RECORD, StudyProvenance.read) for folder in folders]
    problems = [read_result(folder, RELATIVE.findings, Findings.read).problems for folder in folders]
    metrics = list(compare_metrics(*problems))
    paired = [metric for metric in metrics if metric.present_in == "both"]
    unequal = [metric for metric in paired if metric.first != metric.second]
    return Comparison(
        first=str(first),
        second=str(second),
        settings=diff(*(study.settings | {"study": None} for study in collected)),  # their names always differ
        provenance=diff(*(provenance_facts(study.records) for study in collected)),
        texts=diff(*(text_checksums(study.files) for study in collected)),
        statuses=diff(*({name: finding.status for name, finding in findings.items()} for findings in problems)),
        metrics=[metric for metric in unequal if not metric.is_machine_dependent],
        machine_dependent=[metric for metric in unequal if metric.is_machine_dependent],
        unpaired=[metric for metric in metrics if metric.present_in != "both"],
        num_equal=len(paired) - len(unequal),
    )


def read_result(folder: Path, name: str | Path, loader: Callable[[Path], Content]) -> Content:
    """Read a file of a finished study; raise InputError if the folder has none."""
    if not (folder / name).is_file():
        problem = f"has no {name}, so it is not a finished study"
        raise InputError(folder, problem, "check the path, or let snakemake finish the study")
    return loader(folder / name)


# --- settings and provenance -----------------------------------------------------------------------------------------


def diff(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """Return the values that differ, by their key paths."""
    return [Difference(name=name, first=a, second=b) for name, a, b in differences(first, second)]


def provenance_facts(records: Mapping[str, JobRecord]) -> dict[str, str]:
    """Return code digests, versions, hardware, devices and commits of the jobs of a study, each with all its values."""
    values: dict[str, set[str]] = {}
    for record in records.values():
        facts = {f"code of {name}": digest for name, digest in record.code.items()}
        facts |= {f"version of {name}": version for name, version in record.versions.items()}
        facts |= {f"hardware: {name}": value for name, value in record.hardware}
        facts |= {"commit": (record.commit or "none")[:DIGEST_DIGITS], "device": record.device}
        for name, value in facts.items():
            if value is not None:
                values.setdefault(name, set()).add(str(value))
    # A digest covers the versions of some packages, too.
    repeated = {f"code of {name.removeprefix('version of ')}" for name in values if name.startswith("version of ")}
    return {name: ", ".join(sorted(texts)) for name, texts in values.items() if name not in repeated}


def text_checksums(files: Mapping[str, FileInfo]) -> dict[str, str]:
    """Return sizes and checksums of the texts and vocabularies of a study by path."""
    paths = [path for path in files if path.startswith("corpora/") and path.endswith(".txt")]
    paths += [path for path in files if path.startswith("tokenizers/") and path.endswith("/vocab.json")]
    return {path: f"{format_bytes(files[path].bytes)}, sha256 {files[path].sha256[:DIGEST_DIGITS]}" for path in paths}


# --- metrics ---------------------------------------------------------------------------------------------------------


def compare_metrics(first: Mapping[str, Finding], second: Mapping[str, Finding]) -> Iterator[MetricDifference]:
    """Yield each metric that either study has, in the order of the problems."""
    for problem in dict.fromkeys([*first, *second]):
        metrics = [findings[problem].metrics if problem in findings else {} for findings in (first, second)]
        for name in dict.fromkeys([*metrics[0], *metrics[1]]):
            yield compare_metric(problem, name, metrics[0].get(name), metrics[1].get(name))


def compare_metric(problem: str, name: str, first: Metric | None, second: Metric | None) -> MetricDifference:
    """Compare one metric of two studies; None for a study that lacks it."""
    a, b = (metric or Metric(None) for metric in (first, second))
    unit = (second or first).unit
    are_numbers = is_number(a.value) and is_number(b.value)
    difference = b.value - a.value if are_numbers else None
    has_intervals = are_numbers and a.interval is not None and b.interval is not None
    return MetricDifference(
        problem=problem,
        metric=name,
        unit=unit,
        present_in="second" if first is None else "first" if second is None else "both",
        first=a.value,
        second=b.value,
        first_interval=a.interval,
        second_interval=b.interval,
        difference=difference,
        percent=100 * difference / abs(a.value) if are_numbers and a.value else None,
        is_resolved=max(a.interval[0], b.interval[0]) > min(a.interval[1], b.interval[1]) if has_intervals else None,
        is_machine_dependent=unit in MACHINE_UNITS or any(word in name for word in MACHINE_NAMES),
    )


# --- Markdown --------------------------------------------------------------------------------------------------------


def format_markdown(comparison: Comparison) -> str:
    """Return a comparison as Markdown with aligned tables, by the template comparison.md.j2."""
    rows = {name: list(map(difference_row, getattr(comparison, name))) for name in DIFFERENCES}
    rows |= {name: list(map(metric_row, getattr(comparison, name))) for name in METRICS}
    environment = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters |= {"count": format_int, "table": markdown_table}
    return environment.get_template("comparison.md.j2").render(dict(comparison) | rows)


def markdown_table(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> str:
    """Return a table of texts as Markdown; of rows with more cells than columns, the first ones."""
    cells = [row[: len(columns)] for row in rows]
    escaped = pd.DataFrame(cells, columns=columns, dtype=object).map(lambda text: text.replace("|", "\\|"))
    return escaped.to_markdown(index=False, disable_numparse=True)


def difference_row(row: Difference) -> tuple[str, ...]:
    """Return a difference as texts."""
    return row.name, cell_text(row.first), cell_text(row.second)


def metric_row(row: MetricDifference) -> tuple[str, ...]:
    """Return a metric as texts."""
    first, second = (
        cell_text(value) + (f" ({' to '.join(map(cell_text, interval))})" if interval else "")
        for value, interval in ((row.first, row.first_interval), (row.second, row.second_interval))
    )
    return (
        f"{row.problem}: {row.metric}" + (f" ({row.unit})" if row.unit else ""),
        first,
        second,
        NO_VALUE if row.difference is None else signed(row.difference),
        NO_VALUE if row.percent is None else f"{signed(row.percent)} %",
        cell_text(row.is_resolved),
    )


def signed(value: float) -> str:
    """Return a number with its sign.

    >>> signed(0.031), signed(-2.5), signed(0)
    ('+0.031', '-2.5', '0')
    """
    return f"{'+' if value > 0 else ''}{format_number(value)}"


def cell_text(value: Any) -> str:
    """Return a value as a printable text of at most MAX_CELL_LENGTH characters."""
    if value is None or isinstance(value, bool):
        return {None: NO_VALUE, True: "yes", False: "no"}[value]
    if is_number(value):
        return format_int(value) if isinstance(value, int) else format_number(value, 5)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= MAX_CELL_LENGTH else f"{text[: MAX_CELL_LENGTH - 3]}..."
