"""A small study through a real SLURM on this machine, one job of which is cancelled."""

import functools
import http.server
import re
import shlex
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from benchmarks import slurm
from benchmarks.byte_check import differences
from benchmarks.endurance.slurm_sweep import PROFILE, through_slurm
from lmpipe.planning.plan import load_plan
from lmpipe.planning.resource_requests import train_request
from lmpipe.training.interruption import JOB_START
from tests.support.cli_cases import STUDY, make_by_hand
from tests.support.tiny_study import make_tiny_study, tiny_run, tiny_text
from tests.support.training_runs import assert_same_result, program, summary_of, train_uninterrupted
from tests.support.work import planned_jobs
from tests.support.workflow import call_snakemake

pytestmark = pytest.mark.slurm
RUNS = "results/tiny/runs"
TARGET = f"{RUNS}/tuned/no_position/seed0/summary.json"
ON_THE_CLUSTER = {"make_corpus", "count_pretokens", "train_bpe", "encode_corpus", "encode_shard", "concat_tokens"}
ON_THE_CLUSTER |= {"train"}


def study_of(files):
    """Return a study of two files, with a sweep of one rate and a run at the best one."""
    tuned = STUDY["experiments"]["tuned"] | {"runs": {"no_position": {"position_embedding": "none"}}}
    sweep = {"corpus": "tiny", "sweep": {"max_lr": [0.01]}}
    corpora = {"tiny": STUDY["corpora"]["tiny"] | {"files": files, "shards": 2}}
    return STUDY | {"corpora": corpora, "experiments": {"sweep": sweep, "tuned": tuned}}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Return a folder with the two files."""
    folder = tmp_path_factory.mktemp("texts")
    for number in range(2):
        (folder / f"{number}.txt").write_text(tiny_text(100, number), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def study(texts):
    """Yield the file of the study, whose texts are downloaded."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=texts)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        path = texts / "study.yaml"
        path.write_text(yaml.safe_dump(study_of([f"http://127.0.0.1:{server.server_port}/{n}.txt" for n in range(2)])))
        yield path
        server.shutdown()


@pytest.fixture(scope="module")
def cluster():
    """Yield a SLURM on this machine, stopped afterwards unless it was up before."""
    if reason := slurm.unavailable():
        pytest.skip(reason)
    if shlex.quote(sys.executable) != sys.executable:
        pytest.skip("Snakemake submits the path of the environment unquoted (lmpipe refuses it)")
    was_started = slurm.start(slurm.Cluster(cpus=8))  # two shards and another text are encoded at once
    yield
    if was_started:
        slurm.stop()


@pytest.fixture(scope="module")
def finished(cluster, study, tmp_path_factory):
    """Return the folder of the study that ran through SLURM, and Snakemake's log; a training job was cancelled.

    The profile's lines for a GPU are in force; without a real one, the runs compute on the CPU.
    """
    folder, profile = tmp_path_factory.mktemp("a cluster") / "in a folder", tmp_path_factory.mktemp("profile")
    folder.mkdir()
    text = (PROFILE / "profile.yaml").read_text(encoding="utf-8")
    text = re.sub(r'^# (set-resources:|  train:$|    gres: "gpu:1")', r"\1", text, flags=re.MULTILINE)
    (profile / "profile.yaml").write_text(text, encoding="utf-8")
    with ThreadPoolExecutor() as pool:
        arguments = [*through_slurm(TARGET, profile=profile), "--configfile", study]
        options = {"cores": None, "check": False, "prepare": check_jobs_often}
        call = pool.submit(call_snakemake, folder, *arguments, **options)
        while not (jobs := running_trainings()):
            assert not call.done(), call.result()
            time.sleep(0.2)
        assert slurm.succeeds("scancel", jobs[0])
        result = call.result()
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    return folder, result.stderr


def check_jobs_often():
    """Let Snakemake look for ended jobs every second; while none ends, its plugin waits for 2, 12, 22, ... seconds."""
    from snakemake_executor_plugin_slurm import Executor

    Executor.next_seconds_between_status_checks = property(lambda _: 1, lambda *_: None)


def running_trainings():
    """Return the numbers of the running jobs of rule train."""
    jobs = slurm.output_of("squeue", "--noheader", "--states=running", "--format=%A %k")
    return re.findall(r"^(\d+) rule_train_wildcards_", jobs, re.MULTILINE)


def rules(pattern, log):
    return set(re.findall(pattern, log, re.MULTILINE))


