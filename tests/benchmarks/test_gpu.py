"""benchmarks.gpu at its tiny scale, without processes of their own."""

import json
import time

import pytest

from benchmarks import gpu
from benchmarks.gpu import TINY, Measurements, step_memory, warm_steps


class Call:
    """A function's call in this process, in place of one in another."""

    def __init__(self, function, *args):
        function(*args)
        self.returncode = 0

    def communicate(self, timeout=None):
        return "[1, 1]", None


@pytest.fixture
def measured(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "start", Call)
    measured = Measurements(TINY, tmp_path, minutes=1)
    measured.prepare()
    return measured


def test_a_run_and_runs_at_once_are_rated(measured):
    measured.measure("train", measured.full_run)
    measured.measure("sharing", measured.sharing)
    (_, rate, facts), (_, together, beside) = measured.rows
    assert rate.endswith("s") and "compiled: False" in facts
    assert "tokens/s" in together and "one alone" in beside


def test_what_fails_or_has_no_time_is_a_row(measured):
    def fail():
        raise ImportError("No module named 'peer'")

    measured.measure("peer", fail)
    measured.end = time.monotonic() - 1
    measured.measure("train", measured.full_run)
    assert [row[:2] for row in measured.rows] == [("peer", "not measured"), ("train", "not measured")]
    assert "peer" in measured.rows[0][2]


@pytest.mark.parametrize("function", [lambda: warm_steps("lmpipe", True), lambda: step_memory(2, True)])
def test_processes_print_numbers(function, capsys):
    function()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])
