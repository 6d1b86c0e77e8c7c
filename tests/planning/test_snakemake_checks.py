"""Checks of the command line against the profiles, and their messages."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from snakemake.scheduling.job_scheduler import JobRateLimiter
from snakemake.settings.types import MaxJobsPerTimespan

from lmpipe.errors import InputError
from lmpipe.planning.plan import load_plan
from lmpipe.planning.snakemake_checks import (
    check_array_limits,
    check_interpreter,
    load_config,
    max_ready_jobs,
    missing_gpu_total_warning,
    read_study_files,
    remove_high_rate_limit,
    requested_gpus,
)
from lmpipe.planning.stages import records
from tests.support.cli_cases import STUDY
from tests.support.workflow import call_snakemake

ROOT = Path(__file__).parents[2]


def profile(name):
    return yaml.safe_load((ROOT / "profiles" / name / "profile.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["gpu", "slurm", "cluster-generic"])
def test_profile_repeats_the_default_settings(name):
    # Snakemake loads one profile of a workflow: another one takes the place of profiles/default.
    settings = {key: value for key, value in profile("default").items() if not key.startswith("__")}
    assert settings.items() <= profile(name).items()


@pytest.mark.parametrize("name", ["default", "gpu", "slurm", "cluster-generic"])
def test_word_after_configfile_is_explained_even_if_it_is_no_file(tmp_path, name):
    arguments = [
        "-n",
        "--workflow-profile",
        ROOT / "profiles" / name,
        "--configfile",
        ROOT / "config/smoke.yaml",
        "report",
    ]
    done = call_snakemake(tmp_path, *arguments, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    problem, explanation = done.stderr.splitlines()[-2:]
    assert problem.startswith("report: ") and "--configfile" in explanation


def test_missing_study_file_after_an_equals_sign_is_named(tmp_path):
    done = call_snakemake(tmp_path, "-n", "--configfile=nowhere.yaml", check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("nowhere.yaml: ")


def test_wrong_option_of_config_is_named():
    path = str(ROOT / "config/smoke.yaml")
    study = yaml.safe_load((ROOT / "config/smoke.yaml").read_text(encoding="utf-8"))
    assert load_config(study | {"seeds": [3]}, [path], {"seeds": [3]}).runs[0].seed == 3
    with pytest.raises(InputError, match=r"^--config: trainin is not a known key; did you mean training\?"):
        load_config(study | {"trainin": 3}, [path], {"trainin": 3})
    with pytest.raises(InputError, match=r"smoke.yaml: trainin"):
        load_config(study | {"trainin": 3}, [path], {})


def test_file_after_the_first_study_file_is_explained(tmp_path):
    study, target = str(ROOT / "config/smoke.yaml"), tmp_path / "tokenizer.json"
    read_study_files([study, study])
    target.write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_study_files([study, str(target)])
    problem, explanation = str(caught.value).splitlines()
    assert problem.startswith(f"{target}: ") and "--configfile" in explanation
    with pytest.raises(InputError) as caught:
        read_study_files([str(target)])
    assert "--configfile" not in str(caught.value)


def test_ready_jobs_include_each_shard():
    corpus = {"source": "stories", "documents": 100, "tokenizer": {"vocab_size": 270}, "stands_for": "TinyStories"}
    whole, sharded = (
        load_plan(STUDY | {"corpora": {"tiny": corpus | {"shards": shards}}}, "study") for shards in (1, 3)
    )
    assert max_ready_jobs(whole) == len(records(whole))
    # Two shards more to count, three to encode; the tokens are joined in place of the one job that encoded them.
    assert max_ready_jobs(sharded) == max_ready_jobs(whole) + 2 + 3


@pytest.mark.parametrize("limits", [{"--jobs": 9}, {"--jobs": None, "--max-jobs-per-timespan": 9}])
def test_limit_below_the_number_of_jobs_is_refused_with_arrays(limits):
    (option,) = [option for option, limit in limits.items() if limit]
    with pytest.raises(InputError, match=f"^{option}: is 9, fewer than the 10 jobs"):
        check_array_limits("plot_experiment", limits, 10)


@pytest.mark.parametrize(
    ("arrays", "limits"), [(None, {"--jobs": 9}), ("", {"--jobs": 9}), ("plot_experiment", {"--jobs": 10, "--x": None})]
)
def test_limit_without_arrays_or_above_the_jobs_is_accepted(arrays, limits):
    check_array_limits(arrays, limits, 10)


@pytest.mark.parametrize(("limit", "remains"), [("100/1s", False), ("10/1s", True), ("500/1m", True)])
def test_a_limit_of_started_jobs_that_no_study_meets_is_removed(limit, remains):
    scheduler = SimpleNamespace(job_rate_limiter=JobRateLimiter(MaxJobsPerTimespan.parse_choice(limit)))
    remove_high_rate_limit(scheduler)
    assert (scheduler.job_rate_limiter is not None) == remains


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
def test_requested_gpus(gpu, gres, expected):
    assert requested_gpus(gpu, gres) == expected


def test_interpreter_with_a_space_in_its_path_is_refused():
    check_interpreter("/home/me/.venv/bin/python3.11")
    with pytest.raises(InputError, match="a folder/bin/python"):
        check_interpreter("/home/me/a folder/bin/python")


@pytest.mark.parametrize(
    ("output", "status"),
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
def test_status_command_prints_a_word_of_the_plugin(tmp_path, output, status):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "{output}" >&2\nexit 1\n', encoding="utf-8")
    scontrol.chmod(0o755)
    command = [str(ROOT / "profiles/cluster-generic/status.sh"), "7"]
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True)
    assert done.stdout == f"{status}\n"
