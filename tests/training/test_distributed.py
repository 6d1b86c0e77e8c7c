"""Several processes under torchrun: same result, resume, signals, and the end of all if one fails."""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from torch import distributed as torch_distributed

from lmpipe.errors import InputError
from lmpipe.training import distributed
from lmpipe.training.distributed import (
    check_world_size,
    choose_world_size,
    forward_signal,
    join_process_group,
)
from lmpipe.training.interruption import END_NOTICE, STOP_SIGNALS
from lmpipe.training.run import LAUNCHED, train
from tests.support.forked import ForkedProcess, write_to
from tests.support.tiny_study import make_tiny_study, tiny_run
from tests.support.training_runs import (
    assert_nearly_same_result,
    assert_same_result,
    program,
    summary_of,
    train_uninterrupted,
    wait_for_checkpoint,
)

RUN = tiny_run(total_tokens=64 * 60)
FAIL_AS_FIRST = "import os, time; os.environ['RANK'] == '0' and os.kill(os.getpid(), 9)"


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_tiny_study(Path("results/tiny"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return the folder of RUN, trained by two processes."""
    study = make_tiny_study(tmp_path_factory.mktemp("uninterrupted") / "results")
    assert ForkedProcess(launch, RUN, study, study / "run").wait(60) == 0
    return study / "run"


@pytest.fixture
def start():
    """Start a process; it and all below it are killed at the end of the test."""
    started = []

    def start(launcher, *args, **options):
        started.append(ForkedProcess(launcher, *args, **options))
        return started[-1]

    yield start
    for process in started:
        for member in processes_of(process):
            member.kill()
        process.wait()


def relaunch(run, results, output, **options):
    """Train a run in two processes of torchrun, which this one becomes; write to the log beside the output."""
    write_to(output.with_suffix(".log"))
    options |= {"processes": 2}
    sys.orig_argv = program(run, results, output, **options)
    train(run, results, output, **options)


def relaunch_code(code, log):
    """Run Python code in two processes of torchrun, which this one becomes."""
    write_to(log)
    sys.orig_argv = [sys.executable, "-c", code]
    distributed.relaunch(2, threads=1)


def launch(run, results, output, **options):
    """Train a run in two processes below this one, as torchrun does, but forked; exit as the first one."""
    write_to(output.with_suffix(".log"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = []
    for rank in (0, 1):
        processes.append(context.Process(target=train_rank, args=(rank, port, run, results, output), kwargs=options))
        processes[-1].start()
    for process in processes:
        process.join()
    sys.exit(processes[0].exitcode)


def train_rank(rank, port, run, results, output, is_new=True, **options):
    """Train as one of two processes; check if the run is trained now, and that no compiler is loaded for seconds."""
    distributed.PARENT_POLL_SECONDS = 0.1
    os.environ |= {LAUNCHED: "test", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    assert train(run, results, output, **options) is is_new
    assert "torch._dynamo" not in sys.modules


def processes_of(process):
    """Return a process and all below it."""
    try:
        return [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        return []


def test_two_processes_train_the_run_of_one(study, uninterrupted):
    assert_nearly_same_result(uninterrupted, train_uninterrupted(RUN))
    assert summary_of(uninterrupted)["processes"] == 2


def test_resume_of_two_processes_is_byte_identical(study, start, uninterrupted):
    killed = start(launch, RUN, study, study / "run", checkpoint_seconds=0)
    wait_for_checkpoint(killed, study)
    ranks = processes_of(killed)[:-1]
    killed.kill()
    psutil.wait_procs(ranks, timeout=20)
    assert not any(rank.is_running() for rank in ranks), "no process outlives its parent"
    interrupted = start(launch, RUN, study, study / "run", checkpoint_seconds=0)
    wait_for_checkpoint(interrupted, study)
    for rank in processes_of(interrupted)[:-1]:
        rank.send_signal(END_NOTICE)
    assert interrupted.wait(30) == os.EX_TEMPFAIL
    for name, is_new in (("run", True), ("copy", False)):
        assert start(launch, RUN, study, study / name, is_new=is_new).wait(60) == 0
        assert_same_result(study / name, uninterrupted)
    assert summary_of(study / "run")["num_resumes"] == 2


def test_torchrun_saves_after_sigterm_and_resumes(study, start, uninterrupted):
    process = start(relaunch, RUN, study, study / "run", checkpoint_seconds=0)
    wait_for_checkpoint(process, study)
    process.send_signal(END_NOTICE)  # which is for the processes below
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    assert start(launch, RUN, study, study / "run").wait(60) == 0
    log = (study / "run.log").read_text()
    assert "interrupted after step" in log and "resuming from step" in log and "Traceback" not in log
    assert_same_result(study / "run", uninterrupted)
    assert summary_of(study / "run")["num_resumes"] == 1


def test_torchrun_ends_all_if_one_process_fails(start, tmp_path):
    started = time.monotonic()
    process = start(relaunch_code, f"{FAIL_AS_FIRST}; time.sleep(60)", tmp_path / "log")
    assert process.wait(60) == 128 + signal.SIGKILL
    assert time.monotonic() - started < 30
    assert processes_of(process) == []
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_process_that_loses_the_others_ends(study, start):
    process = start(launch, RUN, study, study / "run", checkpoint_seconds=0)
    wait_for_checkpoint(process, study)
    processes_of(process)[1].kill()
    assert process.wait(15) == 1
    log = (study / "run.log").read_text()
    assert "process 0 lost the others" in log and "Traceback" not in log


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


def test_several_processes_on_mps_are_refused():
    """Gloo has no MPS."""
    with pytest.raises(InputError, match="mps"):
        choose_world_size(2, 1, distributed.torch.device("mps"), batch_size=8)


def test_processes_of_several_machines_may_be_more_than_one_has_gpus():
    check_world_size(16, distributed.torch.device("cuda:0"), batch_size=16)


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (None, ["destroy"]),
        (SystemExit(0), ["destroy"]),
        (SystemExit(143), ["abort"]),
        (OSError("disk full"), ["abort"]),
    ],
    ids=repr,
)
def test_failed_process_does_not_wait_for_the_others_with_nccl(monkeypatch, error, calls):
    """Nothing is waited for in an abort; destroying a group waits for its collectives."""
    made = []
    monkeypatch.setattr(torch_distributed, "init_process_group", lambda backend, timeout: made.append(backend))
    monkeypatch.setattr(torch_distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(torch_distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch_distributed, "destroy_process_group", lambda: made.append("destroy"))
    monkeypatch.setattr(torch_distributed.distributed_c10d, "_abort_process_group", lambda: made.append("abort"))
    monkeypatch.setattr(distributed.threading, "Thread", lambda **options: SimpleNamespace(start=lambda: None))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("NCCL_NVLS_ENABLE", raising=False)
    with contextlib.suppress(SystemExit, OSError), join_process_group(distributed.torch.device("cuda:0")):
        assert os.environ["NCCL_NVLS_ENABLE"] == "0"
        if error:
            raise error
    assert made == ["nccl", *calls]


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_signal_is_forwarded_or_exits_before_the_processes_have_started(monkeypatch, number):
    received = []
    children = [SimpleNamespace(send_signal=received.append)] * 2
    monkeypatch.setattr(psutil.Process, "children", lambda self: children)
    forward_signal(number, None)
    assert received == [number, number]
    children.clear()
    with pytest.raises(SystemExit) as exited:
        forward_signal(number, None)
    assert exited.value.code == 128 + number


def test_process_ends_with_its_parent(monkeypatch):
    codes, parents = [], iter([7, 7, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(distributed, "PARENT_POLL_SECONDS", 0)
    distributed.exit_with_parent(7)
    assert codes == [1]
