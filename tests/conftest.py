"""Fixtures that several test modules share.

They import what they need themselves: pytest-xdist's controller, which runs no test, starts three seconds earlier.
"""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from lmpipe.io.files import file_lock

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from lmpipe.analysis.results import Results

# Several workers use all cores already; tests of threads ask for theirs.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Packages with long files. Several workers start with them, so that none runs alone in the end.
LONG_FIRST = ("workflow", "training", "kernels", "benchmarks", "io", "data")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark every test in tests/workflow as `workflow`; order the tests of several workers."""
    for item in items:
        if item.path.parent.name == "workflow":
            item.add_marker(pytest.mark.workflow)
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: [*LONG_FIRST, item.path.parent.name].index(item.path.parent.name))


def pytest_collection_finish() -> None:
    """Keep all that is imported by now out of garbage collections, which would take 0.15 s each."""
    gc.freeze()


# A busy machine makes an example slow, not wrong.
settings.register_profile("any machine", deadline=None, max_examples=50)
settings.register_profile("few examples", deadline=None, max_examples=20)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def fabricated(tmp_path_factory) -> "Results":
    """Return a made-up study with sweeps, ablations over seeds and diverged runs, without plots; not to be changed."""
    from tests.support.fake_results import fabricate_measurements, fabricate_study, speed_of

    folder = tmp_path_factory.mktemp("fabricated")
    fabricate_measurements(folder, speeds={size: speed_of(size) for size in (1, 2, 4, 8, 16, 32, 64)})
    return fabricate_study(folder)


@pytest.fixture(scope="session")
def whole_study(tmp_path_factory) -> Path:
    """Folder with the results of a whole tiny study, in which every command works; to be left as it is.

    The first worker of pytest-xdist makes it, the others copy it.
    """
    from tests.support.cli_cases import make_whole_study

    folder = tmp_path_factory.mktemp("study")
    if "PYTEST_XDIST_WORKER" not in os.environ:
        make_whole_study(folder)
        return folder
    shared = tmp_path_factory.getbasetemp().parent / "whole-study"
    with file_lock(shared.with_suffix(".lock"), waiting="waiting for the worker that makes the tiny study"):
        if shared.exists():
            copytree(shared, folder, dirs_exist_ok=True)
        else:
            make_whole_study(folder)
            copytree(folder, shared)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Yield a headless Chromium; its scope is a module, since Playwright keeps an event loop running."""
    from tests.support.browser import CHROMIUM, MISSING_CHROMIUM, running_chromium

    if CHROMIUM is None:
        pytest.skip(MISSING_CHROMIUM)
    with running_chromium() as running:
        yield running
