"""What profiles say, and what is said to a user whose command line undoes it."""

from pathlib import Path

import pytest
import yaml
from every_verb import STUDY

from lmpipe import InputError
from lmpipe.plan import load_plan
from lmpipe.profiles import check_arrays, lost_total, most_jobs
from lmpipe.records import records_of

ROOT = Path(__file__).parent.parent


def profile(name):
    return yaml.safe_load((ROOT / "profiles" / name / "profile.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["gpu", "slurm", "cluster-generic"])
def test_every_profile_repeats_what_the_default_one_says(name):
    # Snakemake loads one profile of a workflow: another one takes the place of profiles/default.
    assert profile("default").items() <= profile(name).items()


def test_a_study_with_shards_has_jobs_for_each():
    corpus = {"source": "stories", "documents": 100, "tokenizer": {"vocab_size": 270}, "role": "simple"}
    whole, sharded = (
        load_plan(STUDY | {"corpora": {"tiny": corpus | {"shards": shards}}}, "study") for shards in (1, 3)
    )
    assert most_jobs(whole) == sum(map(len, records_of(whole).values()))
    # Two shards more to count, three to encode; the tokens are joined in place of the one job that encoded them.
    assert most_jobs(sharded) == most_jobs(whole) + 2 + 3


@pytest.mark.parametrize("limits", [{"--jobs": 9}, {"--jobs": None, "--max-jobs-per-timespan": 9}])
def test_limits_that_would_leave_jobs_behind_are_refused(limits):
    (option,) = [option for option, limit in limits.items() if limit]
    with pytest.raises(InputError, match=f"^{option}: expected at least 10 .*, found 9; .* --slurm-array-jobs none$"):
        check_arrays("plot_experiment", limits, 10)


@pytest.mark.parametrize(
    ("arrays", "limits"), [(None, {"--jobs": 9}), ("", {"--jobs": 9}), ("plot_experiment", {"--jobs": 10, "--x": None})]
)
def test_limits_that_leave_nothing_behind_are_accepted(arrays, limits):
    check_arrays(arrays, limits, 10)


def test_a_lost_total_is_told():
    assert lost_total(["train"], ["mem_mb"]).startswith("train: a gpu is asked for, but there is no total")
    assert lost_total(["train"], ["mem_mb", "gpu"]) is None
    assert lost_total([], []) is None
