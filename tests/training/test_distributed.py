import os
import subprocess
import sys
import threading

import pytest

from lmpipe.training import distributed

ENDS_EARLY = """
import subprocess, sys
import torch
from lmpipe import processes

def start(*given):
    return subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"], stdin=subprocess.PIPE, text=True)

distributed.start, distributed.NOTICED_SECONDS = start, 0.1
with distributed.together(2, torch.device("cpu"), {}):
    print("met")
"""


def test_a_run_does_not_wait_for_a_process_that_is_gone():
    """The first one meets the others in torch, where it hears nothing."""
    done = subprocess.run([sys.executable, "-c", ENDS_EARLY], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert "a process of this run ended with exit code 3; the same command goes on" in done.stderr


@pytest.mark.parametrize(("code", "is_over", "expected"), [(0, False, []), (3, True, []), (3, False, [1])])
def test_only_a_failure_of_another_process_ends_the_first(monkeypatch, code, is_over, expected):
    ended, over = [], threading.Event()
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(distributed, "NOTICED_SECONDS", 0.01)
    if is_over:
        over.set()
    distributed.end_with(subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"]), over)
    assert ended == expected