def test_results_are_those_of_the_commands_by_hand(finished, study, tmp_path, texts):
    """One machine finishes what the cluster began: only the samples are left to be made."""
    folder, _ = finished
    rest = call_snakemake(folder, "samples", "--configfile", study).stderr
    assert planned_jobs(rest) == {"generate": 1, "samples": 1}
    expected = make_by_hand(study_of([f"{texts}/{number}.txt" for number in range(2)]), tmp_path)
    assert list(differences(folder / "results/tiny", expected, [])) == []


def test_downloads_and_planning_stay_where_snakemake_runs(finished):
    _, log = finished
    assert rules("^localrule (.*):", log) == {"download", "select_best"}
    assert rules("^rule (.*):", log) == ON_THE_CLUSTER


def test_short_jobs_travel_as_arrays(finished):
    folder, log = finished
    assert len(re.findall(r"Submitted array job .* The individual task IDs are 1-2\.", log)) == 2
    logs = folder / "logs" / "slurm"
    assert len(list((logs / "rule_count_pretokens").glob("*_[12].log"))) == 2
    assert len(list((logs / "rule_encode_shard").glob("*_[12].log"))) == 2


def test_logs_lie_where_the_readme_says(finished):
    folder, log = finished
    assert (folder / "logs/tiny/train/tuned/no_position/seed0.log").is_file()
    assert f"(log: {folder}/logs/slurm/rule_train/" in log


def job_number(log, rule):
    """Return the number of the first SLURM job of a rule."""
    return re.search(rf"SLURM jobid (\d+) \(log: .*/rule_{rule}/", log).group(1)


def requested_resources(log, rule):
    """Threads, memory and time limit of the first job of a rule, as SLURM's controller recorded them."""
    jobs = (slurm.FOLDER / "jobs.txt").read_text().splitlines()
    (line,) = [line for line in jobs if line.startswith(f"JobId={job_number(log, rule)} ")]
    patterns = {"cpus": r"cpu=(\d+)", "mem_mb": r"mem=(\d+)M", "minutes": r"TimeLimit=(\d+)"}
    return {name: int(re.search(pattern, line).group(1)) for name, pattern in patterns.items()}


def test_jobs_request_what_the_rules_say(finished, study):
    _, log = finished
    plan = load_plan(yaml.safe_load(study.read_text(encoding="utf-8")), "study")
    expected = train_request(plan, plan.runs_by_folder["runs/sweep/max_lr=0.01/seed0"])
    resources = {"cpus": 1, "mem_mb": expected.mem_mb, "minutes": expected.runtime}
    assert requested_resources(log, "train") == resources
    assert requested_resources(log, "train_bpe")["cpus"] == 4


def test_cancelled_training_job_on_a_gpu_is_resubmitted(finished):
    _, log = finished
    assert "SLURM status is: 'CANCELLED'" in log
    again = job_number(log.split("Trying to restart job")[1], "train")
    assert "TresPerNode=gres:gpu:1" in slurm.output_of("scontrol", "show", "job", again)


def test_training_job_that_meets_its_limit_is_queued_again(cluster, tmp_path, monkeypatch):
    """With the same number, so that Snakemake sees no failure; the run ends in the same bytes."""
    monkeypatch.chdir(tmp_path)
    run, study = tiny_run(total_tokens=64 * 30), make_tiny_study(tmp_path / "study")
    expected, script = train_uninterrupted(run), tmp_path / "job.sh"
    command = shlex.join(program(run, study, study / "run", time_limit=1))
    first = f'[ "$SLURM_RESTART_COUNT" ] || export {JOB_START}=$(($(date +%s) - 59))'
    script.write_text(f"#!/bin/sh\n{first}\n{command}\n")
    limits = ["--requeue", "--time=10", "--mem=1000", f"--output={tmp_path}/job.log"]
    number = slurm.output_of("sbatch", "--parsable", *limits, str(script))
    is_hastened = False
    while (state := job_field(number, "JobState")) in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING"):
        if job_field(number, "Reason") == "BeginTime" and not is_hastened:
            # SLURM waits for half a minute. A start in the second of the requeue fails: "Job credential revoked".
            is_hastened = slurm.succeeds("scontrol", "update", f"JobId={number}", "StartTime=now+2")
        time.sleep(0.2)
    assert (state, job_field(number, "Restarts")) == ("COMPLETED", "1"), (tmp_path / "job.log").read_text()
    assert summary_of(study / "run")["num_resumes"] == 1
    assert_same_result(study / "run", expected)


def job_field(number, name):
    """Return a field of a job."""
    shown = slurm.output_of("scontrol", "--oneliner", "show", "job", number)
    return re.search(rf"\b{name}=(\S*)", shown).group(1)
