"""The commands that messages name, for studies of every kind."""

import doctest
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from lmpipe.errors import InputError
from lmpipe.io import hints
from lmpipe.io.files import read_json
from lmpipe.io.hints import command, make_again
from lmpipe.planning.estimate import read_plan
from lmpipe.planning.session import begin

PROJECT = Path(__file__).parents[2]


def begun_by(folder: Path, told: str) -> Path:
    path = folder / "results/mine/runs/x/a/seed0/config.json"
    path.parent.mkdir(parents=True)
    (folder / "results/mine/study.json").write_text(json.dumps({"command": told}), encoding="utf-8")
    return path


def test_the_examples_in_the_docstrings_hold():
    result = doctest.testmod(hints)
    assert result.attempted > 0 and result.failed == 0


def test_the_default_study_needs_no_option(tmp_path, monkeypatch):
    begun_by(tmp_path, "snakemake --cores 8 --forcerun train")
    monkeypatch.chdir(tmp_path)
    assert command("results/mine/findings.json") == "snakemake --cores 1 results/mine/findings.json"


def test_the_options_that_say_which_study_it_is_are_kept(tmp_path, monkeypatch):
    told = "snakemake all --cores 8 --configfile 'my study.yaml' --keep-going --config seeds=[0,1] 'study=mine'"
    path = begun_by(tmp_path, told)
    made = (
        "snakemake --cores 1 results/mine/runs/x/a/seed0/config.json --configfile 'my study.yaml' --config "
        "'seeds=[0,1]' study=mine"
    )
    monkeypatch.chdir(tmp_path)
    assert make_again(path.relative_to(tmp_path)) == f"delete the file and make it again ({made})"
    monkeypatch.chdir(path.parent)
    assert command("config.json") == f"cd {tmp_path} && {made}", "from another folder"


@pytest.mark.parametrize("damaged", ["", "{}", "[]", '{"command": 3}', '{"command": "a \'"}'])
def test_without_word_of_a_call_the_study_file_is_left_to_the_reader(tmp_path, damaged):
    path = begun_by(tmp_path, "")
    assert command(tmp_path / "a.json") == f"snakemake --cores 1 {tmp_path / 'a.json'} --configfile STUDY.yaml"
    (tmp_path / "results/mine/study.json").write_text(damaged, encoding="utf-8")
    assert command(path).endswith(" --configfile STUDY.yaml")


def test_the_printed_command_works_for_a_study_that_is_not_the_default(tmp_path, monkeypatch):
    for name in ("workflow", "config", "profiles"):
        shutil.copytree(PROJECT / name, tmp_path / name)
    shutil.copy(PROJECT / "Snakefile", tmp_path)
    monkeypatch.chdir(tmp_path)
    shutil.move("config/smoke.yaml", "a study.yaml")
    begin(read_plan("a study.yaml"), 2, ["--cores", "2", "--configfile", "a study.yaml", "--config", "study=mine"])
    shutil.move("results/smoke", "results/mine")
    with pytest.raises(InputError) as missing:
        read_json("results/mine/tokenizers/stories/vocab.json")
    printed = str(missing.value).partition("make it first (")[2].removesuffix(")")
    done = subprocess.run(f"{printed} --dry-run", shell=True, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "results/mine/tokenizers/stories/vocab.json" in done.stdout + done.stderr
