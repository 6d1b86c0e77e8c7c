"""Values as cells of a page: numbers for people, what a table is sorted by, and sentences in which `this` is code."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from lmpipe.analysis.results import is_number
from lmpipe.io.formatting import format_bytes, format_int, format_number, format_percent, format_seconds

UNDEFINED = "no value"
SHORT = 44
# Units that count things: one of them is told in the singular.
COUNTED = (
    "bytes", "characters", "ids", "merges", "occurrences", "parameters", "pre-tokens", "rates", "runs", "seeds",
    "sequences", "tokens",
)  # fmt: skip
# Runs that end so have no loss; a table that shows it in its row needs no other reason.
FAILED = {"diverged": "the run diverged", "not_learning": "the run did not learn", "failed": "the run failed"}


def figure_text(value: Any, unit: str, *, brief: bool = False) -> str | None:
    """A figure's value with its unit, for people; None where it is undefined. `brief` leaves out the unit's name.

    >>> figure_text(8508230400, "bytes"), figure_text(0.0008, ""), figure_text(0.016, "share of the total")
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
    return f"{text} {unit.removesuffix('s') if value == 1 and unit in COUNTED else unit}"


def column_texts(values: Sequence[Any]) -> list[str | None]:
    """The cells of a column as texts; measured numbers get the same decimals, so that they can be compared by eye.

    >>> column_texts([2.3145, None, 10.5]), column_texts([0.001, 3.0]), column_texts(["a", 2048])
    (['2.31', None, '10.50'], ['0.001', '3'], ['a', '2,048'])
    """
    floats = [value for value in values if isinstance(value, float) and math.isfinite(value)]
    short = all(float(f"{value:.3g}") == value for value in floats)
    largest, smallest = (bound((abs(value) for value in floats if value), default=1) for bound in (max, min))
    even = not short and largest < 1e6 and smallest >= 1e-5 * largest
    decimals = min(max(0, 3 - math.floor(math.log10(largest))), 4 if largest >= 1e-3 else 6)
    texts = [f"{value:,.{decimals}f}" if even and value in floats else cell_text(value) for value in values]
    return [
        text.replace("-", "−") if is_number(value) and text else text for text, value in zip(texts, values, strict=True)
    ]


def cell_text(value: Any) -> str | None:
    """A single cell as text; None where it is undefined."""
    if isinstance(value, float):
        return format_number(value, 4) if math.isfinite(value) else None
    if isinstance(value, bool) or not isinstance(value, int):
        return figure_text(value, "")
    return format_int(value)


def sort_key(value: Any) -> str:
    """What a table is sorted by: the exact number, or the text."""
    return "" if value is None else repr(value) if is_number(value) else str(value)


def shown(text: str | None, reason: str = "") -> Markup:
    """A text, or a dash that bears the reason why there is none; an empty text stays empty.

    A long name may go on in the next line after its _, = and /, and nowhere else.

    >>> shown("batch_size=4")
    Markup('batch_<wbr>size=<wbr>4')
    """
    if text is None:
        return Markup('<abbr class="dash" title="{}">–</abbr>').format(reason or UNDEFINED)
    whole = escape(text.replace(" × 10", "\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}10"))
    return Markup(re.sub(r"(?<=\w[_=/])(?=\w)", "<wbr>", str(whole)))


def prose(text: str) -> Markup:
    """A sentence in which `this` is code, as in Markdown, and no line ends between a number and its percent sign.

    >>> prose("run `a<b`, or ``a`b``")
    Markup('run <code>a&lt;b</code>, or <code>a`b</code>')
    """
    whole = re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", str(escape(text)))
    return Markup(re.sub(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", lambda found: code_element(found[2]), whole))


def code_element(text: str) -> str:
    """The escaped text of a code span as an element, without the spaces that may pad it.

    >>> code_element(" `` "), code_element(" a")
    ('<code>``</code>', '<code> a</code>')
    """
    padded = text[0] == text[-1] == " " and not text.isspace()
    return f"<code>{text[1:-1] if padded else text}</code>"


def table(found: Mapping[str, Any]) -> dict[str, Any]:
    """A table with its cells as text, how each column is set, and in words why cells are empty."""
    columns = list(zip(*found["rows"], strict=True)) or [()] * len(found["columns"])
    texts = [column_texts(column) for column in columns]
    reasons = [reason_in(row, found["missing_reason"]) for row in found["rows"]]
    rows = [
        [{"text": text, "sort": sort_key(value), "reason": reason} for text, value in zip(line, row, strict=True)]
        for line, row, reason in zip(zip(*texts, strict=True), found["rows"], reasons, strict=True)
    ]
    heads = [
        {"name": name, "look": column_look(column), "is_code": name in found["code_columns"]}
        for name, column in zip(found["columns"], columns, strict=True)
    ]
    return {"caption": found["caption"], "heads": heads, "rows": rows, "notes": dash_notes(rows)}


def reason_in(row: Sequence[Any], otherwise: str) -> str:
    """Why a row has empty cells: how its run ended, where the row tells it, or the table's own reason."""
    words = [FAILED[status] for value in row for status in FAILED if isinstance(value, str) and status in value]
    return words[0] if words else otherwise


def dash_notes(rows: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """The different reasons of the dashes in some cells, since one cannot hover over paper or a phone."""
    reasons = [cell["reason"] or UNDEFINED for row in rows for cell in row if cell["text"] is None]
    return list(dict.fromkeys(reasons))


def column_look(values: Sequence[Any]) -> str:
    """The style of a column: `number` is set right, `short` keeps its texts on one line."""
    if any(is_number(value) for value in values):
        return "number"
    return "short" if all(len(str(value)) <= SHORT for value in values) else ""
