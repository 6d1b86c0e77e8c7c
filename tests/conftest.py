"""Fixtures that several test modules share.

They import what they need themselves: pytest-xdist's controller, which runs no test, starts three seconds earlier.
"""

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from lmpipe.io.files import file_lock

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from lmpipe.analysis.results import Results
    from tests.support.workflow import Clone

# Tests end processes, and never the machine: their files need not reach the disk.
os.fsync = lambda descriptor: None
# Garbage collections would find none while tests are collected, and take a fifth of that time.
gc.disable()
# Processes of the workers and of their tests compile lmpipe and the tests once, not each on its own.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Several workers use all cores already; tests of threads ask for theirs.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Long files, and packages with such files. Several workers start with them, so that none runs alone in the end;
# test_workflow comes when test_reruns has made the study that they share.
LONG_FIRST = ("test_reruns", "test_slurm", "test_gpu_profile", "test_download", "test_printed_commands", "test_memory")
LONG_FIRST += ("training", "kernels", "test_workflow", "workflow", "report", "benchmarks", "io", "data")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark every test in tests/workflow as `workflow`; order the tests of several workers."""
    for item in items:
        if item.path.parent.name == "workflow":
            item.add_marker(pytest.mark.workflow)
    if hasattr(config, "workerinput"):
        items.sort(key=rank)


def rank(item: pytest.Item) -> int:
    """Return the place of a test's file or package in LONG_FIRST."""
    names = item.path.stem, item.path.parent.name
    return next((index for index, name in enumerate(LONG_FIRST) if name in names), len(LONG_FIRST))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Keep all that is imported by now out of garbage collections, which would take 0.15 s each, and start these."""
    if any(item.get_closest_marker("workflow") for item in session.items):
        from tests.support.forked import SERVER, SNAKEMAKE, TRAINING

        SERVER.set_forkserver_preload([*TRAINING, *SNAKEMAKE])
    gc.freeze()
    gc.enable()


# A busy machine makes an example slow, not wrong.
settings.register_profile("any machine", deadline=None, max_examples=50)
settings.register_profile("few examples", deadline=None, max_examples=20)
settings.register_profile("long", deadline=None, max_examples=20_000)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def fabricated(tmp_path_factory) -> "Results":
    """Return a made-up study with sweeps, ablations over seeds and diverged runs, without plots; not to be changed."""
    from tests.support.fake_results import fabricate_measurements, fabricate_study, speed_of

    folder = tmp_path_factory.mktemp("fabricated")
    fabricate_measurements(folder, speeds={size: speed_of(size) for size in (1, 2, 4, 8, 16, 32, 64)})
    return fabricate_study(folder)


def make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that `make` has filled: once, by the first worker of pytest-xdist that needs it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with file_lock(folder.with_suffix(".lock"), waiting=f"waiting for the worker that makes {name}"):
        if not folder.with_suffix(".done").exists():
            folder.mkdir()
            make(folder)
            folder.with_suffix(".done").touch()
    return folder


@pytest.fixture(scope="session")
def reported(tmp_path_factory) -> "Results":
    """Return a study with runs, records and report.html, whose findings made-up templates describe."""
    from tests.support.fake_page import open_reported, report_study

    return open_reported(make_once(tmp_path_factory, "reported", report_study))


@pytest.fixture(scope="session")
def whole_study(tmp_path_factory) -> Path:
    """Folder with the results of a whole tiny study, in which every command works; to be left as it is.

    Each worker has a copy, since tests put damaged files into it for a while.
    """
    from tests.support.cli_cases import make_whole_study

    folder = tmp_path_factory.mktemp("study")
    return copytree(make_once(tmp_path_factory, "whole-study", make_whole_study), folder, dirs_exist_ok=True)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> "Clone":
    """Clone in which the smoke study was killed, and then called twice at once; to be left as it is.

    The outputs of the last two calls are in `*.log`. The path has a space.
    """
    from tests.support.workflow import Clone, finish_after_a_kill

    return Clone(make_once(tmp_path_factory, "a study", finish_after_a_kill))


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Yield a headless Chromium; its scope is a module, since Playwright keeps an event loop running."""
    from tests.support.browser import CHROMIUM, MISSING_CHROMIUM, running_chromium

    if CHROMIUM is None:
        pytest.skip(MISSING_CHROMIUM)
    with running_chromium() as running:
        yield running
