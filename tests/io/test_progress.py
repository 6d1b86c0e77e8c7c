"""Progress on a terminal, in a log, and where neither can be written to."""

import os
import pty
import subprocess
import sys

import pytest

from lmpipe.io import progress

WORK = """
from lmpipe.io import progress
progress.LOG_INTERVAL_SECONDS = progress.REDRAW_SECONDS = 0
with progress.progress("encoding", 4, "bytes") as report:
    for _ in range(4):
        report.advance(1, "note")
progress.log("finished")
"""


def run_work(**streams):
    return subprocess.run([sys.executable, "-c", WORK], **streams)


def test_log_gets_a_line_for_each_interval(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOG_INTERVAL_SECONDS", 0)
    with progress.progress("encoding", 4, "bytes") as report:
        report.advance(1)
        report.advance(3, "loss 2.5")
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("encoding: 1 of 4 bytes (25 %)")
    assert second.startswith("encoding: 4 of 4 bytes (100 %)") and second.endswith("loss 2.5")


def test_short_work_logs_nothing(capsys):
    with progress.progress("encoding", 4, "bytes") as report:
        report.advance(4)
    assert capsys.readouterr().err == ""


def test_terminal_gets_a_bar():
    parent, child = pty.openpty()
    assert run_work(stderr=child, stdin=child, env=os.environ | {"TERM": "xterm", "COLUMNS": "100"}).returncode == 0
    text = os.read(parent, 1 << 16).decode()
    os.close(parent), os.close(child)
    assert "100%" in text and "encoding" in text and "note" in text and "finished" in text


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_unwritable_standard_error_does_not_stop_the_work(redirection):
    command = ["bash", "-c", f'"$0" -c "$1" {redirection}', sys.executable, WORK]
    done = subprocess.run(command, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"")
