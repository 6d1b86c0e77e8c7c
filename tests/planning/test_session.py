import os
import shlex
from pathlib import Path

import pytest
import yaml

from lmpipe.cli.main import parse
from lmpipe.errors import InputError
from lmpipe.planning.plan import load_plan, read_plan
from lmpipe.planning.session import find_study, read_study, start_session, workflow_command, write_study
from lmpipe.study.paths import StudyPaths
from tests.support.fake_results import CORPORA, MODEL, TRAINING

CONFIG = Path(__file__).parents[2] / "config"
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
PATHS = StudyPaths(Path("results/tiny"))


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_started_study_is_found_by_its_folder_and_without_a_name():
    start_session(PLAN, 2, ["--cores", "2", "--configfile", "a study.yaml"])
    for study in (find_study("results/tiny"), find_study()):
        assert study.plan.study == PLAN.study
        assert study.session.command == "snakemake --cores 2 --configfile 'a study.yaml'"
        assert study.is_running is True, "this very process"
        assert study.logs.parts[-2:] == ("logs", "tiny")


def test_results_are_read_where_the_texts_and_packages_are_missing():
    files = {"source": "files", "files": ["mine.txt"], "valid_fraction": 0.1, "tokenizer": {"vocab_size": 512}}
    docs = CORPORA["docs"] | {"packages": ["numpy"]}
    Path("mine.txt").write_text("a text")
    write_study(load_plan(STUDY | {"corpora": {"stories": files, "docs": docs}}, "a study"), PATHS)
    Path("mine.txt").unlink()
    PATHS.study_file.write_text(PATHS.study_file.read_text().replace("numpy", "not_installed"))
    assert set(read_study(PATHS.root)[0].study.corpora) == {"stories", "docs"}
    with pytest.raises(InputError, match="not_installed"):
        read_plan(PATHS.study_file)


@pytest.mark.parametrize("name", ["smoke", "config", "tinystories", "cs336"])
def test_resolved_study_has_the_same_plan(name, monkeypatch):
    plan = read_plan(CONFIG / f"{name}.yaml")
    start_session(plan, 2, [])
    resolved, paths = read_study(f"results/{plan.study.study}")
    assert resolved.runs == plan.runs
    assert resolved.study_settings() == plan.study_settings()
    assert paths.study_file.is_file()


def test_resolved_study_is_written_only_if_it_changed(tmp_path):
    start_session(PLAN, 2, [])
    path = tmp_path / "results/tiny/study.yaml"
    os.utime(path, (1, 1))
    start_session(PLAN, 2, [])
    assert path.stat().st_mtime == 1
    start_session(load_plan(STUDY | {"seeds": [1]}, "changed"), 2, [])
    assert path.stat().st_mtime > 1


def test_without_a_name_the_study_that_started_last_is_found(tmp_path):
    start_session(PLAN, 2, [])
    start_session(load_plan(STUDY | {"study": "other"}, "another"), 2, [])
    os.utime(tmp_path / "results/other/session.json", (1, 1))
    assert find_study().plan.study.study == "tiny"
    os.utime(tmp_path / "results/tiny/session.json", (0, 0))
    assert find_study().plan.study.study == "other"


def test_study_file_names_its_results(tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    assert find_study("study.yaml").session is None
    start_session(PLAN, 2, [])
    assert find_study("study.yaml").session.cores == 2


def test_results_without_a_session_name_their_study(tmp_path):
    write_study(PLAN, StudyPaths(tmp_path / "results/tiny"))
    study = find_study("results/tiny")
    assert list(study.plan.runs_by_experiment) == ["first"]
    assert study.is_running is None


def test_session_that_cannot_be_written_stops_no_study(tmp_path, capsys):
    (tmp_path / "results/tiny/session.json").mkdir(parents=True)
    start_session(PLAN, 2, [])
    assert capsys.readouterr().err.startswith("lmpipe status will not show this call: ")


@pytest.mark.parametrize(
    ("path", "where"),
    [(None, "results"), ("none.yaml", "none.yaml"), ("results/none", "results/none"), (".", "study.yaml")],
)
def test_missing_study_is_named(path, where):
    with pytest.raises(InputError) as caught:
        find_study(path)
    assert caught.value.where == where


@pytest.mark.parametrize("file", ["study.yaml", "session.json"])
@pytest.mark.parametrize("damage", ["{", "{}", "\x00"])
def test_damaged_file_is_named(tmp_path, file, damage):
    start_session(PLAN, 2, [])
    (tmp_path / "results/tiny" / file).write_text(damage, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        find_study("results/tiny")
    assert caught.value.where == f"results/tiny/{file}"
    assert caught.value.remedy


def test_command_is_that_of_the_workflow_in_this_folder():
    """With a Snakefile it is snakemake; without one, the installed workflow, whose options follow after --."""
    words = "results/tiny/a.csv", "--forcerun", "train"
    commands = [shlex.split(workflow_command("a study.yaml", *words))]
    Path("Snakefile").touch()
    commands.append(shlex.split(workflow_command("a study.yaml", *words)))
    assert parse(commands[0][1:]).options == ["--forcerun", "train"]
    assert parse(commands[0][1:]).words == ["a study.yaml", words[0]]
    assert commands[1] == ["snakemake", "--cores", "2", *words, "--configfile", "a study.yaml"]
