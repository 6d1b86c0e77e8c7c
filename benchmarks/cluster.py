"""Whole studies through a real SLURM on this machine: `python -m benchmarks.cluster same`, or `sweep`.

`same` makes a study twice, here and through SLURM, and compares every result that must not differ. `sweep` sends a
study of many runs through SLURM with a test double in place of training (benchmarks.doubles): some runs fail, some are
preempted and some cancelled at their first attempt, and in the end every run must have been trained once and stand in
the report; it tells the time and what a job costs beyond its work. The SLURM is that of benchmarks.slurm, as root.
"""

import argparse
import csv
import hashlib
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from benchmarks import slurm
from benchmarks.doubles import FAULTS, TRAINED, WAITING, fault_of, make_environment
from lmpipe.planning.estimate import distinct_runs
from lmpipe.planning.plan import Plan, load_plan

ROOT = Path(__file__).parent.parent
PROFILE = ROOT / "profiles" / "slurm"
CALLS = "calls"
LONGEST_CALL = 1200  # seconds; a cluster that is stuck ends the work with an error
# Jobs here last seconds, not hours.
QUICK = ("--slurm-init-seconds-before-status-checks", "8", "--latency-wait", "10")
# Results that are the same bytes each time, wherever they are made.
REPEATABLE = (
    "corpora/*/*.txt",
    "tokenizers/*/vocab.json",
    "tokenizers/*/tokenizer.json",
    "tokenizers/*/merges.txt",
    "tokenizers/*/ranks.tiktoken",
    "tokens/*/*.bin",
    "runs/*/*/*/config.json",
    "runs/*/*/*/model.safetensors",
    "experiments/*/best.json",
    "samples/*.json",
    "accounting/*.json",
    "learning_rate_tuning.csv",
    "unicode.json",
)
TIMES = {"wall_seconds", "train_seconds", "tokens_per_second", "peak_memory_bytes", "environment"}


def workflow(folder: Path, study: Path, *arguments: str, python: str = sys.executable) -> subprocess.CompletedProcess:
    """Run the workflow in a folder, as a user would."""
    command = [python, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), *arguments]
    command += ["--configfile", str(study)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LONGEST_CALL)


def through_slurm(folder: Path, study: Path, *arguments: str, profile: Path = PROFILE) -> subprocess.CompletedProcess:
    """Run the workflow in a folder through SLURM; a profile's own times for jobs of hours are cut short."""
    return workflow(folder, study, "--workflow-profile", str(profile), *QUICK, *arguments)


def outcome(results: Path) -> dict[str, Any]:
    """What a study came to, without its times: checksums, metrics and summaries by path, and each problem's status."""
    paths = [path for pattern in REPEATABLE for path in sorted(results.glob(pattern)) if "provenance" not in path.name]
    found: dict[str, Any] = {str(path.relative_to(results)): checksum(path) for path in paths}
    for path in results.glob("runs/*/*/*/metrics.csv"):
        with open(path, encoding="utf-8", newline="") as file:
            found[str(path.relative_to(results))] = list(map(without_times, csv.DictReader(file)))
    for path in results.glob("runs/*/*/*/summary.json"):
        found[str(path.relative_to(results))] = without_times(json.loads(path.read_text(encoding="utf-8")))
    problems = json.loads((results / "findings.json").read_text(encoding="utf-8"))["problems"]
    return found | {f"findings.json: {name}": finding["status"] for name, finding in problems.items()}


