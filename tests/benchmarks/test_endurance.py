"""Endurance runs in small: a few attempts of each fault, and that losses are noticed."""

import contextlib
import os
import re
import secrets
import signal
import time
from functools import partial
from shutil import copytree

import psutil
import pytest

from benchmarks.endurance import __main__ as endurance
from benchmarks.endurance import damaged_files, faults, hostile_studies, killed_runs, killed_studies, processes
from benchmarks.endurance.faults import Fault, LossError, run_fault
from tests.support.forked import ForkedProcess, run_module

TRIES = {"study text": 10, "study values": 5, "damaged checkpoint": 5, "killed run": 1, "terminated run": 1}
TRIES |= {f"damaged {name}": 3 for name in ("train-bpe", "encode", "analyze", "train", "generate", "verify")}


@contextlib.contextmanager
def start_forked(command, folder, log):
    """Do as processes.start, without the seconds in which each process loads torch."""
    process = ForkedProcess(run_module, command[0], command[1:], folder, log)
    while os.getpgid(process.pid) != process.pid:
        time.sleep(0.001)
    try:
        yield process
    finally:
        processes.kill_all(process)


@pytest.fixture
def _without_seconds_of_training(whole_study, monkeypatch):
    """Take the finished study from this session, fork the processes, and shorten the killed run."""
    monkeypatch.setattr(damaged_files, "make_whole_study", partial(copytree, whole_study, dirs_exist_ok=True))
    monkeypatch.setattr(killed_runs, "STEPS", 30)
    monkeypatch.setattr(killed_runs, "START_SECONDS", 0.2)
    for module in (processes, killed_runs):
        monkeypatch.setattr(module, "start", start_forked)


@pytest.mark.usefixtures("_without_seconds_of_training")
@pytest.mark.parametrize(("name", "tries"), TRIES.items())
def test_nothing_is_lost(name, tries):
    outcome = run_fault(endurance.FAULTS[name], secrets.randbelow(10**9), tries)
    assert outcome.losses == {}
    assert outcome.survived.total() == tries


def crash(random, folder):
    raise KeyError("vocab")


def run_planted_code(random, folder):
    os.system(f"touch {faults.MARKER}")
    return "read"


def loop_forever(random, folder):
    while True:
        pass


def take_memory(random, folder):
    return str(len(bytearray(2 * faults.MEMORY_BYTES)))


@pytest.mark.parametrize(
    ("attempt", "loss"),
    [
        (crash, "KeyError: 'vocab'"),
        (run_planted_code, "LossError: code from a file"),
        (loop_forever, "TimeoutError"),
        (take_memory, "MemoryError"),
    ],
)
def test_loss_is_reported_with_the_call_that_repeats_it(attempt, loss, monkeypatch, capsys):
    monkeypatch.setattr(faults, "CPU_SECONDS", 0.2)
    monkeypatch.setattr(endurance, "FAULTS", {"bad": Fault("bad", 3, attempt)})
    with pytest.raises(SystemExit) as end:
        endurance.main(["--seed", "7", "--tries", "2"])
    printed = capsys.readouterr().out
    assert end.value.code == 1
    assert "python -m benchmarks.endurance 'bad' --seed 8 --tries 1\n" in printed
    assert len(re.findall(loss, printed)) == 2
    assert re.search(r"^bad +2 +0 +2 ", printed, re.MULTILINE)


@pytest.mark.parametrize("name", ["summary.json", "metrics.csv", "model.safetensors"])
def test_run_that_is_trained_twice_is_a_loss(tmp_path, name):
    run = tmp_path / "store/abc"
    run.mkdir(parents=True)
    for file in ("summary.json", "metrics.csv", "model.safetensors"):
        (run / file).write_text("content")
    watch = killed_studies.StoreWatch(tmp_path)
    watch.check()
    (run / "new").write_text("content")
    (run / "new").replace(run / name)
    with pytest.raises(LossError):
        watch.check()


def test_kill_leaves_no_process_behind(tmp_path):
    child = "import time; print('started', flush=True); time.sleep(60)"
    parent = f"""if True:
        import subprocess, sys
        for alone in (False, True):
            subprocess.Popen([sys.executable, "-c", {child!r}], start_new_session=alone)
        {child}
    """
    (tmp_path / "parent.py").write_text(parent)
    log = tmp_path / "log"
    with processes.start(["parent"], tmp_path, log) as process:
        processes.wait_until(process, lambda: log.read_text().count("started") == 3, 0)
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) == 2
        assert processes.kill_all(process)
        assert not any(member.is_running() for member in family)
        assert process.returncode == -signal.SIGKILL


def test_unclear_message_odd_path_or_shared_path_is_a_loss():
    odd = ["../x", "results/a/../../x", "results/a b", "results/-n", "/etc/x", "results/a//b", "results/..."]
    paths = [["results/a/b", path] for path in (*odd, f"results/{'x' * 250}", "results/A/b")]
    paths.append(["results/a", "results/a/b"])
    messages = ["a\nb; c", "study.yaml: \x1b[31m; x", "study.yaml: " + "x" * 2000 + "; y", "study.yaml: no"]
    for check, values in ((hostile_studies.check_paths, paths), (hostile_studies.check_message, messages)):
        for value in values:
            with pytest.raises(LossError):
                check(value)


def test_command_that_a_shell_reads_otherwise_is_a_loss(tmp_path):
    assert hostile_studies.shell_arguments("lmpipe train 'a b' 2> x.log", tmp_path) == ["train", "a b"]
    with pytest.raises(LossError):
        hostile_studies.shell_arguments("lmpipe train a; ls nowhere 2> x.log", tmp_path)
