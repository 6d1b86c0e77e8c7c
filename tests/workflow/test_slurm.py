"""A small study through a real SLURM on this machine, held against the same study made without one."""

import functools
import http.server
import re
import shlex
import shutil
import sys
import threading
import time

import pytest
import yaml

from benchmarks import slurm
from benchmarks.cluster import PROFILE, differences, outcome, through_slurm, workflow
from lmpipe.planning.plan import load_plan
from lmpipe.planning.resource_requests import train_request
from tests.support.cli_cases import STUDY
from tests.support.tiny_study import tiny_text

pytestmark = pytest.mark.slurm
RUN = "results/tiny/runs/tuned/baseline/seed0"


@pytest.fixture(scope="module")
def cluster():
    """A SLURM on this machine; stopped afterwards where it was not there before."""
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
    """A study: texts that are fetched, a shard for each; a sweep that diverges in part, and runs at its best rate."""
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


def succeed(done):
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done


@pytest.fixture(scope="module")
def finished(cluster, study, tmp_path_factory):
    """The folder where the study went through SLURM, and what Snakemake said; the report was made on the login node."""
    folder = tmp_path_factory.mktemp("a cluster") / "in a folder"
    folder.mkdir()
    said = succeed(through_slurm(folder, study, "experiments")).stderr
    succeed(workflow(folder, study, "--cores", "2"))
    return folder, said


def rules(pattern, said):
    return set(re.findall(pattern, said, re.MULTILINE))


def test_results_and_verdicts_are_those_of_one_machine(finished, study, tmp_path):
    folder, _ = finished
    succeed(workflow(tmp_path, study, "--cores", "2"))
    found = [outcome(place / "results" / "tiny") for place in (folder, tmp_path)]
    assert differences(*found) == []
    statuses = {path: value["status"] for path, value in found[0].items() if path.endswith("summary.json")}
    assert statuses["runs/sweep/max_lr=300.0/seed0/summary.json"] == "diverged"
    assert statuses["runs/tuned/no_position/seed0/summary.json"] == "finished"


def test_downloads_and_planning_stay_where_snakemake_runs(finished):
    _, said = finished
    assert rules("^localrule (.*):", said) == {"experiments", "download", "select_best"}
    assert not rules("^rule (.*):", said) & {"download", "select_best"}


def test_short_jobs_travel_as_arrays(finished):
    folder, said = finished
    assert len(re.findall(r"Submitted array job .* The individual task IDs are 1-2\.", said)) == 2
    logs = folder / "logs" / "slurm"
    assert len(list((logs / "rule_count_pretokens").glob("*_[12].log"))) == 2
    assert len(list((logs / "rule_encode_shard").glob("*_[12].log"))) == 2


def test_logs_lie_where_the_readme_says(finished):
    folder, said = finished
    assert (folder / "logs/tiny/train/tuned/baseline/seed0.log").is_file()
    assert f"(log: {folder}/logs/slurm/rule_train/" in said


def number_of_job(said, rule):
    """The number that SLURM gave to the first job of a rule."""
    return re.search(rf"SLURM jobid (\d+) \(log: .*/rule_{rule}/", said).group(1)


def asked_by_job(said, rule):
    """What SLURM's controller noted of the first job of a rule: threads, memory and time limit."""
    noted = (slurm.FOLDER / "jobs.txt").read_text()
    (line,) = [line for line in noted.splitlines() if line.startswith(f"JobId={number_of_job(said, rule)} ")]
    wanted = {"cpus": r"cpu=(\d+)", "mem_mb": r"mem=(\d+)M", "minutes": r"TimeLimit=(\d+)"}
    return {name: int(re.search(pattern, line).group(1)) for name, pattern in wanted.items()}


def test_jobs_ask_for_what_the_rules_say(finished, study):
    _, said = finished
    plan = load_plan(yaml.safe_load(study.read_text(encoding="utf-8")), "study")
    asked = train_request(plan, plan.runs_by_folder["runs/tuned/baseline/seed0"])
    assert asked_by_job(said, "train") == {"cpus": 1, "mem_mb": asked.mem_mb, "minutes": asked.runtime}
    assert asked_by_job(said, "train_bpe")["cpus"] == 4


def test_a_cancelled_training_run_on_a_gpu_is_tried_again(finished, study, tmp_path):
    """With the profile's lines for a GPU in force; this machine has none, so the run computes on the CPU."""
    folder, _ = finished
    profile = tmp_path / "profile.yaml"
    lines = (PROFILE / "profile.yaml").read_text(encoding="utf-8")
    profile.write_text(re.sub(r'^# (set-resources:|  train:|    gres: "gpu:1")', r"\1", lines, flags=re.MULTILINE))
    shutil.rmtree(folder / "results/tiny/store")
    run = f"{RUN}/summary.json"
    said = []
    call = threading.Thread(
        target=lambda: said.append(through_slurm(folder, study, run, "--forcerun", run, profile=tmp_path))
    )
    call.start()
    while not (running := slurm.output_of("squeue", "--noheader", "--states=running", "--format=%A")):
        assert call.is_alive(), said
        time.sleep(0.1)
    assert slurm.succeeds("scancel", running)
    call.join()
    assert "SLURM status is: 'CANCELLED'" in succeed(said[0]).stderr
    again = number_of_job(said[0].stderr.split("Trying to restart job")[1], "train")
    assert "TresPerNode=gres:gpu:1" in slurm.output_of("scontrol", "show", "job", again)
    assert (folder / RUN / "model.safetensors").is_file()
