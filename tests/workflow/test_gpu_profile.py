"""profiles/gpu in real Snakemake runs with fake GPUs."""

import json
import re
import shutil

import pytest
import yaml

from benchmarks.endurance.fake_training import gpu_use, make_environment
from benchmarks.endurance.slurm_sweep import run, sweep_study
from lmpipe.training.devices import device_name, find_device
from tests.support.cli_cases import make_by_hand
from tests.support.workflow import ROOT, call_snakemake


@pytest.fixture(scope="module")
def texts_done(tmp_path_factory):
    """Return a folder with a study that has a sweep of four short runs, up to its token files; not to be changed."""
    folder = tmp_path_factory.mktemp("study")
    settings = sweep_study(20) | {"seeds": [0, 1]}
    settings["corpora"]["stories"]["shards"] = 1
    (folder / "study.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    make_by_hand(settings, folder, until="train")
    return folder


def train_on_fakes(texts_done, tmp_path):
    """Train the sweep of rates under profiles/gpu with two fake GPUs; return their uses and the log."""
    folder = tmp_path / "study"
    shutil.copytree(texts_done, folder, symlinks=True)
    python = make_environment(tmp_path / "environment", gpus={"cuda:0": "fake-0", "cuda:1": "fake-1"}, seconds=1.5)
    best = "results/sweep/experiments/rates/best.json"
    profile = ["--cores", "6", "--workflow-profile", str(tmp_path)]
    result = run(folder, folder / "study.yaml", best, *profile, python=python)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    return gpu_use(tmp_path / "environment"), result.stderr


def write_profile(folder, runs, runs_per_gpu):
    """profiles/gpu, changed as its comments say."""
    text = (ROOT / "profiles/gpu/profile.yaml").read_text(encoding="utf-8")
    text = re.sub("^  gpu: 1$", f"  gpu: {runs}", text, flags=re.MULTILINE)
    text = re.sub("^    runs_per_gpu: 1 ", f"    runs_per_gpu: {runs_per_gpu} ", text, flags=re.MULTILINE)
    (folder / "profile.yaml").write_text(text, encoding="utf-8")


def max_overlap(uses):
    """Return the largest number of uses at one moment."""
    return max(sum(start <= moment < end for _, start, end in uses) for _, moment, _ in uses)


@pytest.mark.parametrize(("total", "runs_per_gpu"), [(2, 1), (4, 2)])
def test_parallel_runs_have_a_gpu_each_or_share_it(texts_done, tmp_path, total, runs_per_gpu):
    write_profile(tmp_path, total, runs_per_gpu)
    uses, log = train_on_fakes(texts_done, tmp_path)
    assert len(uses) == 4 and "there is no total" not in log
    assert 2 <= max_overlap(uses) <= total
    for device in ("cuda:0", "cuda:1"):
        assert max_overlap([use for use in uses if use[0] == device]) == runs_per_gpu


def test_missing_total_is_a_warning_and_the_gpus_reach_the_command(texts_done, tmp_path):
    """Runs then wait for a free GPU (tests/training/test_gpu_locks.py)."""
    write_profile(tmp_path, 2, 1)
    options = ["--workflow-profile", tmp_path, "--resources", "mem_mb=1000000", "--set-resources", "train:gpu=4"]
    options += ["--dry-run", "--printshellcmds", "--configfile", "study.yaml"]
    done = call_snakemake(texts_done, "results/sweep/experiments/rates/best.json", *options)
    assert done.stderr.count("train: jobs ask for a gpu, but there is no total") == 1
    assert done.stdout.count(" --gpus 4 ") == 4


def test_gpu_profile_without_a_gpu_uses_the_cpu(texts_done, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(texts_done, folder, symlinks=True)
    summary = "results/sweep/runs/rates/max_lr=0.0001/seed0/summary.json"
    call_snakemake(folder, summary, "--workflow-profile", ROOT / "profiles/gpu", "--configfile", "study.yaml")
    device = json.loads((folder / summary).read_text(encoding="utf-8"))["device"]
    assert device == device_name(find_device())
