"""Words for numbers and code: counts, sizes, times, shares, losses, formulas and interpreter sessions."""

from collections.abc import Mapping, Sequence
from math import floor, isfinite, isinf, log10
from re import findall
from typing import Any

BYTE_UNITS = ("kB", "MB", "GB", "TB", "PB", "EB")
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MINUTE, HOUR, DAY = 60, 3600, 86400
LONG_DAYS = 100
MILLION, BILLION, TRILLION = 1e6, 1e9, 1e12


def is_number(value: Any) -> bool:
    """Return True for ints and floats, and False for booleans."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def format_int(value: float) -> str:
    """Return a whole number with thousands separators.

    >>> format_int(2127057600)
    '2,127,057,600'
    """
    return f"{round(value):,}"


def format_number(value: float, digits: int = 3) -> str:
    """Return a number with `digits` significant digits, or its whole part; a power of ten below 1e-4 and from 1e7 on.

    >>> [format_number(x) for x in (0.0008, 3.14159, 5115.2, 4.5133e12, 2.1e-23)]
    ['0.0008', '3.14', '5,115', '4.51 × 10¹²', '2.1 × 10⁻²³']
    """
    if not isfinite(value):
        return ("minus infinity" if value < 0 else "infinity") if isinf(value) else "undefined"
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    if not 1e-4 <= abs(rounded) < 1e7:
        mantissa, exponent = f"{rounded:.{digits - 1}e}".split("e")
        return f"{strip_zeros(mantissa)} × 10{str(int(exponent)).translate(SUPERSCRIPTS)}"
    decimals = digits - 1 - floor(log10(abs(rounded)))
    return strip_zeros(f"{rounded:,.{decimals}f}") if decimals > 0 else f"{value:,.0f}"


def format_count(value: float) -> str:
    """Return a number of things: exact below 10,000, three significant digits above.

    >>> format_count(1024), format_count(344640), format_count(16832512), format_count(2.127e9)
    ('1,024', '345,000', '16.8 M', '2.13 B')
    """
    for size, unit in ((TRILLION, "T"), (BILLION, "B"), (MILLION, "M")):
        if abs(value) >= size:
            return f"{format_number(value / size)} {unit}"
    return format_int(value) if abs(value) < 10_000 else format_int(float(f"{value:.2e}"))


def strip_zeros(text: str) -> str:
    """Return a decimal without trailing zeros."""
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_bytes(size: float) -> str:
    """Return a size in decimal units (1 kB = 1,000 bytes), three significant digits.

    >>> format_bytes(8508230400), format_bytes(304e6), format_bytes(15)
    ('8.51 GB', '304 MB', '15 bytes')
    """
    if abs(size) < 999.5:
        return f"{round(size)} byte{'' if round(size) == 1 else 's'}"
    unit = next((power for power in range(1, len(BYTE_UNITS)) if abs(size) < 999.5 * 1000**power), len(BYTE_UNITS))
    return f"{format_number(size / 1000**unit)} {BYTE_UNITS[unit - 1]}"


def format_seconds(seconds: float) -> str:
    """Return a duration in the two largest units that fit it.

    >>> format_seconds(3.21), format_seconds(4920), format_seconds(0.0042), format_seconds(442e6)
    ('3.2 s', '1 h 22 min', '4.2 ms', '5,116 days')
    """
    if seconds <= 0:
        return "0 s"
    if seconds < 0.9995:
        return f"{format_number(seconds * 1e3)} ms" if seconds >= 1e-3 else f"{format_number(seconds * 1e6)} µs"
    if round(seconds, 1) < MINUTE:
        return f"{strip_zeros(f'{seconds:.1f}')} s"
    if round(seconds) < HOUR:
        return format_two_units(round(seconds), MINUTE, "min", 1, "s")
    if round(seconds / MINUTE) * MINUTE < DAY:
        return format_two_units(round(seconds / MINUTE) * MINUTE, HOUR, "h", MINUTE, "min")
    if seconds >= LONG_DAYS * DAY:
        return f"{format_int(seconds / DAY)} days"
    hours = round(seconds / HOUR)
    return format_two_units(hours * HOUR, DAY, "day" if hours < 48 else "days", HOUR, "h")


def format_two_units(seconds: int, large: int, large_name: str, small: int, small_name: str) -> str:
    """Return a duration as '1 h 22 min', or '2 h' if the smaller unit is zero."""
    whole, remainder = divmod(seconds, large)
    small_text = f" {remainder // small} {small_name}" if remainder else ""
    return f"{whole} {large_name}{small_text}"


def format_percent(share: float) -> str:
    """Return a fraction as a percentage with one decimal, or with as many as distinguish it from 0 % and 100 %.

    >>> format_percent(0.4231), format_percent(0.0002), format_percent(0.99995), format_percent(1)
    ('42.3 %', '0.02 %', '99.995 %', '100 %')
    """
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f} %"
    decimals = 1
    while decimals < 9 and round(value, decimals) in (0, 100):
        decimals += 1
    if decimals == 1:
        return f"{value:.1f} %"
    return f"{strip_zeros(f'{value:.{decimals + 1}f}')} %"


def join_words(items: Sequence[str]) -> str:
    """Return words as an enumeration.

    >>> join_words(["a", "b", "c"])
    'a, b and c'
    """
    *first, last = items or [""]
    return f"{', '.join(first)} and {last}" if first else last


def code_span(text: str) -> str:
    """Return a text as a code span of Markdown, whose fence is longer than any ` inside it.

    >>> code_span("a"), code_span("x`"), code_span("``")
    ('`a`', '`` x` ``', '``` `` ```')
    """
    fence = "`" * (1 + max((len(run) for run in findall("`+", text)), default=0))
    padded = text[0] == text[-1] == " " and not text.isspace()
    space = " " if padded or "`" in (text[0], text[-1]) else ""
    return f"{fence}{space}{text}{space}{fence}"


def format_formula(formula: str) -> str:
    """Return a formula of the accounting in mathematical notation.

    >>> format_formula("2 * L * H * S**2")
    '2·L·H·S²'
    """
    return formula.replace(" * ", "·").replace(" // ", " ÷ ").replace("**2", "²")


def format_session(statements: Sequence[Mapping[str, str]]) -> str:
    r"""Return statements and their output as an interpreter prints them; ␀ replaces the null character.

    >>> format_session([{"code": "chr(65)", "output": "'A'\n"}])
    ">>> chr(65)\n'A'"
    """
    lines = []
    for statement in statements:
        lines.append(">>> " + statement["code"].replace("\n", "\n... ") + "\n" + statement["output"])
    return "".join(lines).rstrip("\n").replace("\0", "␀")