def checksum(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def without_times(values: dict[str, Any]) -> dict[str, Any]:
    """The entries that do not depend on when and where they came about."""
    return {name: value for name, value in values.items() if name not in TIMES}


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """The names under which two outcomes differ, or that only one of them has."""
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def same(study: Path) -> int:
    """Make a study here and through SLURM, and compare; the exit code."""
    name = yaml.safe_load(study.read_text(encoding="utf-8"))["study"]
    with tempfile.TemporaryDirectory() as folder:
        outcomes = []
        for where, run in (("here", lambda *given: workflow(*given, "--cores", "2")), ("SLURM", through_slurm)):
            place = Path(folder) / where
            place.mkdir()
            started = time.monotonic()
            done = run(place, study.absolute())
            print(f"{where}: {time.monotonic() - started:.0f} s, exit code {done.returncode}", flush=True)
            if done.returncode:
                print(done.stderr[-5000:])
                return 1
            outcomes.append(outcome(place / "results" / name))
    different = differences(*outcomes)
    print(f"{len(outcomes[0])} results compared, {len(different)} differ", *different, sep="\n")
    return int(bool(different))


# --- a sweep of many runs ---------------------------------------------------------------------------------------------


def sweep_study(runs: int) -> dict[str, Any]:
    """A study of about so many short runs on a corpus in shards: a sweep of rates, and experiments at the best one."""
    rates = [float(f"{0.0001 * 1.7**step:.3g}") for step in range(max(2, runs // 15))]
    seeds = list(range(5))
    experiments: dict[str, Any] = {"rates": {"corpus": "stories", "sweep": {"max_lr": rates}}}
    for number in range(1, 1 + (runs - len(rates) * len(seeds)) // 10):
        changed = {name: {"weight_decay": decay} for name, decay in (("less", 0.1 / 2**number), ("more", 0.1 + number))}
        experiments[f"decay_{number}"] = {"corpus": "stories", "max_lr": {"best_of": "rates"}, "runs": changed}
    model = {"context_length": 32, "d_model": 16, "d_ff": 48, "num_layers": 1, "num_heads": 2}
    return {
        "study": "sweep",
        "seeds": seeds,
        "corpora": {
            "stories": {
                "source": "stories",
                "documents": 1000,
                "shards": 8,
                "tokenizer": {"vocab_size": 300},
                "stands_for": "TinyStories",
            }
        },
        "model": model,
        "training": {"total_tokens": 2560, "batch_size": 8, "max_lr": 0.01, "num_evaluations": 2, "eval_tokens": 512},
        "experiments": experiments,
        "accounting": {
            "models": {f"layers_{layers}": model | {"num_layers": layers, "vocab_size": 300} for layers in range(1, 7)},
            "device_memory_gb": 80,
        },
    }


def take_jobs_away(waiting: Path, process: subprocess.Popen) -> Counter:
    """While a process runs, preempt and cancel the jobs that wait for it; how many of each."""
    done: Counter = Counter()
    while process.poll() is None:
        for path in waiting.iterdir():
            fault = path.read_text().strip()
            command = ["scontrol", "requeue"] if fault == "preempt" else ["scancel"]
            if fault and slurm.succeeds(*command, path.name):
                done[fault] += 1
                path.unlink()
        time.sleep(0.5)
    return done


def sweep(runs: int, folder: Path) -> int:
    """Send a study of so many runs through SLURM with training's double, and say how it went; the exit code.

    A call that is interrupted cancels its jobs, and the next one with the same folder goes on.
    """
    settings = sweep_study(runs)
    environment, place = folder / "environment", folder / "study"
    if not place.exists():
        make_environment(environment, FAULTS)
        place.mkdir()
        (place / "study.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    python = str(environment / "bin" / "python")
    command = [python, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--workflow-profile", str(PROFILE)]
    command += [*QUICK, "--configfile", "study.yaml"]
    started = time.monotonic()
    # A shell may have had it ignored, which the child would inherit: then nothing would end it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(place / "said", "ab") as said:
        # In a session of its own, so that an interrupt reaches it once.
        process = subprocess.Popen(command, cwd=place, stdout=said, stderr=said, start_new_session=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: process.send_signal(signal.SIGINT))
        taken = take_jobs_away(environment / WAITING, process)
    call = {"seconds": time.monotonic() - started, **taken}
    with open(folder / CALLS, "a", encoding="utf-8") as file:
        file.write(json.dumps(call) + "\n")
    if process.returncode:
        print(*(place / "said").read_text(encoding="utf-8", errors="replace").splitlines()[-30:], sep="\n")
        return 1
    return judge(load_plan(settings, "the sweep"), folder)


def judge(plan: Plan, folder: Path) -> int:
    """Print what came of a sweep; the exit code says whether all of it held."""
    results, said = (
        folder / "study/results/sweep",
        (folder / "study/said").read_text(encoding="utf-8", errors="replace"),
    )
    calls = [json.loads(line) for line in (folder / CALLS).read_text(encoding="utf-8").splitlines()]
    trained = Counter((folder / "environment" / TRAINED).read_text(encoding="utf-8").split())
    problems = json.loads((results / "findings.json").read_text(encoding="utf-8"))["problems"]
    logged = sum(len(table["rows"]) for table in problems["experiment_log"]["tables"])
    arrays = re.findall(r"Submitted array job with Snakemake IDs ([0-9,]+)", said)
    spent = completed_jobs(said)
    worked = [seconds_of_work(path) for path in (results / "benchmarks").rglob("*.tsv")]
    figures = {
        "runs in the study": len(plan.runs_by_folder),
        "of them in the report's table": logged,
        "different runs": len(distinct_runs(plan)),
        "of them trained": len(trained),
        "of them trained twice": sum(times > 1 for times in trained.values()),
        "calls of snakemake": len(calls),
        "seconds in all": round(sum(call["seconds"] for call in calls)),
        "jobs that SLURM completed": len(spent),
        "jobs that travelled in arrays": f"{sum(ids.count(',') + 1 for ids in arrays)} ({len(arrays)} arrays)",
        "jobs submitted again": said.count("Trying to restart job"),
        "runs that failed at first": sum(fault_of(digest, FAULTS) == "fail" for digest in trained),
        "jobs preempted": sum(call.get("preempt", 0) for call in calls),
        "jobs cancelled": sum(call.get("cancel", 0) for call in calls),
        "median seconds of a job from start to end": round(statistics.median(spent), 1),
        "median seconds of its command": round(statistics.median(worked), 1),
    }
    for name, figure in figures.items():
        print(f"{name:45}{figure}")
    held = (
        logged == len(plan.runs_by_folder)
        and len(trained) == len(distinct_runs(plan))
        and set(trained.values()) == {1}
        and (results / "report.html").exists()
    )
    print("all held" if held else "NOT all held")
    return int(not held)


def completed_jobs(said: str) -> list[float]:
    """How many seconds each job of some calls took from start to end, as SLURM's controller noted them."""
    names = set(re.findall(r"SLURM run ID: (\S+)", said))
    noted = (slurm.FOLDER / "jobs.txt").read_text(encoding="utf-8").splitlines()
    jobs = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in noted]
    return [
        (datetime.fromisoformat(job["EndTime"]) - datetime.fromisoformat(job["StartTime"])).total_seconds()
        for job in jobs
        if job["Name"] in names and job["JobState"] == "COMPLETED"
    ]


def seconds_of_work(benchmark: Path) -> float:
    """How many seconds a job's command took, as Snakemake measured it."""
    with open(benchmark, encoding="utf-8", newline="") as file:
        return float(next(csv.DictReader(file, delimiter="\t"))["s"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Start SLURM where it is not up, do what is asked, and stop it if it was started; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    actions = parser.add_subparsers(dest="action", required=True)
    comparing = actions.add_parser("same", help="make a study here and through SLURM, and compare")
    comparing.add_argument("--study", type=Path, default=ROOT / "config" / "smoke.yaml")
    sweeping = actions.add_parser("sweep", help="a study of many runs, with a test double in place of training")
    sweeping.add_argument("--runs", type=int, default=300, help="about how many runs (default 300)")
    sweeping.add_argument("--folder", type=Path, default=Path("results/bench-cluster"), help="one begun there goes on")
    given = parser.parse_args(arguments)
    try:
        was_started = slurm.start()
    except slurm.SlurmError as error:
        sys.exit(f"benchmarks.cluster: {error}")
    try:
        if given.action == "same":
            return same(given.study)
        return sweep(given.runs, given.folder.absolute())
    finally:
        if was_started:
            slurm.stop()


if __name__ == "__main__":
    sys.exit(main())
