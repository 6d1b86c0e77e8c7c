"""Fixtures that several test modules share."""

import contextlib
from pathlib import Path

import pytest
from every_verb import READS, command, make_whole_study
from fabricate import fabricate_measurements, fabricate_study, speed_of
from hypothesis import settings

from lmpipe.kernels import load
from lmpipe.results import Results

# A busy machine makes an example slow, not wrong.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels() -> None:
    """Compile the kernels before any test that is timed."""
    load.kernels()


@pytest.fixture(scope="session")
def fabricated(tmp_path_factory) -> Results:
    """A made-up study with sweeps, ablations over seeds and diverged runs, without plots; not to be changed."""
    folder = tmp_path_factory.mktemp("fabricated")
    fabricate_measurements(folder, speeds={size: speed_of(size) for size in (1, 2, 4, 8, 16, 32, 64)})
    return fabricate_study(folder)


@pytest.fixture(scope="session")
def whole_study(tmp_path_factory) -> tuple[Path, dict[str, list[str]]]:
    """The folder of a whole tiny study, and the command of every verb that works there; to be left as it is."""
    folder = tmp_path_factory.mktemp("study")
    make_whole_study(folder)
    with contextlib.chdir(folder):
        return folder, {verb: command(verb) for verb in READS}
