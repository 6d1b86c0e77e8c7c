"""Fake GPUs that runs hold: one run each, some runs together, and free again however a run ends."""

import contextlib
import multiprocessing
import os
import time

import pytest
import torch

from lmpipe.errors import InputError
from lmpipe.training import devices, profiling
from lmpipe.training.devices import (
    MAX_RUNS_PER_GPU,
    acquire_device,
    acquire_devices,
    acquire_gpus,
    limit_memory,
    local_device,
    lock_folder,
    try_acquire,
)
from lmpipe.training.profiling import benchmark_batch_sizes, profile_step

FORK = multiprocessing.get_context("fork")
TWO = {"cuda:0": "GPU-a", "cuda:1": "GPU-b"}


def hold_gpu(connection, folder):
    """Hold a GPU until the process is killed; send its name."""
    with acquire_gpus(TWO, folder) as (name,):
        connection.send(name)
        time.sleep(60)


@pytest.fixture
def hold(tmp_path):
    """Return a function that holds one of some GPUs until the end of the test, and returns its name.

    Locks belong to open files, so that one process stands for several.
    """
    with contextlib.ExitStack() as stack:
        yield lambda uuids, runs_per_gpu=1: stack.enter_context(acquire_gpus(uuids, tmp_path, 1, runs_per_gpu))[0]


@pytest.fixture
def free(tmp_path):
    """Return the name of the GPU that a run would get now, or None if it would wait."""

    def name(uuids, runs_per_gpu=1):
        with contextlib.ExitStack() as locks:
            return try_acquire(uuids, runs_per_gpu, tmp_path, locks)

    return name


def test_each_run_has_its_own_gpu_until_it_is_killed(hold, free, tmp_path):
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=hold_gpu, args=(sender, tmp_path))
    process.start()
    name = receiver.recv()
    assert {name, hold(TWO)} == {"cuda:0", "cuda:1"}
    assert free(TWO) is None
    process.kill()
    process.join()
    assert free(TWO) == name


def test_run_waits_until_a_gpu_is_free_and_logs_it(tmp_path, monkeypatch):
    uuids, messages = {"cuda:0": "GPU-a"}, []
    with contextlib.ExitStack() as first:
        first.enter_context(acquire_gpus(uuids, tmp_path))
        monkeypatch.setattr(devices, "log", messages.append)
        monkeypatch.setattr(devices.time, "sleep", lambda seconds: first.close())
        with acquire_gpus(uuids, tmp_path) as names:
            assert names == ["cuda:0"] and len(messages) == 1


def test_gpus_are_shared_evenly_by_at_most_runs_per_gpu(hold, free):
    names = [hold(TWO, 2) for _ in range(4)]
    # A second run on a GPU only when each has one.
    assert sorted(names[:2]) == sorted(names[2:]) == ["cuda:0", "cuda:1"]
    assert free(TWO, 2) is None
    assert free(TWO, 3) is not None


def test_run_alone_never_shares_its_gpu(hold, free):
    assert hold(TWO, 4) == "cuda:0"
    assert free(TWO, 1) == hold(TWO, 1) == "cuda:1"
    assert free({"cuda:0": "GPU-b"}, MAX_RUNS_PER_GPU) is None


def test_gpu_is_the_same_under_another_number(hold, free):
    """As a process sees it to which CUDA_VISIBLE_DEVICES=1 leaves one GPU."""
    assert hold({"cuda:0": "GPU-b"}) == free(TWO) == "cuda:0"
    assert free({"cuda:1": "GPU-b"}) is None


def test_run_of_several_gpus_takes_any_free_ones_or_none(hold, free, tmp_path):
    four = {f"cuda:{index}": f"GPU-{index}" for index in range(4)}
    assert hold({"cuda:0": "GPU-0"}) == "cuda:0"
    with acquire_gpus(four, tmp_path, 2) as names:
        assert names == ["cuda:1", "cuda:2"]
        assert free(four) == "cuda:3"
    with acquire_gpus(four, tmp_path, 3) as names:
        assert names == ["cuda:1", "cuda:2", "cuda:3"]


