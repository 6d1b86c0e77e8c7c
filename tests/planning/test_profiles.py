"""What profiles say, and what is said to a user whose command line undoes it."""

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import yaml

from benchmarks.cluster import sweep_study, workflow
from benchmarks.doubles import gpu_use, make_environment, most_at_once
from lmpipe.errors import InputError
from lmpipe.planning.plan import load_plan
from lmpipe.planning.snakemake_checks import (
    check_array_limits,
    check_interpreter,
    max_ready_jobs,
    missing_gpu_total_warning,
    requested_gpus,
)
from lmpipe.planning.stages import records
from lmpipe.training.devices import device_name, find_device
from tests.support.cli_cases import STUDY

ROOT = Path(__file__).parents[2]


def profile(name):
    return yaml.safe_load((ROOT / "profiles" / name / "profile.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["gpu", "slurm", "cluster-generic"])
def test_every_profile_repeats_what_the_default_one_says(name):
    # Snakemake loads one profile of a workflow: another one takes the place of profiles/default.
    assert profile("default").items() <= profile(name).items()


def test_a_study_with_shards_has_jobs_for_each():
    corpus = {"source": "stories", "documents": 100, "tokenizer": {"vocab_size": 270}, "stands_for": "TinyStories"}
    whole, sharded = (
        load_plan(STUDY | {"corpora": {"tiny": corpus | {"shards": shards}}}, "study") for shards in (1, 3)
    )
    assert max_ready_jobs(whole) == len(records(whole))
    # Two shards more to count, three to encode; the tokens are joined in place of the one job that encoded them.
    assert max_ready_jobs(sharded) == max_ready_jobs(whole) + 2 + 3


@pytest.mark.parametrize("limits", [{"--jobs": 9}, {"--jobs": None, "--max-jobs-per-timespan": 9}])
def test_limits_that_would_leave_jobs_behind_are_refused(limits):
    (option,) = [option for option, limit in limits.items() if limit]
    with pytest.raises(InputError, match=f"^{option}: is 9, fewer than the 10 jobs"):
        check_array_limits("plot_experiment", limits, 10)


@pytest.mark.parametrize(
    ("arrays", "limits"), [(None, {"--jobs": 9}), ("", {"--jobs": 9}), ("plot_experiment", {"--jobs": 10, "--x": None})]
)
def test_limits_that_leave_nothing_behind_are_accepted(arrays, limits):
    check_array_limits(arrays, limits, 10)


def test_missing_gpu_total_is_a_warning():
    assert missing_gpu_total_warning(["train"], ["mem_mb"]).startswith(
        "train: jobs ask for a gpu, but there is no total"
    )
    assert missing_gpu_total_warning(["train"], ["mem_mb", "gpu"]) is None
    assert missing_gpu_total_warning([], []) is None


@pytest.mark.parametrize(
    ("gpu", "gres", "expected"),
    [
        (None, None, 1),
        (4, None, 4),
        ("2", "", 2),
        (0, "gpu", 1),
        (None, "gpu:2", 2),
        (None, "gpu:a100:2", 2),
        (None, "nvme:100", 1),
        (0, "shard:4,gpu:2(S:0)", 2),
        (0, "gpu:a100:1,gpu:h100:3", 4),
    ],
)
def test_a_run_has_as_many_gpus_as_its_job_asks_for(gpu, gres, expected):
    assert requested_gpus(gpu, gres) == expected


def test_an_environment_that_snakemake_would_not_quote_is_refused_on_a_cluster():
    check_interpreter("/home/me/.venv/bin/python3.11")
    with pytest.raises(InputError, match="a folder/bin/python"):
        check_interpreter("/home/me/a folder/bin/python")


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("JobId=7 JobState=COMPLETED Reason=None", "success"),
        ("JobId=7 JobState=PENDING Reason=Resources", "running"),
        ("JobId=7 JobState=RUNNING", "running"),
        ("JobId=7 JobState=COMPLETING", "running"),
        ("JobId=7 JobState=TIMEOUT", "failed"),
        ("JobId=7 JobState=OUT_OF_MEMORY", "failed"),
        ("slurm_load_jobs error: Invalid job id specified", "failed"),
        ("slurm_load_jobs error: Unable to contact slurm controller", "running"),
    ],
)
def test_the_status_command_says_one_of_the_words_of_the_plugin(tmp_path, said, status):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 1\n', encoding="utf-8")
    scontrol.chmod(0o755)
    command = [str(ROOT / "profiles/cluster-generic/status.sh"), "7"]
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True)
    assert done.stdout == f"{status}\n"


