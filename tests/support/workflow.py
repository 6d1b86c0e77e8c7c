"""Calls of Snakemake, and clones of the project that may be edited.

A call is forked from a server that has loaded Snakemake, which takes longer than most plans.
"""

import os
import re
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from shutil import copy2, copytree, ignore_patterns
from typing import Any

import yaml

from tests.support.forked import ForkedProcess

ROOT = Path(__file__).parents[2]
SMOKE = Path("config/smoke.yaml")
PROJECT = ("Snakefile", "config", "profiles", "src", "workflow")
# Edits of a clone's code: what takes seconds, and does not matter in a test of the workflow.
SHORTER = (
    ("src/lmpipe/training/profiling.py", "MATMUL_SECONDS = [0-9.]+", "MATMUL_SECONDS = 0"),
    ("src/lmpipe/training/profiling.py", '"cpu": 1024', '"cpu": 64'),
    ("src/lmpipe/training/profiling.py", "MIN_TIMED_SECONDS = [0-9.]+", "MIN_TIMED_SECONDS = 0"),
    ("src/lmpipe/model/torch_counts.py", r", count_with_torch\(config\)", ", expected_counts(config)"),
)


def call_snakemake(
    folder: Path,
    *arguments: str | Path,
    project: Path = ROOT,
    cores: int | None = 2,
    check: bool = True,
    prepare: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `snakemake ARGUMENTS` in a folder with the workflow and the code of a project.

    `prepare` is called in the process before.
    """
    command = ["--snakefile", str(project / "Snakefile"), *map(str, arguments)]
    command += ["--cores", str(cores)] if cores else []
    return call_module("snakemake", command, folder, project, check, prepare)


def call_module(
    module: str,
    arguments: Sequence[str],
    folder: Path,
    project: Path = ROOT,
    check: bool = True,
    prepare: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE ARGUMENTS` in a folder with the code of a project.

    The environment is not activated: rules must find the lmpipe that belongs to this Python all the same.
    """
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    environment |= {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(project / "src")}
    with tempfile.TemporaryDirectory() as outputs:
        paths = [Path(outputs, name) for name in ("stdout", "stderr")]
        code = ForkedProcess(run_module, module, arguments, folder, environment, paths, prepare).wait()
        stdout, stderr = (path.read_text(encoding="utf-8") for path in paths)
    assert code == 0 or not check, stdout[-3000:] + stderr[-6000:]
    return subprocess.CompletedProcess(arguments, code, stdout, stderr)


def run_module(
    module: str,
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    outputs: Sequence[Path],
    prepare: Callable[[], None] | None,
) -> None:
    """Become `python -m MODULE ARGUMENTS` in a forked process, which writes stdout and stderr to files."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    # The project may be a clone with other code.
    for name in [name for name in sys.modules if name.partition(".")[0] == "lmpipe"]:
        del sys.modules[name]
    sys.path.insert(0, environment["PYTHONPATH"])
    sys.argv[1:] = arguments
    if prepare:
        prepare()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class Clone:
    """A clone of the project with its own code, in which the smoke study is carried out."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.results = folder / "results/smoke"

    @classmethod
    def of_project(cls, folder: Path) -> "Clone":
        """Return a new clone, in which measurements are short."""
        for name in PROJECT:
            if (ROOT / name).is_dir():
                copytree(ROOT / name, folder / name, ignore=ignore_patterns("__pycache__", "*.egg-info"))
            else:
                copy2(ROOT / name, folder / name)
        clone = cls(folder)
        for edit in SHORTER:
            clone.edit(*edit)
        return clone

    def copy(self, folder: Path) -> "Clone":
        """Return a copy of this clone, with the times of its files."""
        copytree(self.folder, folder)
        return Clone(folder)

    def study(self) -> dict[str, Any]:
        """Return the smoke study, to be changed."""
        return yaml.safe_load((self.folder / SMOKE).read_text(encoding="utf-8"))

    def write(self, study: dict[str, Any], path: Path = SMOKE) -> None:
        """Write a study file of the clone."""
        (self.folder / path).write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")

    def edit(self, path: str, pattern: str, replacement: str) -> None:
        """Replace the first match of a pattern in a file of the clone."""
        file = self.folder / path
        text, num_edits = re.subn(pattern, replacement, file.read_text(encoding="utf-8"), count=1)
        assert num_edits, pattern
        file.write_text(text, encoding="utf-8")

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `lmpipe run` on the study."""
        return call_module("lmpipe.cli.main", ["run", str(SMOKE), *words], self.folder, self.folder, **options)

    def snakemake(self, *arguments: str, study: Path = SMOKE, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the README's command with more arguments."""
        return call_snakemake(self.folder, *arguments, "--configfile", study, project=self.folder, **options)


def finish_after_a_kill(folder: Path) -> None:
    """Make a clone in a folder, kill its study at a random moment, and then call it twice at once."""
    from benchmarks.endurance.killed_studies import StoreWatch, count_results
    from benchmarks.endurance.processes import kill_all, poll, start, wait_until
    from lmpipe.planning.plan import load_plan
    from lmpipe.planning.stages import records

    clone = Clone.of_project(folder)
    watch, logs = StoreWatch(clone.results), [folder / f"{name}.log" for name in ("first", "second")]
    command = ["snakemake", "--cores", "2", "--configfile", str(SMOKE)]
    call = partial(start, command, folder, environment=os.environ | {"PYTHONPATH": str(folder / "src")})
    results = Random(os.urandom(8)).randrange(round(0.9 * len(records(load_plan(clone.study(), "smoke")))))
    with call(folder / "killed.log") as process:
        wait_until(process, lambda: count_results(clone.results) >= results, 0.5)
        assert kill_all(process), f"the study ended before {results} results were counted"
    watch.check()
    with call(logs[0]) as first, call(logs[1]) as second:
        for process in (first, second):
            for _ in poll(process):
                watch.check()
    assert [first.returncode, second.returncode] == [0, 0], [log.read_text(encoding="utf-8") for log in logs]