def test_run_that_waits_for_several_gpus_holds_none(hold, free, tmp_path, monkeypatch):
    class WaitedError(Exception):
        pass

    def wait(seconds):
        assert free(TWO) == "cuda:1"
        raise WaitedError

    hold({"cuda:0": "GPU-a"})
    monkeypatch.setattr(devices.time, "sleep", wait)
    with pytest.raises(WaitedError), acquire_gpus(TWO, tmp_path, 2):
        pass


@pytest.mark.parametrize(("visible", "own"), [(None, ["1", "3"]), ("5,GPU-x,6,MIG-y", ["GPU-x", "MIG-y"])])
def test_each_process_of_a_run_sees_its_gpu_alone(tmp_path, monkeypatch, visible, own):
    """As the only GPU, so that the code that one process compiled is the other's, too."""
    monkeypatch.setattr(devices, "available_devices", lambda: [*(f"cuda:{index}" for index in range(4)), "cpu"])
    monkeypatch.setattr(devices, "gpu_uuids", lambda names: {name: name for name in names})
    monkeypatch.setattr(devices, "lock_folder", lambda: tmp_path)
    monkeypatch.delenv(devices.ASSIGNED_GPUS, raising=False)
    if visible:
        monkeypatch.setenv(devices.VISIBLE_GPUS, visible)
    else:
        monkeypatch.delenv(devices.VISIBLE_GPUS, raising=False)
    with acquire_gpus({"cuda:0": "cuda:0", "cuda:2": "cuda:2"}, tmp_path, 2), acquire_devices(None, 2):
        for local_rank in (0, 1):
            monkeypatch.setenv(devices.VISIBLE_GPUS, visible or "")
            assert local_device(None, local_rank) == torch.device("cuda:0")
            assert os.environ[devices.VISIBLE_GPUS] == own[local_rank]


def test_runs_that_share_a_gpu_have_equal_parts_of_its_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "available_devices", lambda: ["cuda:0", "cpu"])
    monkeypatch.setattr(devices, "gpu_uuids", lambda names: {name: name for name in names})
    monkeypatch.setattr(devices, "lock_folder", lambda: tmp_path)
    fractions = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *arguments: fractions.append(arguments))
    monkeypatch.setattr(devices, "MEMORY_SHARES", {})
    with acquire_device(runs_per_gpu=4) as device, limit_memory(device, 0.5):
        assert fractions == [(0.25, "cuda:0"), (0.125, device)]
    assert fractions[-1] == (0.25, device)


def test_more_runs_than_places_are_refused(tmp_path):
    with pytest.raises(InputError, match="--runs-per-gpu: is 17"), acquire_gpus(TWO, tmp_path, 1, 17):
        pass


def test_without_a_gpu_nothing_is_held(monkeypatch):
    monkeypatch.setattr(devices, "acquire_gpus", None)
    with acquire_device() as first, acquire_device("cpu") as second:
        assert first.type in ("cpu", "mps")
        assert second.type == "cpu"
    with pytest.raises(InputError, match="--device: cuda:7"), acquire_device("cuda:7"):
        pass


def test_the_folder_of_the_locks_is_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = lock_folder()
    assert folder == lock_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    (tmp_path / f"lmpipe-gpus-{os.getuid()}").mkdir()
    with pytest.raises(InputError, match="belongs to another user"):
        lock_folder()


@pytest.mark.parametrize("measure", [profile_step, benchmark_batch_sizes])
def test_measuring_holds_its_device(monkeypatch, measure):
    """Everything is computed while the device is held."""
    acquired, at_warm_up = [], []

    @contextlib.contextmanager
    def acquire(name):
        acquired.append(name)
        yield torch.device("cpu")
        acquired.pop()

    def warm_up(*_):
        at_warm_up.append(list(acquired))
        raise InterruptedError

    monkeypatch.setattr(profiling, "acquire_device", acquire)
    monkeypatch.setattr(profiling, "warm_up", warm_up)
    monkeypatch.setattr(profiling, "set_deterministic", lambda *_: None)
    with pytest.raises(InterruptedError):
        measure(None, None, device="cuda:1")
    assert at_warm_up == [["cuda:1"]]
