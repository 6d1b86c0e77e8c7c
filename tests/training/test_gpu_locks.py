"""Fake GPUs that runs hold: one run each, some runs together, and free again however a run ends."""

import contextlib
import multiprocessing
import os
import time

import pytest
import torch

from lmpipe.errors import InputError
from lmpipe.training import devices, profiling
from lmpipe.training.devices import MAX_RUNS_PER_GPU, acquire_device, acquire_gpu, lock_folder, try_acquire
from lmpipe.training.profiling import benchmark_batch_sizes, profile_step

FORK = multiprocessing.get_context("fork")
TWO = {"cuda:0": "GPU-a", "cuda:1": "GPU-b"}


def hold_gpu(connection, folder):
    """Hold a GPU until the process is killed; send its name."""
    with acquire_gpu(TWO, 1, folder) as name:
        connection.send(name)
        time.sleep(60)


@pytest.fixture
def hold(tmp_path):
    """Return a function that holds one of some GPUs until the end of the test, and returns its name.

    Locks belong to open files, so that one process stands for several.
    """
    with contextlib.ExitStack() as stack:
        yield lambda uuids, runs_per_gpu=1: stack.enter_context(acquire_gpu(uuids, runs_per_gpu, tmp_path))


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
        first.enter_context(acquire_gpu(uuids, 1, tmp_path))
        monkeypatch.setattr(devices, "log", messages.append)
        monkeypatch.setattr(devices.time, "sleep", lambda seconds: first.close())
        with acquire_gpu(uuids, 1, tmp_path) as name:
            assert (name, messages) == ("cuda:0", ["waiting for a free GPU (cuda:0)"])


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


def test_more_runs_than_places_are_refused(tmp_path):
    with pytest.raises(InputError, match="--runs-per-gpu: is 17"), acquire_gpu(TWO, 17, tmp_path):
        pass


def test_without_a_gpu_nothing_is_held(monkeypatch):
    monkeypatch.setattr(devices, "acquire_gpu", None)
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
