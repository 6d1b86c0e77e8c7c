import pytest
from hypothesis import given
from hypothesis.strategies import text
from markupsafe import escape

from lmpipe.io.formatting import code_span
from lmpipe.report.cells import column_texts, figure_text, prose, shown, table


def test_undefined_numbers_are_dashes_with_their_reason():
    assert shown(None, "it <diverged>") == '<abbr class="dash" title="it &lt;diverged&gt;">–</abbr>'
    assert 'title="no value"' in shown(None)
    assert shown("") == ""


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (8508230400, "bytes", "8,508,230,400 bytes (8.51 GB)"),
        (15, "bytes", "15 bytes"),
        (1, "characters", "1 character"),
        (0, "seeds", "0 seeds"),
        (1.0, "nats per token", "1 nats per token"),
        (-0.0056, "nats per token", "−0.0056 nats per token"),
        (4920, "s", "1 h 22 min"),
        (0.016, "share of the total", "1.6 % of the total"),
        (2.3145, "nats per token", "2.314 nats per token"),
        (True, "", "yes"),
        ("diverges", "", "diverges"),
        (None, "", None),
        (float("nan"), "", None),
    ],
)
def test_figures_are_written_for_people(value, unit, words):
    assert figure_text(value, unit) == words


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([2.3145, None, 10.5], ["2.31", None, "10.50"]),
        ([0.001, 3.0], ["0.001", "3"]),
        (["a", 2048, True], ["a", "2,048", "yes"]),
        ([-0.01234, 0.5], ["−0.0123", "0.5000"]),
        ([1e-12, 1.23456], ["1 × 10⁻¹²", "1.235"]),
        ([0.0, 0.0], ["0", "0"]),
        ([float("inf")], [None]),
        ([], []),
    ],
)
def test_columns_are_written_to_be_compared(values, texts):
    assert column_texts(values) == texts


def test_sentences_keep_numbers_and_percent_signs_together():
    assert prose("a 95 % interval") == "a 95\N{NO-BREAK SPACE}% interval"


@given(text("a`_ &<'\"␣é", min_size=1))
def test_every_token_can_be_set_as_code(token):
    assert prose(f"has {code_span(token)}, too") == f"has <code>{escape(token)}</code>, too"


def test_a_backtick_alone_is_no_code():
    assert prose("a `` alone, and `a` not") == "a `` alone, and <code>a</code> not"


def found(rows, missing="", code=()):
    """A table of a finding with a run, its status and a loss."""
    return {
        "caption": "Runs.",
        "columns": ["run", "status", "loss"],
        "rows": rows,
        "missing_reason": missing,
        "code_columns": code,
    }


def test_a_dash_in_a_table_tells_how_its_run_ended():
    rows = [["a", "finished", 2.5], ["b", "diverged", None], ["c", "0 of 1 (not_learning)", None]]
    shown_table = table(found(rows))
    assert [row[2]["text"] for row in shown_table["rows"]] == ["2.5", None, None]
    assert shown_table["notes"] == ["the run diverged", "the run did not learn"]
    assert table(found(rows[:1]))["notes"] == []


def test_a_table_says_itself_why_cells_are_empty():
    assert table(found([["a", "finished", None]], missing="it was not asked"))["notes"] == ["it was not asked"]


def test_columns_of_code_are_marked():
    heads = table(found([["a", "finished", 1]], code=("run",)))["heads"]
    assert [head["is_code"] for head in heads] == [True, False, False]