@pytest.fixture(scope="module")
def texts_done(tmp_path_factory):
    """A folder with a study that has a sweep of six short runs, up to its token files; not to be changed."""
    folder = tmp_path_factory.mktemp("study")
    study = folder / "study.yaml"
    settings = sweep_study(20) | {"seeds": [0, 1, 2]}
    settings["corpora"]["stories"]["shards"] = 1
    study.write_text(yaml.safe_dump(settings), encoding="utf-8")
    tokens = [f"results/sweep/tokens/stories/{split}.bin" for split in ("train", "valid")]
    succeed(workflow(folder, study, "--cores", "2", *tokens))
    return folder


def succeed(done):
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done


def train_on_fakes(texts_done, tmp_path, *arguments):
    """Train the sweep of rates under profiles/gpu with two fake GPUs; how each was used, and what was said."""
    folder = tmp_path / "study"
    shutil.copytree(texts_done, folder, symlinks=True)
    python = make_environment(tmp_path / "environment", gpus={"cuda:0": "fake-0", "cuda:1": "fake-1"}, seconds=1.0)
    best = "results/sweep/experiments/rates/best.json"
    profile = ["--cores", "6", "--workflow-profile", str(tmp_path)]
    done = succeed(workflow(folder, folder / "study.yaml", best, *profile, *arguments, python=python))
    return gpu_use(tmp_path / "environment"), done.stderr


def write_profile(folder, runs, runs_per_gpu):
    """profiles/gpu, changed as its comments say."""
    text = (ROOT / "profiles/gpu/profile.yaml").read_text(encoding="utf-8")
    text = re.sub("^  gpu: 1$", f"  gpu: {runs}", text, flags=re.MULTILINE)
    text = re.sub("^    runs_per_gpu: 1 ", f"    runs_per_gpu: {runs_per_gpu} ", text, flags=re.MULTILINE)
    (folder / "profile.yaml").write_text(text, encoding="utf-8")


def by_device(uses):
    return {name: [use for use in uses if use[0] == name] for name in Counter(name for name, _, _ in uses)}


@pytest.mark.slow
def test_runs_at_once_have_a_gpu_each(texts_done, tmp_path):
    write_profile(tmp_path, 2, 1)
    uses, said = train_on_fakes(texts_done, tmp_path)
    assert len(uses) == 6
    assert most_at_once(uses) == 2
    assert {name: most_at_once(used) for name, used in by_device(uses).items()} == {"cuda:0": 1, "cuda:1": 1}
    assert "there is no total" not in said


@pytest.mark.slow
def test_runs_share_a_gpu_where_the_profile_says_so(texts_done, tmp_path):
    write_profile(tmp_path, 4, 2)
    uses, _ = train_on_fakes(texts_done, tmp_path)
    assert {name: most_at_once(used) for name, used in by_device(uses).items()} == {"cuda:0": 2, "cuda:1": 2}


@pytest.mark.slow
def test_without_the_total_runs_wait_for_a_gpu_and_the_user_is_told(texts_done, tmp_path):
    write_profile(tmp_path, 2, 1)
    uses, said = train_on_fakes(texts_done, tmp_path, "--resources", "mem_mb=1000000")
    assert said.count("train: jobs ask for a gpu, but there is no total") == 1
    assert {name: most_at_once(used) for name, used in by_device(uses).items()} == {"cuda:0": 1, "cuda:1": 1}


@pytest.mark.slow
def test_without_a_gpu_the_same_command_uses_the_cpu(texts_done, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(texts_done, folder, symlinks=True)
    run = "results/sweep/runs/rates/max_lr=0.0001/seed0/summary.json"
    profile = ["--cores", "2", "--workflow-profile", str(ROOT / "profiles/gpu")]
    succeed(workflow(folder, folder / "study.yaml", run, *profile))
    device = json.loads((folder / run).read_text(encoding="utf-8"))["device"]
    assert device == device_name(find_device())


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["gpu=4", "gres=gpu:a100:4"])
def test_gpus_of_a_run_reach_its_processes(texts_done, asked):
    run = "results/sweep/runs/rates/max_lr=0.0001/seed0/summary.json"
    told = ["--cores", "2", "--set-resources", f"train:{asked}", "--dry-run", "--printshellcmds"]
    assert " --gpus 4 " in succeed(workflow(texts_done, texts_done / "study.yaml", run, *told)).stdout
