"""A small study through a real SLURM on this machine, compared with the same study without it."""

import functools
import http.server
import json
import re
import shlex
import shutil
import sys
import threading
import time

import pytest
import yaml

from benchmarks import slurm
from benchmarks.byte_check import differences
from benchmarks.endurance.slurm_sweep import PROFILE, run, through_slurm
from lmpipe.planning.plan import load_plan
from lmpipe.planning.resource_requests import train_request
from tests.support.cli_cases import STUDY
from tests.support.tiny_study import tiny_text

pytestmark = pytest.mark.slurm
RUN = "results/tiny/runs/tuned/baseline/seed0"
STATUSES = {"sweep/max_lr=300.0/seed0": "diverged", "tuned/no_position/seed0": "finished"}


@pytest.fixture(scope="module")
def cluster():
    """Yield a SLURM on this machine, stopped afterwards unless it was up before."""
    if reason := slurm.unavailable():
        pytest.skip(reason)
    if shlex.quote(sys.executable) != sys.executable:
        pytest.skip("Snakemake submits the path of the environment unquoted (lmpipe refuses it)")
    was_started = slurm.start()
    yield
    if was_started:
        slurm.stop()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Yield a study file with two downloaded shards, a sweep with diverged runs, and runs at its best rate."""
    folder = tmp_path_factory.mktemp("texts")
    for number in range(2):
        (folder / f"{number}.txt").write_text(tiny_text(100, number), encoding="utf-8")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    tiny = STUDY["corpora"]["tiny"] | {"files": [f"{address}/{number}.txt" for number in range(2)]}
    tuned = STUDY["experiments"]["tuned"] | {"runs": {"baseline": {}, "no_position": {"position_embedding": "none"}}}
    sweep = {"corpus": "tiny", "sweep": {"max_lr": [0.01, 300.0]}}
    path = folder / "study.yaml"
    path.write_text(
        yaml.safe_dump(STUDY | {"corpora": {"tiny": tiny}, "experiments": {"sweep": sweep, "tuned": tuned}})
    )
    yield path
    server.shutdown()


def succeed(result):
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    return result


@pytest.fixture(scope="module")
def finished(cluster, study, tmp_path_factory):
    """Return the folder of the study that ran through SLURM, with its report, and Snakemake's log."""
    folder = tmp_path_factory.mktemp("a cluster") / "in a folder"
    folder.mkdir()
    log = succeed(run(folder, study, *through_slurm("experiments"))).stderr
    succeed(run(folder, study, "--cores", "2"))
    return folder, log


def rules(pattern, log):
    return set(re.findall(pattern, log, re.MULTILINE))


def test_results_and_verdicts_are_those_of_one_machine(finished, study, tmp_path):
    succeed(run(tmp_path, study, "--cores", "2"))
    results, expected = (folder / "results/tiny" for folder in (finished[0], tmp_path))
    assert list(differences(results, expected, [])) == []
    assert verdicts(results) == verdicts(expected)
    statuses = {path: json.loads((results / "runs" / path / "summary.json").read_text())["status"] for path in STATUSES}
    assert statuses == STATUSES


def verdicts(results):
    problems = json.loads((results / "findings.json").read_text(encoding="utf-8"))["problems"]
    return {name: problem["status"] for name, problem in problems.items()}


def test_downloads_and_planning_stay_where_snakemake_runs(finished):
    _, log = finished
    assert rules("^localrule (.*):", log) == {"experiments", "download", "select_best"}
    assert not rules("^rule (.*):", log) & {"download", "select_best"}


def test_short_jobs_travel_as_arrays(finished):
    folder, log = finished
    assert len(re.findall(r"Submitted array job .* The individual task IDs are 1-2\.", log)) == 2
    logs = folder / "logs" / "slurm"
    assert len(list((logs / "rule_count_pretokens").glob("*_[12].log"))) == 2
    assert len(list((logs / "rule_encode_shard").glob("*_[12].log"))) == 2


def test_logs_lie_where_the_readme_says(finished):
    folder, log = finished
    assert (folder / "logs/tiny/train/tuned/baseline/seed0.log").is_file()
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
    expected = train_request(plan, plan.runs_by_folder["runs/tuned/baseline/seed0"])
    resources = {"cpus": 1, "mem_mb": expected.mem_mb, "minutes": expected.runtime}
    assert requested_resources(log, "train") == resources
    assert requested_resources(log, "train_bpe")["cpus"] == 4


def test_cancelled_training_job_on_a_gpu_is_resubmitted(finished, study, tmp_path):
    """The profile's lines for a GPU are in force; without a real one, the run computes on the CPU."""
    folder, _ = finished
    profile = (PROFILE / "profile.yaml").read_text(encoding="utf-8")
    profile = re.sub(r'^# (set-resources:|  train:$|    gres: "gpu:1")', r"\1", profile, flags=re.MULTILINE)
    (tmp_path / "profile.yaml").write_text(profile)
    shutil.rmtree(folder / "results/tiny/store")
    summary = f"{RUN}/summary.json"
    results = []
    arguments = through_slurm(summary, "--forcerun", summary, profile=tmp_path)
    call = threading.Thread(target=lambda: results.append(run(folder, study, *arguments)))
    call.start()
    while not (jobs := slurm.output_of("squeue", "--noheader", "--states=running", "--format=%A")):
        assert call.is_alive(), results
        time.sleep(0.1)
    assert slurm.succeeds("scancel", jobs)
    call.join()
    log = succeed(results[0]).stderr
    assert "SLURM status is: 'CANCELLED'" in log
    again = job_number(log.split("Trying to restart job")[1], "train")
    assert "TresPerNode=gres:gpu:1" in slurm.output_of("scontrol", "show", "job", again)
    assert (folder / RUN / "model.safetensors").is_file()
