"""Fault of a whole study: Snakemake and its jobs are killed at random moments (two calls at once: tests/workflow)."""

from functools import cache, partial
from pathlib import Path
from random import Random

from benchmarks.byte_check import differences
from benchmarks.endurance.faults import Fault, LossError
from benchmarks.endurance.processes import ROOT, finish, kill_all, snakemake, start, temp_folder, wait_until
from lmpipe.planning.estimate import distinct_runs
from lmpipe.planning.plan import read_plan
from lmpipe.study.paths import METRICS, SUMMARY, WEIGHTS

SMOKE = ROOT / "config" / "smoke.yaml"
KILLS = 4
MAX_FRACTION = 0.9  # of the study's results that a kill waits for: later, the study might end first
MAX_DELAY_SECONDS = 3.0  # of a kill after that: a few jobs of the smoke study
CORES, LOG = ("--cores", "2"), "snakemake.log"
Stamp = tuple[int, int]  # inode and modification time in ns: a replaced file differs in at least one


def results_folder(study_file: Path, folder: Path) -> Path:
    """Results folder of a study that runs in `folder`."""
    return folder / "results" / read_plan(study_file).study.study


@cache
def undisturbed(study_file: Path) -> Path:
    """Results of the study without any fault, made once in this process."""
    folder = temp_folder()
    finish(snakemake(study_file, *CORES), folder, folder / LOG, StoreWatch(results_folder(study_file, folder)).check)
    return results_folder(study_file, folder)


class StoreWatch:
    """Checks that no finished training run is trained again: its files in the store stay the same."""

    def __init__(self, results: Path):
        self.results = results
        self.finished: dict[str, list[Stamp]] = {}

    def check(self) -> None:
        """Raise LossError if a run that was finished has other files now."""
        finished = finished_runs(self.results)
        if changed := [digest for digest, files in self.finished.items() if finished.get(digest) != files]:
            raise LossError(f"finished runs were trained again or are gone: {changed}")
        self.finished = finished


def finished_runs(results: Path) -> dict[str, list[Stamp]]:
    """Stamps of the files of every finished run in the store, by digest."""
    runs = {}
    for run in results.glob("store/*"):
        files = [run / name for name in (SUMMARY, METRICS, WEIGHTS)]
        if all(file.is_file() for file in files):
            runs[run.name] = [(file.stat().st_ino, file.stat().st_mtime_ns) for file in files]
    return runs


def killed_study(study_file: Path, kills: int, random: Random, folder: Path) -> str:
    """Kill a study `kills` times, spread over its course; give the same command again each time."""
    results, total = results_folder(study_file, folder), count_results(undisturbed(study_file))
    watch, killed = StoreWatch(results), 0
    for fraction in sorted(random.uniform(0, MAX_FRACTION) for _ in range(kills)):

        def is_far_enough(fraction: float = fraction) -> bool:
            watch.check()
            return count_results(results) >= fraction * total

        with start(snakemake(study_file, *CORES), folder, folder / LOG) as process:
            wait_until(process, is_far_enough, random.uniform(0, MAX_DELAY_SECONDS))
            killed += kill_all(process)
        watch.check()
    finish(snakemake(study_file, *CORES), folder, folder / LOG, watch.check)
    check_results(study_file, folder)
    return f"killed {killed} times"


def count_results(results: Path) -> int:
    """Return the number of provenance records, one for each finished job."""
    return len(list(results.rglob("*provenance.json")))


def check_results(study_file: Path, folder: Path) -> None:
    """Raise LossError unless the results equal the undisturbed ones and each distinct run was trained once."""
    results = results_folder(study_file, folder)
    if different := list(differences(undisturbed(study_file), results, [])):
        raise LossError(f"results differ: {different}")
    if leftovers := [path for path in results.rglob("*") if ".tmp-" in path.name or path.name == "checkpoints"]:
        raise LossError(f"leftovers: {leftovers}")
    trained, expected = len(finished_runs(results)), len(distinct_runs(read_plan(study_file)))
    if trained != expected:
        raise LossError(f"{trained} runs were trained, of {expected} distinct ones")


FAULTS = (Fault("killed study", 5, partial(killed_study, SMOKE, KILLS), partial(undisturbed, SMOKE), is_limited=False),)
