import pytest
import torch

from lmpipe.errors import InputError
from lmpipe.training import devices
from lmpipe.training.devices import (
    allow_nondeterministic,
    cgroup_available,
    find_device,
    free_memory_bytes,
    is_deterministic,
    set_deterministic,
    set_threads,
)
from tests.support.forked import ForkedProcess


@pytest.mark.parametrize(
    ("name", "rank", "expected"), [(None, 0, 0), (None, 2, 2), ("cuda", 1, 1), ("cuda:1", 0, 1), ("cuda:1", 1, 2)]
)
def test_processes_of_one_run_have_different_gpus(monkeypatch, name, rank, expected):
    monkeypatch.setattr(devices, "available_devices", lambda: ["cuda:0", "cuda:1", "cuda:2", "cpu"])
    assert find_device(name, rank) == torch.device(f"cuda:{expected}")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(devices, "available_devices", lambda: ["cuda:0", "cuda:1", "cpu"])
    with pytest.raises(InputError, match="would use cuda:2, and this machine has 2 GPUs"):
        find_device("cuda:1", 1)
    with pytest.raises(InputError, match="--device: tpu is not a device of this machine"):
        find_device("tpu", 1)


def make_group(folder, **contents):
    folder.mkdir(parents=True)
    for name, content in contents.items():
        folder.joinpath(f"memory.{name}").write_text(f"{content}\n")


def test_a_job_has_what_its_control_groups_leave(tmp_path):
    own, mounted = tmp_path / "own", tmp_path / "groups"
    make_group(mounted / "job", max=1000, current=700, stat="anon 600\ninactive_file 50")
    make_group(mounted / "job/step", max="max", current=100, stat="inactive_file 0")
    own.write_text("0::/job/step\n")
    assert list(cgroup_available(own, mounted)) == [350]
    make_group(mounted / "memory/job", limit_in_bytes=500, usage_in_bytes=600, stat="total_inactive_file 20")
    own.write_text("5:cpu,cpuacct:/job\n4:memory:/job\n0::/\n")
    assert list(cgroup_available(own, mounted)) == [0]
    assert list(cgroup_available(tmp_path / "none", mounted)) == []


def test_free_memory_is_the_least_of_machine_and_groups(monkeypatch):
    monkeypatch.setattr(devices, "cgroup_available", lambda: iter([5, 3]))
    assert free_memory_bytes(torch.device("cpu")) == 3


@pytest.mark.parametrize(("share", "expected"), [(1.0, 60), (0.25, 15)])
def test_free_memory_of_a_shared_gpu_is_that_of_the_share(monkeypatch, share, expected):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60, 100))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10)
    monkeypatch.setitem(devices.MEMORY_SHARES, "cuda:0", share)
    assert free_memory_bytes(torch.device("cuda:0")) == expected


@pytest.mark.parametrize(("name", "value"), [("OMP_THREAD_LIMIT", "2"), ("OMP_DYNAMIC", "true")])
def test_environment_that_takes_threads_away_is_refused(monkeypatch, name, value):
    """Torch's bfloat16 products would be wrong."""
    monkeypatch.setenv(name, value)
    set_threads(1)
    with pytest.raises(InputError) as refused:
        set_threads(4)
    assert refused.value.where == name


def set_up_gpu():
    """Set CUDA up without one, as strictly as torch allows, then give that up."""
    gpu = torch.device("cuda:0")
    torch.cuda.set_device = lambda device: None
    assert not is_deterministic(gpu)
    set_deterministic(1, gpu)
    assert is_deterministic(gpu) and not torch.is_deterministic_algorithms_warn_only_enabled()
    allow_nondeterministic("no deterministic kernel")
    assert not is_deterministic(gpu)


def test_gpu_uses_deterministic_algorithms_or_admits_it():
    """With warn_only attention's backward pass is not deterministic, although it could be."""
    assert ForkedProcess(set_up_gpu).wait(60) == 0
    assert is_deterministic(torch.device("cpu")) and not is_deterministic(torch.device("mps"))
