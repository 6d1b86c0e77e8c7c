"""A study of many runs through a real SLURM on this machine: `python -m benchmarks.endurance.slurm_sweep`.

Training is fake: some runs fail, are preempted or are cancelled at their first attempt. In the end every run must have
been trained once and be in the report; the table shows times and the cost of a job beyond its command. Needs root and
SLURM's packages (benchmarks.slurm); tests/workflow/test_slurm.py compares a small study with one of this machine.
"""

import argparse
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from benchmarks import slurm
from benchmarks.endurance.fake_training import FAULTS, TRAINED, WAITING, fault_of, make_environment
from benchmarks.endurance.processes import ROOT, snakemake
from lmpipe.planning.estimate import distinct_runs
from lmpipe.planning.plan import Plan, load_plan

PROFILE = ROOT / "profiles" / "slurm"
STUDY_FILE, LOG, CALLS = "study.yaml", "snakemake.log", "calls.jsonl"
MAX_CALL_SECONDS = 1200  # a call that waits longer for a stuck cluster fails
# The profile's are for jobs of hours. The second check comes 10 s after the first one: most of these jobs have ended.
SHORT_JOBS = ("--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10")


def through_slurm(*arguments: str, profile: Path = PROFILE) -> list[str]:
    """Return the arguments that send a workflow through SLURM."""
    return ["--workflow-profile", str(profile), *SHORT_JOBS, *arguments]


def run(folder: Path, study: Path, *arguments: str, python: str = sys.executable) -> subprocess.CompletedProcess:
    """Run a study's workflow in a folder."""
    call = [python, "-m", *snakemake(study, *arguments)]
    return subprocess.run(call, cwd=folder, capture_output=True, text=True, timeout=MAX_CALL_SECONDS)


