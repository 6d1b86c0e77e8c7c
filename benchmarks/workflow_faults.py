"""Faults of a whole workflow: Snakemake and its children are killed, or called twice at once, in a study under way."""

import atexit
import shutil
import tempfile
from functools import cache, partial
from pathlib import Path
from random import Random

import yaml

from benchmarks.faults import Fault, LostError
from benchmarks.processes import kill_all, running, started, tail, wait_for
from benchmarks.work import Stamp, differences, finished_runs, stamps
from lmpipe.planning.estimate import distinct_runs
from lmpipe.planning.plan import Plan, load_plan
from lmpipe.planning.stages import records

ROOT = Path(__file__).parent.parent
SMOKE = ROOT / "config" / "smoke.yaml"
KILLS = 4
# A kill waits for at most such a share of the study's records: later, the study might end before it comes.
LATEST_SHARE = 0.9
# A kill comes up to so long after the share of the study that it waits for: a few jobs of the smoke study.
LATER_SECONDS = 3.0
LOG = "snakemake.log"


def command(study_file: Path) -> list[str | Path]:
    """The README's command, with a study."""
    return ["snakemake", "--snakefile", ROOT / "Snakefile", "--cores", "2", "--configfile", study_file]


def results_of(study_file: Path, folder: Path) -> Path:
    """Where a study's results lie."""
    return folder / "results" / plan_of(study_file).study.study


@cache
def plan_of(study_file: Path) -> Plan:
    """What a study resolves to."""
    return load_plan(yaml.safe_load(study_file.read_text(encoding="utf-8")), str(study_file))


@cache
def uninterrupted(study_file: Path) -> Path:
    """The results of a study that was left in peace, made once in this process and removed when it ends."""
    folder = Path(tempfile.mkdtemp(prefix="torture-study-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    finish(study_file, folder, Watch(results_of(study_file, folder)))
    return results_of(study_file, folder)


class Watch:
    """Sees to it that no finished training run is trained again."""

    def __init__(self, results: Path):
        self.results = results
        self.finished: dict[str, list[Stamp]] = {}

    def look(self) -> None:
        """Raise LostError where a run that was finished is not the same files any more."""
        finished = finished_runs(self.results)
        if changed := [digest for digest, files in self.finished.items() if finished.get(digest) != files]:
            raise LostError(f"expected runs that are trained once, found {changed} trained again or gone")
        self.finished = finished


def finish(study_file: Path, folder: Path, watch: Watch) -> None:
    """Give the command and let it end; raises LostError where it fails."""
    with started(command(study_file), folder, folder / LOG) as process:
        for _ in running(process):
            watch.look()
    watch.look()
    if process.returncode:
        raise LostError(f"expected a finished study, found exit code {process.returncode}: {tail(folder / LOG)}")


def killed_study(study_file: Path, kills: int, random: Random, folder: Path) -> str:
    """Kill a study several times, spread over its course, and each time give the same command again."""
    watch = Watch(results_of(study_file, folder))
    expected = set(records(plan_of(study_file)))
    killed = 0
    for share in sorted(random.uniform(0, LATEST_SHARE) for _ in range(kills)):
        with started(command(study_file), folder, folder / LOG) as process:
            wait_for(process, partial(is_done, watch, expected, share), random.uniform(0, LATER_SECONDS))
            killed += kill_all(process)
        watch.look()
    finish(study_file, folder, watch)
    check_whole(study_file, folder)
    return f"killed {killed} times"


def is_done(watch: Watch, records: set[str], share: float) -> bool:
    """Whether this share of a study's records of provenance is there."""
    watch.look()
    return sum((watch.results / record).exists() for record in records) >= share * len(records)


def two_calls(study_file: Path, random: Random, folder: Path) -> str:
    """Give the same command twice at once, or the second time a little later."""
    watch = Watch(results_of(study_file, folder))
    later = random.choice([0, random.uniform(0, 1), random.uniform(0, 10)])
    logs = [folder / LOG, folder / "second.log"]
    with started(command(study_file), folder, logs[0]) as first:
        wait_for(first, lambda: True, later)
        with started(command(study_file), folder, logs[1]) as second:
            for process in (first, second):
                for _ in running(process):
                    watch.look()
    for process, log in zip((first, second), logs, strict=True):
        if process.returncode:
            raise LostError(f"expected two good ends, found exit code {process.returncode}: {tail(log)}")
    watch.look()
    check_whole(study_file, folder)
    return "both ended well"


def check_whole(study_file: Path, folder: Path) -> None:
    """Raise LostError unless a study is like the one that was left in peace, and no more runs were trained for it."""
    results = results_of(study_file, folder)
    if found := differences(uninterrupted(study_file), results):
        raise LostError(f"expected the same results as without the fault, found others: {found}")
    if left := [name for name in stamps(results) if ".tmp-" in name or "/checkpoints/" in name]:
        raise LostError(f"expected no leftovers, found {left}")
    expected = len(distinct_runs(plan_of(study_file)))
    if (found := len(finished_runs(results))) != expected:
        raise LostError(f"expected {expected} trained runs, found {found}")


FAULTS = (
    Fault("killed study", 5, partial(killed_study, SMOKE, KILLS), partial(uninterrupted, SMOKE), is_limited=False),
    Fault("two calls", 10, partial(two_calls, SMOKE), partial(uninterrupted, SMOKE), is_limited=False),
)
