"""Study files that YAML or Snakemake's reader would take for something else: each is refused with its line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lmpipe.errors import InputError
from lmpipe.study.loader import LARGEST_FILE_BYTES, read_study_file, read_yaml

ROOT = Path(__file__).parents[2]
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 10)
)


def complaint(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(InputError) as caught:
        read_study_file("mine.yaml")
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 400
    assert message.startswith("mine.yaml: ")
    return message.removeprefix("mine.yaml: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study: [x\nseeds: 1", "line 2, column 6: expected YAML: expected ',' or ']', but got ':'"),
        ("study: a\n\tseeds: 1", "line 2, column 1: expected YAML: found character '\\t' that cannot start any token"),
        ("study: a\n---\nstudy: b\n", "line 2, column 1: expected YAML: but found another document"),
        (
            "study: a\n\nstudy: b\n",
            "line 3, column 1: expected each key once, found study again (the first one is in line 1)",
        ),
        ("model: {norm: pre, norm: post}", "line 1, column 20: expected each key once, found norm again"),
        ("seeds: [2001-99-99]", "line 1, column 9: expected a value of kind timestamp, found '2001-99-99'; correct"),
        ("seeds: " + "9" * 5000, "line 1, column 8: expected a value of kind int, found '9999"),
        ("seeds: !!int x", "line 1, column 8: expected a value of kind int, found 'x'"),
        ('study: !!python/object/apply:os.system ["touch x"]', "line 1, column 8: expected YAML: could not determine"),
        ("study: !!python/name:os.system", "line 1, column 8: expected YAML: could not determine a constructor"),
        ("__use_yte__: true", "unknown key '__use_yte__'; valid keys: study, seeds"),
        ("pathvars: {results: /tmp}", "unknown key 'pathvars'; valid keys: study, seeds"),
        ("experimnets: {}", "unknown key 'experimnets'; did you mean experiments?"),
        ("", "expected keys and values, found None; write key: value lines"),
        ("- a", "expected keys and values, found ['a']; write"),
        ("? [a]\n: b", "line 1, column 3: expected YAML: found unhashable key"),
        ("seeds: &a [*a]", "line 1, column 12: expected a whole value named &a before it; correct"),
        ("seeds: *a", "line 1, column 8: expected a whole value named &a before it; correct"),
        ("seeds: " + "[" * 10_000, "column 36: expected at most 30 levels, found more; correct"),
        (
            "a: &a [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]\nseeds: [[[[[[[[[[[[[[[*a]]]]]]]]]]]]]]]",
            "line 2, column 23: expected at most 30",
        ),
        (LAUGHS, "expected at most 1,000,000 characters with aliases, found more; correct"),
        (f"a: &a {'x' * 100_000}\nseeds: [{'*a, ' * 20}]", "line 2, column 45: expected at most 1,000,000 characters"),
        ("study: a\nseeds: \0", "line 2: expected text, found '\\x00'; remove it"),
        (b"study: a\nseeds: caf\xe9", "line 2: expected UTF-8, found unexpected end of data; save the file as UTF-8"),
        (b"#" * (LARGEST_FILE_BYTES + 1), "expected at most 250,000 bytes, found 250,001; make several studies of it"),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(tmp_path, monkeypatch, text, message):
    assert complaint(tmp_path, monkeypatch, text).find(message) >= 0


@pytest.mark.parametrize("name", ["none.yaml", "folder", "pipe"])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, name):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="expected a study file, found none; check the path"):
        read_study_file(tmp_path / name)


def test_anchors_and_merged_blocks_are_plain_yaml():
    text = "model: &m {norm: pre, d_ff: 8}\ntraining: {<<: *m, norm: post}\nseeds: &s [0]\nsamples: *s\n"
    assert read_yaml(text) == {
        "model": {"norm": "pre", "d_ff": 8},
        "training": {"norm": "post", "d_ff": 8},
        "seeds": [0],
        "samples": [0],
    }


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_studies_are_plain_yaml(path):
    assert read_study_file(path) == yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        # Of the one, Snakemake's own reader makes a traceback; of the other, it keeps the last without a word.
        (
            "seeds: 2001-99-99",
            "line 3, column 8: expected a value of kind timestamp, found '2001-99-99'; correct the line",
        ),
        ("study: again", "line 3, column 1: expected each key once, found study again (the first one is in line 2)"),
    ],
)
def test_the_default_study_is_checked_before_snakemake_reads_it(tmp_path, line, message):
    shutil.copy(ROOT / "Snakefile", tmp_path)
    shutil.copytree(ROOT / "workflow", tmp_path / "workflow")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text(f"# A study\nstudy: mine\n{line}\n")
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--dry-run"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert f"config/config.yaml: {message}" in result.stderr