def sweep_study(runs: int) -> dict[str, Any]:
    """Return sweep.yaml with about `runs` runs: a sweep of learning rates, and experiments at the best of them."""
    study = yaml.safe_load(Path(__file__).with_name("sweep.yaml").read_text(encoding="utf-8"))
    rates = [float(f"{0.0001 * 1.7**step:.3g}") for step in range(max(2, runs // 15))]
    study["experiments"]["rates"]["sweep"]["max_lr"] = rates
    for number in range(1, 1 + (runs - len(rates) * len(study["seeds"])) // 10):
        decays = {"less": {"weight_decay": 0.1 / 2**number}, "more": {"weight_decay": 0.1 + number}}
        study["experiments"][f"decay_{number}"] = {"corpus": "stories", "max_lr": {"best_of": "rates"}, "runs": decays}
    return study


def remove_waiting_jobs(waiting: Path, process: subprocess.Popen) -> Counter[str]:
    """Preempt and cancel the jobs that wait for it until the process ends; return the number of each."""
    removed: Counter[str] = Counter()
    while process.poll() is None:
        for path in waiting.iterdir():
            fault = path.read_text().strip()
            removal = ["scontrol", "requeue"] if fault == "preempt" else ["scancel"]
            if fault and slurm.succeeds(*removal, path.name):
                removed[fault] += 1
                path.unlink()
        time.sleep(0.5)
    return removed


def sweep(runs: int, folder: Path) -> int:
    """Send a study of about `runs` runs through SLURM with fake training and print a table; return the exit code.

    An interrupted call cancels its jobs; the next call with the same folder continues.
    """
    environment, study_folder, settings = folder / "environment", folder / "study", sweep_study(runs)
    if not study_folder.exists():
        make_environment(environment, FAULTS)
        study_folder.mkdir()
        (study_folder / STUDY_FILE).write_text(yaml.safe_dump(settings), encoding="utf-8")
    call = [str(environment / "bin" / "python"), "-m", *snakemake(STUDY_FILE, *through_slurm())]
    start = time.monotonic()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a child would inherit that a shell ignores SIGINT
    with open(study_folder / LOG, "ab") as log:
        # A new session: an interrupt of the terminal reaches it once, from here.
        process = subprocess.Popen(call, cwd=study_folder, stdout=log, stderr=log, start_new_session=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: process.send_signal(signal.SIGINT))
        removed = remove_waiting_jobs(environment / WAITING, process)
    with open(folder / CALLS, "a", encoding="utf-8") as file:
        file.write(json.dumps({"seconds": time.monotonic() - start, "preempt": 0, "cancel": 0, **removed}) + "\n")
    if process.returncode:
        print(*(study_folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()[-30:], sep="\n")
        return 1
    return check_sweep(load_plan(settings, "the sweep"), folder)


def check_sweep(plan: Plan, folder: Path) -> int:
    """Print the table of a finished sweep; return 1 unless every run was trained once and is in the report."""
    results, log = folder / "study/results/sweep", (folder / "study" / LOG).read_text("utf-8", errors="replace")
    calls = pd.read_json(folder / CALLS, lines=True)
    trained = Counter((folder / "environment" / TRAINED).read_text(encoding="utf-8").split())
    problems = json.loads((results / "findings.json").read_text(encoding="utf-8"))["problems"]
    reported = sum(len(table["rows"]) for table in problems["experiment_log"]["tables"])
    arrays = re.findall(r"Submitted array job with Snakemake IDs ([0-9,]+)", log)
    lines = (slurm.FOLDER / "jobs.txt").read_text(encoding="utf-8").splitlines()  # of SLURM's controller
    jobs = pd.DataFrame(dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines)
    jobs = jobs[jobs["Name"].isin(re.findall(r"SLURM run ID: (\S+)", log)) & (jobs["JobState"] == "COMPLETED")]
    job_seconds = (pd.to_datetime(jobs["EndTime"]) - pd.to_datetime(jobs["StartTime"])).dt.total_seconds()
    command_seconds = pd.concat([pd.read_csv(path, sep="\t")["s"] for path in (results / "benchmarks").rglob("*.tsv")])
    planned, distinct = len(plan.runs_by_folder), len(distinct_runs(plan))
    rows = {
        "runs in the study": planned,
        "of them in the report's table": reported,
        "distinct runs": distinct,
        "of them trained": len(trained),
        "of them trained twice": sum(times > 1 for times in trained.values()),
        "calls of snakemake": len(calls),
        "seconds in all": round(calls["seconds"].sum()),
        "jobs that SLURM completed": len(job_seconds),
        "jobs in arrays": f"{sum(ids.count(',') + 1 for ids in arrays)} ({len(arrays)} arrays)",
        "jobs submitted again": log.count("Trying to restart job"),
        "runs that failed at first": sum(fault_of(digest, FAULTS) == "fail" for digest in trained),
        "jobs preempted": calls["preempt"].sum(),
        "jobs cancelled": calls["cancel"].sum(),
        "median seconds of a job": round(job_seconds.median(), 1),
        "median seconds of its command": round(command_seconds.median(), 1),
    }
    print("\n".join(f"{name:45}{value}" for name, value in rows.items()))
    is_complete = reported == planned and len(trained) == distinct and (results / "report.html").exists()
    print("every run was trained once and is in the report" if is_complete else "LOST: a run is missing")
    return int(not is_complete or set(trained.values()) != {1})


def main() -> int:
    """Run the sweep on SLURM, which is started and stopped unless it is up; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=300, help="approximate number of runs (default 300)")
    folder_help = "an interrupted sweep continues there (default results/slurm-sweep)"
    parser.add_argument("--folder", type=Path, default=Path("results/slurm-sweep"), help=folder_help)
    args = parser.parse_args()
    try:
        was_started = slurm.start()
    except slurm.SlurmError as error:
        sys.exit(f"benchmarks.endurance.slurm_sweep: {error}")
    try:
        return sweep(args.runs, args.folder.absolute())
    finally:
        if was_started:
            slurm.stop()


if __name__ == "__main__":
    sys.exit(main())
