"""Runs that end in time for a checkpoint, and jobs that are queued again (tests/workflow/test_slurm.py: really)."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmpipe.planning.session import mark_job_start
from lmpipe.training import interruption, trainer
from lmpipe.training.interruption import (
    END_MARGIN_SECONDS,
    END_NOTICE,
    JOB_START,
    SLURM_END,
    SLURM_JOB,
    StopGuard,
    TrainingInterrupted,
    job_end,
    requeue_job,
)
from lmpipe.training.run import train
from lmpipe.training.trainer import Trainer
from tests.support.tiny_study import make_tiny_study, tiny_run
from tests.support.training_runs import assert_same_result, summary_of, train_uninterrupted

SHORT = tiny_run(total_tokens=64 * 12)


@pytest.mark.parametrize(
    ("time_limit", "variables", "end"),
    [
        (None, {}, math.inf),
        (60, {}, math.inf),
        (None, {JOB_START: "1000.5"}, math.inf),
        (2, {JOB_START: "1000.5"}, 1120.5),
        (60, {SLURM_END: "5000"}, 5000),
        (None, {SLURM_END: "Unknown"}, math.inf),
        (None, {SLURM_END: "0"}, math.inf),
        (60, {SLURM_END: "5000", JOB_START: "1000"}, 4600),
    ],
)
def test_end_of_a_job(time_limit, variables, end):
    assert job_end(time_limit, variables) == end


def test_start_of_a_job_is_that_of_its_first_process(monkeypatch):
    monkeypatch.delenv(JOB_START, raising=False)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    mark_job_start(False)
    assert JOB_START not in os.environ
    mark_job_start(True)
    start = os.environ[JOB_START]
    assert time.time() - 3600 < float(start) <= time.time()
    monkeypatch.setenv(JOB_START, "7")
    mark_job_start(True)
    assert os.environ[JOB_START] == "7"


def test_guard_ends_a_run_in_time_and_never_before_its_first_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(interruption.time, "time", lambda: now[0])
    guard = StopGuard(job_end=100.0)
    now[0] = 99.0
    assert guard.exit_code is None
    for now[0] in (30.0, 40.0, 50.0):  # the first chunk is the longest one: 30 s
        guard.mark_progress()
    now[0] = 100 - END_MARGIN_SECONDS - 60.5
    guard.check()
    now[0] += 1
    with pytest.raises(TrainingInterrupted) as stopped:
        guard.check()
    assert stopped.value.args == (os.EX_TEMPFAIL,)


def test_run_continues_in_the_next_job_to_the_same_bytes(tmp_path, monkeypatch):
    """Each job has time for a few steps."""
    monkeypatch.chdir(tmp_path)
    study = make_tiny_study(Path("results/tiny"))
    expected = train_uninterrupted(SHORT)
    train_chunk, left = Trainer.train_chunk, [3]

    def limited(trainer, count, bar):
        left[0] -= 1
        if not left[0]:
            trainer.guard.job_end = 0.0
        return train_chunk(trainer, count, bar)

    def train_steps(trainer, guard):
        trainer.guard = guard
        unlimited(trainer, guard)

    unlimited = Trainer.train_steps
    monkeypatch.setattr(Trainer, "train_chunk", limited)
    monkeypatch.setattr(Trainer, "train_steps", train_steps)
    pieces = 0
    while pieces < 10:
        pieces, left[0] = pieces + 1, 3
        try:
            train(SHORT, study, study / "run")
            break
        except SystemExit as stopped:
            assert stopped.code == os.EX_TEMPFAIL
    assert pieces == 5
    assert summary_of(study / "run")["num_resumes"] == 4
    assert_same_result(study / "run", expected)


@pytest.mark.parametrize(
    ("variables", "is_called"),
    [
        ({}, False),
        ({JOB_START: "0"}, False),
        ({SLURM_JOB: "17"}, False),  # a user's own job, in which other commands may run
        ({SLURM_JOB: "17", JOB_START: "0"}, True),
    ],
)
@pytest.mark.parametrize("code", [0, 1])
def test_jobs_of_snakemake_are_queued_again(tmp_path, monkeypatch, capfd, variables, is_called, code):
    scontrol, calls = tmp_path / "scontrol", tmp_path / "calls"
    scontrol.write_text(f"#!/bin/sh\necho $@ > {calls}\necho refused >&2\nexit {code}\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert requeue_job(variables) is (is_called and not code)
    assert calls.read_text() == "requeue 17\n" if is_called else not calls.exists()
    assert ("refused" in capfd.readouterr().err) is (is_called and code == 1)


def test_job_with_an_end_learns_at_once_how_long_a_checkpoint_takes(tmp_path, monkeypatch):
    """It is saved after the first step, and once; the time of saving counts towards the margin."""
    monkeypatch.chdir(tmp_path)
    study, saved, now = make_tiny_study(Path("results/tiny")), [], [0.0]

    def save_slowly(folder, run, step, *content):
        saved.append(step)
        now[0] += 20.0
        return save_checkpoint(folder, run, step, *content)

    save_checkpoint = trainer.save_checkpoint
    monkeypatch.setattr(trainer, "save_checkpoint", save_slowly)
    monkeypatch.setattr(interruption.time, "time", lambda: now[0])
    monkeypatch.setenv(SLURM_END, "60")
    with pytest.raises(SystemExit) as stopped:
        train(SHORT, study, study / "run")
    assert (stopped.value.code, saved) == (os.EX_TEMPFAIL, [1])


def test_notice_of_the_end_of_a_job_is_obeyed_after_a_step():
    with StopGuard() as guard:
        os.kill(os.getpid(), END_NOTICE)
        assert guard.exit_code is None
        guard.mark_progress()
        assert guard.exit_code == os.EX_TEMPFAIL


def test_notice_does_not_end_the_snakemake_of_a_job():
    """Those of a job's processes that do not handle it would otherwise die of it, and the job with them."""
    code = """if True:
        import os, signal, subprocess
        from lmpipe.planning.session import mark_job_start
        mark_job_start(True)
        os.kill(os.getpid(), signal.SIGUSR1)
        subprocess.run(["sh", "-c", "kill -USR1 $$; echo alive"], check=True)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_signal_counts_before_the_end_of_a_job():
    with StopGuard(job_end=0.0) as guard:
        guard.mark_progress()
        assert guard.exit_code == os.EX_TEMPFAIL
        os.kill(os.getpid(), signal.SIGTERM)
        assert guard.exit_code == 128 + signal.SIGTERM
