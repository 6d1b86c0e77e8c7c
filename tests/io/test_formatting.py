"""Numbers as words: worked examples, and properties that hold for every number."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmpipe.io.formatting import (
    format_bytes,
    format_formula,
    format_int,
    format_number,
    format_percent,
    format_seconds,
    format_session,
    join_words,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (2.0, "2"),
        (0.5, "0.5"),
        (0.0103, "0.0103"),
        (99.96, "100"),
        (999.6, "1,000"),
        (123456.7, "123,457"),
        (9_999_999.9, "1 × 10⁷"),
        (12_345_678, "1.23 × 10⁷"),
        (-0.00312, "-0.00312"),
        (1e-5, "1 × 10⁻⁵"),
        (float("inf"), "infinity"),
        (float("-inf"), "minus infinity"),
        (float("nan"), "undefined"),
    ],
)
def test_number(value, text):
    assert format_number(value) == text


@given(st.floats(min_value=1e-300, max_value=1e300))
def test_a_number_reads_back_to_three_digits(value):
    text = format_number(value)
    assert not re.search("e[+-]", text)
    plain = text.replace(",", "").translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    assert float(plain.replace(" × 10", "e")) == pytest.approx(value, rel=0.00501)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (999.7, "1 kB"),
        (999_600, "1 MB"),
        (825e9, "825 GB"),
        (2e12, "2 TB"),
        (1e21, "1,000 EB"),
    ],
)
def test_bytes(size, text):
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (4e-6, "4 µs"),
        (0.0004, "400 µs"),
        (0.25, "250 ms"),
        (0.9996, "1 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min"),
        (61, "1 min 1 s"),
        (3599.6, "1 h"),
        (7200, "2 h"),
        (86399, "1 day"),
        (38 * 3600, "1 day 14 h"),
        (200_000, "2 days 8 h"),
        (8_640_000, "100 days"),
    ],
)
def test_seconds(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1, "100 %"), (0.0004, "0.04 %"), (0.9996, "99.96 %"), (-0.02, "-2.0 %"), (1.5, "150.0 %")],
)
def test_percent(share, text):
    assert format_percent(share) == text


@given(st.floats(min_value=0, max_value=1, exclude_min=True, exclude_max=True))
def test_percent_never_calls_a_part_nothing_or_all(share):
    if 1e-9 < share < 1 - 1e-9:
        assert float(format_percent(share).removesuffix(" %")) not in (0, 100)


def test_words():
    assert format_int(1234567.2) == "1,234,567"
    assert [join_words([]), join_words(["a"]), join_words(["a", "b"])] == ["", "a", "a and b"]
    assert format_formula("max(0, (M - b) // a)") == "max(0, (M - b) ÷ a)"


def test_session_is_formatted_as_by_the_interpreter():
    statements = [{"code": "def f():\n    pass", "output": ""}, {"code": "print(chr(0))", "output": "\0\n"}]
    assert format_session(statements) == ">>> def f():\n...     pass\n>>> print(chr(0))\n␀"
