"""Cells of the tables of a report: formatted numbers, sort keys, reasons of missing values, and inline Markdown."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from lmpipe.analysis.finding import Metric, ReferenceRow, Table
from lmpipe.io.formatting import format_bytes, format_int, format_number, format_percent, format_seconds, is_number

UNDEFINED = "no value"
MAX_SHORT_TEXT = 44
# Units that count things; a value of 1 takes the singular.
COUNTED_UNITS = (
    "bytes", "characters", "ids", "merges", "occurrences", "parameters", "pre-tokens", "rates", "runs", "seeds",
    "sequences", "tokens",
)  # fmt: skip
# Runs with these statuses have no loss; a row that contains the status needs no other reason.
FAILED_STATUSES = {
    "diverged": "the run diverged",
    "not_learning": "the run did not learn",
    "failed": "the run failed",
}


@dataclass(frozen=True)
class TableCell:
    """One cell: its text (None if it has no value, for `reason`) and its sort key."""

    text: str | None
    reason: str = ""
    sort_key: str = ""
    is_code: bool = False


@dataclass(frozen=True)
class FormattedTable:
    """A table ready for the template: columns with style classes; `footnotes` are the reasons of its dashes."""

    caption: str
    columns: list[tuple[str, str]]
    rows: list[list[TableCell]]
    footnotes: list[str]


def format_table(table: Table) -> FormattedTable:
    """Return a table with formatted cells."""
    columns = list(zip(*table.rows, strict=True)) or [()] * len(table.columns)
    lines = zip(*map(column_texts, columns), strict=True)
    rows = []
    for texts, row in zip(lines, table.rows, strict=True):
        reason = missing_reason(row) or table.missing_reason
        cells = zip(texts, row, table.columns, strict=True)
        rows.append([TableCell(text, reason, sort_key(v), name in table.code_columns) for text, v, name in cells])
    heads = list(zip(table.columns, map(column_class, columns), strict=True))
    return FormattedTable(table.caption, heads, rows, footnotes([cell for row in rows for cell in row]))


def missing_reason(row: Sequence[Any]) -> str:
    """Return the reason why a row of a failed run has no loss; empty for other rows."""
    texts = (value for value in row if isinstance(value, str))
    return next((reason for text in texts for status, reason in FAILED_STATUSES.items() if status in text), "")


def footnotes(cells: Sequence[TableCell]) -> list[str]:
    """Return the distinct reasons of missing values: paper and phones show no tooltips."""
    return list(dict.fromkeys(cell.reason or UNDEFINED for cell in cells if cell.text is None))


def column_class(values: Sequence[Any]) -> str:
    """Return the style class of a column: `number` is right-aligned, `short` does not wrap."""
    if any(is_number(value) for value in values):
        return "number"
    return "short" if all(len(str(value)) <= MAX_SHORT_TEXT for value in values) else ""


def metric_text(value: Any, unit: str, *, brief: bool = False) -> str | None:
    """Return a value with its unit, or None if it is undefined; `brief` leaves out the name of the unit.

    >>> metric_text(8508230400, "bytes"), metric_text(0.0008, ""), metric_text(0.016, "share of the total")
    ('8,508,230,400 bytes (8.51 GB)', '0.0008', '1.6 % of the total')
    """
    if not is_number(value):
        return {True: "yes", False: "no"}.get(value, value)
    if not math.isfinite(value):
        return None
    if unit.startswith("share"):
        return format_percent(value) + ("" if brief else unit.removeprefix("share"))
    if unit == "s":
        return format_seconds(value) if value >= 0 else f"{format_number(value)} s"
    if unit == "bytes" and abs(value) >= 1000:
        return format_bytes(value) if brief else f"{format_int(value)} bytes ({format_bytes(value)})"
    text = (format_int(value) if isinstance(value, int) else format_number(value, 4)).replace("-", "−")
    if brief or not unit:
        return text
    return f"{text} {unit.removesuffix('s') if value == 1 and unit in COUNTED_UNITS else unit}"


def value_cell(row: Metric | ReferenceRow) -> TableCell:
    """Return the value of a metric with its unit as a cell."""
    return TableCell(metric_text(row.value, row.unit), row.missing_reason, is_code=isinstance(row.value, str))


def interval_text(metric: Metric) -> str:
    """Return the 95 % interval of a metric; empty if it has none."""
    return " to ".join(filter(None, (metric_text(bound, metric.unit, brief=True) for bound in metric.interval or ())))


def column_texts(values: Sequence[Any]) -> list[str | None]:
    """Return the texts of a column; measured numbers get equal decimals, so that they compare at a glance.

    >>> column_texts([2.3145, None, 10.5]), column_texts([0.001, 3.0]), column_texts(["a", 2048])
    (['2.31', None, '10.50'], ['0.001', '3'], ['a', '2,048'])
    """
    floats = [value for value in values if isinstance(value, float) and math.isfinite(value)]
    short = all(float(f"{value:.3g}") == value for value in floats)
    largest, smallest = (bound((abs(value) for value in floats if value), default=1) for bound in (max, min))
    even = not short and largest < 1e6 and smallest >= 1e-5 * largest
    decimals = min(max(0, 3 - math.floor(math.log10(largest))), 4 if largest >= 1e-3 else 6)
    return [
        f"{value:,.{decimals}f}".replace("-", "−") if even and value in floats else metric_text(value, "")
        for value in values
    ]


def sort_key(value: Any) -> str:
    """Return the sort key of a value: the exact number, or the text."""
    return "" if value is None else repr(value) if is_number(value) else str(value)


def html_text(text: str | None, reason: str = "") -> Markup:
    """Return a text, or a dash with the reason as its tooltip; an empty text stays empty.

    Long names break after _, = and / only.

    >>> html_text("batch_size=4")
    Markup('batch_<wbr>size=<wbr>4')
    """
    if text is None:
        return Markup('<abbr class="dash" title="{}">–</abbr>').format(reason or UNDEFINED)
    whole = escape(text.replace(" × 10", "\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}10"))
    return Markup(re.sub(r"(?<=\w[_=/])(?=\w)", "<wbr>", str(whole)))


def markdown_inline(text: str) -> Markup:
    """Return a sentence with its Markdown code spans and bold words as elements; "7 %" stays on one line.

    >>> markdown_inline("run `a<b`, or ``a`b``"), markdown_inline("**At `a**b`** it breaks")
    (Markup('run <code>a&lt;b</code>, or <code>a`b</code>'), Markup('<strong>At <code>a**b</code></strong> it breaks'))
    """
    whole = re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", str(escape(text)))
    codes: list[str] = []

    def hide_code(match: re.Match[str]) -> str:
        codes.append(code_element(match[2]))
        return f"\0{len(codes) - 1}\0"

    hidden = re.sub(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", hide_code, whole.replace("\0", "␀"))
    bold = re.sub(r"\*\*(?=\S)(.+?)(?<=\S)\*\*", r"<strong>\1</strong>", hidden)
    return Markup(re.sub("\0(\\d+)\0", lambda match: codes[int(match[1])], bold))


def code_element(text: str) -> str:
    """Return the escaped text of a code span as an element, without its padding.

    >>> code_element(" `` "), code_element(" a")
    ('<code>``</code>', '<code> a</code>')
    """
    padded = text[0] == text[-1] == " " and not text.isspace()
    return f"<code>{text[1:-1] if padded else text}</code>"
