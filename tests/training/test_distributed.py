"""Several processes under torchrun: same result, resume, signals, and the end of all if one fails."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lmpipe.errors import InputError
from lmpipe.training import distributed
from lmpipe.training.distributed import choose_world_size
from lmpipe.training.run import train
from tests.support.tiny_study import make_tiny_study, tiny_run
from tests.support.training_runs import (
    assert_nearly_same_result,
    assert_same_result,
    program,
    summary_of,
    train_uninterrupted,
    wait_for_checkpoint,
)

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
LONG = tiny_run(total_tokens=64 * 20_000)


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_tiny_study(Path("results/tiny"))


@pytest.fixture
def start():
    """Start a program in the background; its processes are killed at the end of the test."""
    started = []

    def popen(command):
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield popen
    for process in started:
        for child in processes_of(process):
            child.kill()
        process.communicate()


def processes_of(process):
    """Return a process and all below it."""
    try:
        return [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        return []


def workers_of(process):
    """Return the processes of a run by rank."""
    ranks = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        if "RANK" in (environment := child.environ()):
            ranks[int(environment["RANK"])] = child
    return ranks


def test_two_processes_train_the_run_of_one_and_resume_to_the_same_bytes_after_a_kill(study, start):
    run = tiny_run(total_tokens=64 * 200)
    expected = train_uninterrupted(run)
    done = subprocess.run(program(run, study, study / "run", processes=2), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    assert_nearly_same_result(study / "run", expected)
    assert summary_of(study / "run")["processes"] == 2
    # Killed, and then resumed and found in the store by torchrun itself.
    other = make_tiny_study(Path("results/other"))
    killed = start(program(run, other, other / "run", processes=2, checkpoint_seconds=0))
    wait_for_checkpoint(killed, other)
    workers = workers_of(killed)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    psutil.wait_procs(workers.values(), timeout=20)
    assert not any(worker.is_running() for worker in workers.values()), "no process outlives its parent"
    for name, is_new in (("run", "True\n"), ("copy", "False\n")):
        command = [*TORCHRUN, "--log-dir", "logs", "--no-python", *program(run, other, other / name)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, is_new), done.stderr
        assert_same_result(other / name, study / "run")
    assert summary_of(other / "run")["num_resumes"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_a_checkpoint_and_ends_all_processes(study, start, number):
    process = start(program(LONG, study, study / "run", processes=2, checkpoint_seconds=1))
    wait_for_checkpoint(process, study)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "interrupted after step" in err and "Traceback" not in err and "lost the others" not in err


@pytest.mark.parametrize("rank", [0, 1])
def test_failure_of_one_process_ends_all_within_seconds(study, start, rank):
    process = start(program(LONG, study, study / "run", processes=2, checkpoint_seconds=0))
    wait_for_checkpoint(process, study)
    workers_of(process)[rank].kill()
    killed = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - killed < 15
    assert process.returncode not in (0, None) and "Traceback" not in err
    assert processes_of(process) == []


def test_more_processes_than_sequences_are_refused(study):
    with pytest.raises(InputError, match="a batch has only 4 sequences"):
        train(tiny_run(), study, study / "run", processes=5)


def test_gpus_are_ignored_on_a_machine_without(study):
    train(tiny_run(total_tokens=64), study, study / "run", device="cpu", gpus=4)
    assert summary_of(study / "run")["processes"] == 1


def test_a_gpu_needs_to_be_there_for_each_process(monkeypatch):
    monkeypatch.setattr(distributed.torch.cuda, "device_count", lambda: 2)
    gpu = distributed.torch.device("cuda:0")
    assert choose_world_size(1, 2, gpu, batch_size=8) == 2
    with pytest.raises(InputError, match="this machine has 2 GPUs"):
        choose_world_size(1, 3, gpu, batch_size=8)


def test_signal_before_the_processes_have_started_exits(monkeypatch):
    monkeypatch.setattr(psutil.Process, "children", lambda self: [])
    with pytest.raises(SystemExit) as exited:
        distributed.forward_signal(signal.SIGTERM, None)
    assert exited.value.code == 128 + signal.SIGTERM


def test_process_ends_with_its_parent(monkeypatch):
    codes, parents = [], iter([7, 7, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(distributed, "PARENT_POLL_SECONDS", 0)
    distributed.exit_with_parent(7)
    assert codes == [1]
