"""Results that left a study: found by their records, and deleted with nothing else."""

import shutil
from pathlib import Path

import pytest
import yaml

from lmpipe.errors import InputError
from lmpipe.io.files import file_lock
from lmpipe.planning.plan import load_plan
from lmpipe.planning.pruning import prune, stale_results
from lmpipe.planning.session import StudySession, find_study
from lmpipe.training.run import known_fingerprint
from tests.support.cli_cases import RESULTS, STUDY

ROOT = Path(RESULTS)
ONE_RATE = STUDY["experiments"] | {"sweep": {"corpus": "tiny", "sweep": {"max_lr": [0.01]}}}
ONE_EXPERIMENT = {"sweep": STUDY["experiments"]["sweep"]}


@pytest.fixture(autouse=True)
def _copy_of_the_study(whole_study, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(whole_study, tmp_path / "study"))


def files():
    return {path for path in Path().rglob("*") if path.is_file()}


def without(**changes):
    """Return the tiny study with changes, as the next call would see it."""
    study = {key: value for key, value in (STUDY | changes).items() if value is not None}
    Path("changed.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    return find_study("changed.yaml")


@pytest.mark.parametrize(
    ("changes", "stale"),
    [
        ({"experiments": ONE_RATE}, ["runs/sweep/max_lr=0.02/seed0"]),
        (
            {"experiments": ONE_EXPERIMENT},
            ["experiments/tuned", "runs/tuned/baseline/seed0", "experiments/sweep/best.json"],
        ),
        ({"samples": None}, ["samples/tiny.json"]),
        (
            {"handout": "none"},
            [
                "accounting",
                "batch_sizes.json",
                "learning_rate_tuning.csv",
                "model_measurements.json",
                "tokenizer_experiments.json",
                "unicode.json",
            ],
        ),
    ],
    ids=["a rate", "an experiment", "samples", "the handout"],
)
def test_what_left_the_study_is_listed_and_then_deleted_alone(changes, stale, capsys):
    study, before = without(**changes), files()
    prune(study, deletes=False)
    listed = [line.partition("  ")[0] for line in capsys.readouterr().out.splitlines()[:-1]]
    assert sorted(path for path in listed if "/store/" not in path) == sorted(f"{RESULTS}/{name}" for name in stale)
    assert files() == before
    prune(study, deletes=True)
    gone = {path for path in before - files() if "store" not in path.parts}
    assert gone
    for path in gone:
        owners = [ROOT / name for name in stale]
        assert any(path == owner or owner in path.parents or path.stem.split(".")[0] == owner.stem for owner in owners)
    assert not any((ROOT / name).exists() for name in stale)
    assert stale_results(study) == []
    capsys.readouterr()
    prune(study, deletes=False)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_study_without_changes_keeps_everything(capsys):
    before = files()
    prune(find_study(RESULTS), deletes=True)
    assert {path for path in before if ROOT / "tokens" not in path.parents} <= files()
    assert files() - before <= {Path(".snakemake/studies/tiny.lock")}


def test_files_of_the_user_stay_and_keep_their_folder(capsys):
    run = ROOT / "runs/sweep/max_lr=0.02/seed0"
    (run / "notes.txt").write_text("mine", encoding="utf-8")
    shutil.copytree(run, ROOT / "backup/runs/sweep/max_lr=0.02/seed0")
    shutil.copytree(run, ROOT / "runs/kept")
    kept = {*(ROOT / "backup").rglob("*"), *(ROOT / "runs/kept").rglob("*"), run / "notes.txt"}
    prune(without(experiments=ONE_RATE), deletes=True)
    assert all(path.exists() for path in kept)
    assert [path.name for path in run.iterdir()] == ["notes.txt"]


def test_store_loses_a_run_only_when_those_of_the_study_are_there():
    study, summaries = (
        without(experiments={"sweep": ONE_RATE["sweep"]}),
        sorted((ROOT / "store").glob("*/summary.json")),
    )
    own = ROOT / "store" / known_fingerprint(study.plan.runs[0], ROOT) / "summary.json"
    assert own in summaries and len(summaries) > 1
    aside = own.rename(own.with_name("aside"))
    prune(study, deletes=True)
    assert [path for path in summaries if path.exists()] == [path for path in summaries if path != own]
    aside.rename(own)
    prune(study, deletes=True)
    assert [path for path in summaries if path.exists()] == [own]


def test_nothing_is_deleted_while_a_call_works_on_the_study():
    study, before = without(experiments=ONE_RATE), files()
    with file_lock(".snakemake/studies/tiny.lock"), pytest.raises(InputError, match="worked on"):
        prune(study, deletes=True)
    assert files() - {Path(".snakemake/studies/tiny.lock")} == before


def test_damaged_record_is_not_acted_upon():
    run = ROOT / "runs/sweep/max_lr=0.02/seed0"
    (run / "provenance.json").write_text("{", encoding="utf-8")
    plan = load_plan(STUDY | {"experiments": ONE_RATE}, "study")
    assert stale_results(StudySession(plan, ROOT)) == []
