"""Fake GPUs that processes hold: one run each, some runs together, and free again however a run ends."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest
import torch

from lmpipe.errors import InputError
from lmpipe.training import devices, profiling
from lmpipe.training.devices import MAX_RUNS_PER_GPU, acquire_device, acquire_gpu, lock_folder, try_acquire
from lmpipe.training.profiling import benchmark_batch_sizes, profile_step

TWO = {"cuda:0": "GPU-a", "cuda:1": "GPU-b"}
HOLDER = """
import sys, time
from pathlib import Path
from lmpipe.training.devices import acquire_gpu
with acquire_gpu(dict(device.split("=") for device in sys.argv[3:]), int(sys.argv[2]), Path(sys.argv[1])) as name:
    print(name, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def hold(tmp_path):
    """Start a process that holds one of some devices; it is killed at the end of the test."""
    with contextlib.ExitStack() as processes:

        def start(devices, runs_per_gpu=1):
            named = [f"{name}={identity}" for name, identity in devices.items()]
            command = [sys.executable, "-c", HOLDER, str(tmp_path), str(runs_per_gpu), *named]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            processes.enter_context(process)
            processes.callback(process.kill)
            return process

        yield start


@pytest.fixture
def free(tmp_path):
    """Which device a run would get now; None where it would wait."""

    def name(devices, runs_per_gpu=1):
        with contextlib.ExitStack() as locks:
            return try_acquire(devices, runs_per_gpu, tmp_path, locks)

    return name


def test_each_run_has_its_own_device(hold, free):
    assert sorted(hold(TWO).stdout.readline() for _ in TWO) == ["cuda:0\n", "cuda:1\n"]
    assert free(TWO) is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_device_is_free_again_however_its_run_ends(hold, free, number):
    first = hold(TWO)
    second = hold(TWO)
    name = first.stdout.readline().strip()
    second.stdout.readline()
    first.send_signal(number)
    first.wait()
    assert free(TWO) == name


def test_a_run_waits_until_a_device_is_free_and_says_so(hold):
    devices = {"cuda:0": "GPU-a"}
    first = hold(devices)
    first.stdout.readline()
    second = hold(devices)
    assert second.stderr.readline() == "waiting for a free GPU (cuda:0)\n"
    first.kill()
    assert second.stdout.readline() == "cuda:0\n"


def test_runs_share_a_device_as_far_as_they_are_told(hold, free):
    names = []
    for _ in range(4):
        assert free(TWO, 2) is not None
        names.append(hold(TWO, 2).stdout.readline().strip())
    # A second run on a device only when each has one.
    assert sorted(names[:2]) == sorted(names[2:]) == ["cuda:0", "cuda:1"]
    assert free(TWO, 2) is None
    assert free(TWO, 3) is not None


def test_a_run_that_is_to_be_alone_meets_none_that_shares(hold, free):
    assert hold(TWO, 4).stdout.readline() == "cuda:0\n"
    assert free(TWO, 1) == "cuda:1"
    assert hold(TWO, 1).stdout.readline() == "cuda:1\n"
    assert free({"cuda:0": "GPU-b"}, MAX_RUNS_PER_GPU) is None


def test_a_device_is_the_same_under_another_number(hold, free):
    """As a process sees it to which CUDA_VISIBLE_DEVICES=1 leaves one device."""
    assert hold({"cuda:0": "GPU-b"}).stdout.readline() == "cuda:0\n"
    assert free(TWO) == "cuda:0"
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
