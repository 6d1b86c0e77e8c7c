import pytest
from hypothesis import given
from hypothesis.strategies import text
from markupsafe import escape

from lmpipe.analysis.finding import Table
from lmpipe.io.formatting import code_span
from lmpipe.report.table_cells import (
    TableCell,
    column_texts,
    footnotes,
    format_table,
    html_text,
    markdown_inline,
    metric_text,
)


def test_undefined_values_are_dashes_with_a_reason():
    assert html_text(None, "it <diverged>") == '<abbr class="dash" title="it &lt;diverged&gt;">–</abbr>'
    assert 'title="no value"' in html_text(None)
    assert html_text("") == ""


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (15, "bytes", "15 bytes"),
        (1, "characters", "1 character"),
        (0, "seeds", "0 seeds"),
        (1.0, "nats per token", "1 nats per token"),
        (-0.0056, "nats per token", "−0.0056 nats per token"),
        (4920, "s", "1 h 22 min"),
        (2.3145, "nats per token", "2.314 nats per token"),
        (True, "", "yes"),
        ("diverges", "", "diverges"),
        (None, "", None),
        (float("nan"), "", None),
    ],
)
def test_metric_text(value, unit, words):
    assert metric_text(value, unit) == words


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (["a", 2048, True], ["a", "2,048", "yes"]),
        ([-0.01234, 0.5], ["−0.0123", "0.5000"]),
        ([1e-12, 1.23456], ["1 × 10⁻¹²", "1.235"]),
        ([0.0, 0.0], ["0", "0"]),
        ([float("inf")], [None]),
        ([], []),
    ],
)
def test_column_texts(values, texts):
    assert column_texts(values) == texts


def test_number_and_percent_sign_stay_together():
    assert markdown_inline("a 95 % interval") == "a 95\N{NO-BREAK SPACE}% interval"


@given(text("a`_ &<'\"␣é", min_size=1))
def test_code_spans_keep_any_token(token):
    assert markdown_inline(f"has {code_span(token)}, too") == f"has <code>{escape(token)}</code>, too"


def test_single_backtick_is_not_code():
    assert markdown_inline("a `` alone, and `a` not") == "a `` alone, and <code>a</code> not"


def formatted(rows, **options):
    """Format a table of runs with their status and loss."""
    return format_table(Table("Runs.", ["run", "status", "loss"], rows, **options))


def test_dash_of_a_failed_run_has_its_status_as_reason():
    rows = [["a", "finished", 2.5], ["b", "diverged", None], ["c", "0 of 1 (not_learning)", None]]
    table = formatted(rows)
    assert [row[2].text for row in table.rows] == ["2.5", None, None]
    assert table.footnotes == ["the run diverged", "the run did not learn"]
    assert formatted(rows[:1]).footnotes == []


def test_dash_of_another_run_has_the_reason_of_the_table():
    assert formatted([["a", "finished", None]], missing_reason="it was not asked").footnotes == ["it was not asked"]
    assert footnotes([TableCell(None), TableCell("1", "unused")]) == ["no value"]


def test_columns_of_code_and_numbers_are_marked():
    table = formatted([["a", "finished", 1]], code_columns=["run"])
    assert [cell.is_code for cell in table.rows[0]] == [True, False, False]
    assert [css_class for _, css_class in table.columns] == ["short", "short", "number"]


def test_table_without_rows_keeps_its_columns():
    assert [name for name, _ in formatted([]).columns] == ["run", "status", "loss"]
