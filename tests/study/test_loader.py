"""Study files that YAML or Snakemake's reader would take for something else: each is refused with its line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lmpipe.errors import InputError
from lmpipe.study.loader import MAX_FILE_BYTES, parse_yaml, read_study_file

ROOT = Path(__file__).parents[2]
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 10)
)


def refusal(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(InputError) as caught:
        read_study_file("mine.yaml")
    assert caught.value.where == "mine.yaml"
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    return caught.value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("study: [x\nseeds: 1", "line 2, column 6 is not valid YAML"),
        ("study: a\n\tseeds: 1", "line 2, column 1 is not valid YAML"),
        ("study: a\n---\nstudy: b\n", "line 2, column 1 is not valid YAML"),
        ("study: a\n\nstudy: b\n", "line 3 repeats the key study"),
        ("model: {norm: pre, norm: post}", "line 1 repeats the key norm"),
        ("seeds: [2001-99-99]", "line 1, column 9 is not valid YAML: '2001-99-99' is not a valid timestamp"),
        ("seeds: " + "9" * 5000, "line 1, column 8 is not valid YAML: '9999"),
        ("seeds: !!int x", "line 1, column 8 is not valid YAML: 'x' is not a valid int"),
        ("seeds: [1, 010]", "line 1: YAML reads 010 as 8"),
        ("model:\n  d_ff: -0_17", "line 2: YAML reads -0_17 as -15"),
        ("training: {eps: 1:30}", "line 1: YAML reads 1:30 as 90"),
        ("training: {eps: 1:30.5}", "line 1: YAML reads 1:30.5 as 90.5"),
        ("study: 2:15", "line 1: YAML reads 2:15 as 135"),
        ('study: !!python/object/apply:os.system ["touch x"]', "line 1, column 8 is not valid YAML"),
        ("study: !!python/name:os.system", "line 1, column 8 is not valid YAML"),
        ("__use_yte__: true", "__use_yte__ is not a known key"),
        ("pathvars: {results: /tmp}", "pathvars is not a known key"),
        ("experimnets: {}", "experimnets is not a known key"),
        ("", "is empty"),
        ("- a", "is ['a']"),
        ("? [a]\n: b", "line 1, column 3 is not valid YAML"),
        ("seeds: &a [*a]", "is nested deeper than 30 levels"),
        ("seeds: *a", "line 1, column 8 is not valid YAML"),
        ("seeds: " + "[" * 2_000, "is nested deeper than 30 levels"),
        ("a: &a [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]\nseeds: [[[[[[[[[[[[[[[*a]]]]]]]]]]]]]]]", "is nested deeper"),
        (LAUGHS, "expands to more than 1 MB"),
        (f"a: &a {'x' * 100_000}\nseeds: [{'*a, ' * 20}]", "expands to more than 1 MB"),
        ("study: a\nseeds: \0", "line 2 contains '\\x00'"),
        (b"study: a\nseeds: caf\xe9", "line 2 is not UTF-8"),
        (b"#" * (MAX_FILE_BYTES + 1), "is larger than 250 kB"),
    ],
)
def test_unreadable_file_is_refused_with_its_line(tmp_path, monkeypatch, text, problem):
    error = refusal(tmp_path, monkeypatch, text)
    assert error.problem.startswith(problem)
    assert error.remedy


@pytest.mark.parametrize("name", ["none.yaml", "folder", "pipe"])
def test_what_is_not_a_file_is_refused_at_once(tmp_path, name):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError) as caught:
        read_study_file(tmp_path / name)
    assert caught.value.where == str(tmp_path / name)


def test_anchors_and_merged_blocks_are_plain_yaml():
    text = "model: &m {norm: pre, d_ff: 8}\ntraining: {<<: *m, norm: post}\nseeds: &s [0]\nsamples: *s\n"
    assert parse_yaml(text) == {
        "model": {"norm": "pre", "d_ff": 8},
        "training": {"norm": "post", "d_ff": 8},
        "seeds": [0],
        "samples": [0],
    }


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_studies_are_plain_yaml(path):
    assert read_study_file(path) == yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.workflow
def test_default_study_is_checked_before_snakemake_reads_it(tmp_path):
    shutil.copy(ROOT / "Snakefile", tmp_path)
    shutil.copytree(ROOT / "workflow", tmp_path / "workflow")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text("# A study\nstudy: mine\nseeds: 2001-99-99\n")
    command = [sys.executable, "-m", "snakemake", "--dry-run"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "config/config.yaml: line 3" in result.stderr


def test_other_numbers_are_read_as_they_are_written():
    text = "[0, -0, 0.5, 00.5, 1e-3, 1.0e-8, 0x10, 1_000, '010', \"1:30\", a1:30, 2024-01-01, 0.0, .5]"
    values = parse_yaml(text)
    assert values[:4] == [0, 0, 0.5, 0.5] and values[5:10] == [1e-8, 16, 1000, "010", "1:30"]
    assert values == yaml.safe_load(text)
