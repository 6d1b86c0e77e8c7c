import json
import os

import pytest
import yaml

from lmpipe.errors import InputError
from lmpipe.planning.plan import load_plan
from lmpipe.planning.session import begin, find_study
from tests.support.fake_results import CORPORA, MODEL, TRAINING

STUDY = {
    "study": "tiny",
    "seeds": [0],
    "corpora": CORPORA,
    "model": MODEL,
    "training": TRAINING,
    "experiments": {"first": {"corpus": "stories"}},
    "accounting": {"models": {}, "device_memory_gb": 80.0},
}
PLAN = load_plan(STUDY, "the tiny study")


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_study_that_was_begun_is_found_by_its_folder_and_without_a_name():
    begin(PLAN, 2, ["--cores", "2", "--configfile", "a study.yaml"])
    for study in (find_study("results/tiny"), find_study()):
        assert study.plan.study == PLAN.study
        assert study.call["command"] == "snakemake --cores 2 --configfile 'a study.yaml'"
        assert study.is_running is True, "this very process"
        assert study.logs.parts[-2:] == ("logs", "tiny")


def test_the_study_begun_last_is_the_one_that_is_meant(tmp_path):
    begin(PLAN, 2, [])
    begin(load_plan(STUDY | {"study": "other"}, "another"), 2, [])
    os.utime(tmp_path / "results/other/study.json", (1, 1))
    assert find_study().plan.study.study == "tiny"
    os.utime(tmp_path / "results/tiny/study.json", (0, 0))
    assert find_study().plan.study.study == "other"


def test_a_study_file_serves_as_well(tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    assert find_study("study.yaml").call is None
    begin(PLAN, 2, [])
    assert find_study("study.yaml").call["cores"] == 2


def test_finished_results_tell_their_study(whole_study, monkeypatch):
    monkeypatch.chdir(whole_study[0])
    study = find_study("results")
    assert list(study.plan.runs_by_experiment) == ["sweep", "tuned"]
    assert study.is_running is None


def test_a_disk_that_cannot_take_it_stops_no_study(tmp_path, capsys):
    (tmp_path / "results").write_text("a file in the place of the folder", encoding="utf-8")
    begin(PLAN, 2, [])
    assert capsys.readouterr().err.startswith("lmpipe status will not know of this call: ")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (None, "results: expected a study that was begun, found none; name"),
        ("none.yaml", "none.yaml: is missing"),
        ("results/none", "results/none: expected a study's results folder or its file, found neither; check the path"),
        (".", ".: expected the results of a study that was begun, found neither study.json nor provenance.json; check"),
    ],
)
def test_no_study(path, message):
    with pytest.raises(InputError) as caught:
        find_study(path)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("damage", ["{", "{}", '{"study": {}}'])
def test_a_damaged_file_is_told(tmp_path, damage):
    begin(PLAN, 2, [])
    path = tmp_path / "results/tiny/study.json"
    path.write_text(damage, encoding="utf-8")
    with pytest.raises(
        InputError, match=r"study\.json: .*; delete the file; the next call of snakemake writes it anew$"
    ):
        find_study("results/tiny")


def test_settings_that_are_no_study_are_told(tmp_path):
    begin(PLAN, 2, [])
    path = tmp_path / "results/tiny/study.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | {"study": {"stud": "x"}}), encoding="utf-8")
    with pytest.raises(InputError, match="stud is not a known key; did you mean study"):
        find_study("results/tiny")
