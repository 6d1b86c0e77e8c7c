"""The commands that messages name, for studies of every kind."""

import doctest
import json
from pathlib import Path

import pytest

from lmpipe.io import hints
from lmpipe.io.hints import command, make_again

PROJECT = Path(__file__).parents[2]


def begun_by(folder: Path, told: str) -> Path:
    path = folder / "results/mine/runs/x/a/seed0/config.json"
    path.parent.mkdir(parents=True)
    (folder / "results/mine/session.json").write_text(json.dumps({"command": told}), encoding="utf-8")
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
    (tmp_path / "results/mine/session.json").write_text(damaged, encoding="utf-8")
    assert command(path).endswith(" --configfile STUDY.yaml")
