"""Fixtures that several test modules share."""

import pytest
from fabricate import fabricate_study
from hypothesis import settings

from lmpipe.results import Results

# A busy machine makes an example slow, not wrong.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def fabricated(tmp_path_factory) -> Results:
    """A made-up study with sweeps, ablations over seeds and diverged runs, without plots; not to be changed."""
    return fabricate_study(tmp_path_factory.mktemp("fabricated"))
