"""A made-up report, built once for the tests of its HTML and those in a browser."""

import pytest

from tests.support.fake_page import fake_findings, write_fake_page
from tests.support.fake_results import EXPERIMENTS, fabricate_records, fabricate_study


@pytest.fixture(scope="session")
def reported(tmp_path_factory):
    """Return a study with runs, records and report.html, whose findings made-up templates describe."""
    experiments = {name: EXPERIMENTS[name] for name in ("learning_rate", "layer_norm_ablation", "vocabulary")}
    results = fabricate_study(tmp_path_factory.mktemp("reported"), experiments)
    fabricate_records(results)
    write_fake_page(results, fake_findings(results))
    return results
