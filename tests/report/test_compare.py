import json
import re
import shutil

import pytest

from lmpipe.cli.main import main
from lmpipe.errors import InputError
from lmpipe.report.compare import aligned, comparison, flat_settings

STRINGS = {"title": "T", "question": "?", "status": "answered", "sentences": [], "tables": [], "plots": [], "texts": []}


@pytest.fixture
def studies(whole_study, tmp_path, monkeypatch):
    """Two copies of what a finished study tells of itself; the second may be changed."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for file in ("findings.json", "provenance.json"):
            shutil.copy(whole_study[0] / "results" / file, tmp_path / name / file)
    return tmp_path / "a", tmp_path / "b"


def change(path, edit):
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def figure(value, interval=None, unit="nats per token"):
    return {"value": value, "unit": unit, "source": "x", "interval": interval, "missing_reason": ""}


def with_figures(figures):
    """An edit of findings.json: one problem with these figures, and nothing else."""

    def edit(content):
        content["problems"] = {
            "main_experiment": {**STRINGS, "metrics": figures, "reference": {"rows": [], "note": ""}}
        }

    return edit


def test_a_study_differs_in_nothing_from_itself(studies, capsys):
    main(["compare", "a", "b"])
    told = capsys.readouterr().out
    problems = json.loads((studies[0] / "findings.json").read_text(encoding="utf-8"))["problems"]
    figures = sum(len(problem["metrics"]) for problem in problems.values())
    assert figures > 50
    assert f"{figures} figures are equal." in told
    assert told.count("None.") == told.count("## ") == 7


def test_findings_move_by_so_much(studies):
    change(
        studies[0] / "findings.json",
        with_figures(
            {
                "apart": figure(4.0, [3.9, 4.1]),
                "overlapping": figure(4.0, [3.8, 4.2]),
                "touching": figure(4.0, [3.9, 4.1]),
                "one_seed": figure(-2.0),
                "from_zero": figure(0.0),
                "lost": figure(1.0),
                "undefined": figure(None),
                "word": figure("a"),
                "seconds": figure(10.0, unit="s"),
                "same": figure(5, [4, 6]),
                "yes": figure(True),
            }
        ),
    )
    change(
        studies[1] / "findings.json",
        with_figures(
            {
                "apart": figure(3.0, [2.9, 3.1]),
                "overlapping": figure(4.1, [3.9, 4.3]),
                "touching": figure(4.2, [4.1, 4.3]),
                "one_seed": figure(-1.5),
                "from_zero": figure(1.0),
                "new": figure(1.0),
                "undefined": figure(2.0),
                "word": figure("b"),
                "seconds": figure(5.0, unit="s"),
                "same": figure(5, [4, 6]),
                "yes": figure(False),
            }
        ),
    )
    found = comparison(*studies)
    moved = {one["figure"]: (one["difference"], one["percent"], one["is_resolved"]) for one in found["findings"]}
    assert moved == {
        "apart": (-1.0, -25.0, True),
        "overlapping": (pytest.approx(0.1), pytest.approx(2.5), False),
        "touching": (pytest.approx(0.2), pytest.approx(5.0), False),
        "one_seed": (0.5, 25.0, None),
        "from_zero": (1.0, None, None),
        "undefined": (None, None, None),
        "word": (None, None, None),
        "yes": (None, None, None),
    }
    assert [one["figure"] for one in found["machine"]] == ["seconds"]
    assert {one["figure"]: one["is_in"] for one in found["in_one_only"]} == {"lost": "first", "new": "second"}
    assert found["equal_figures"] == 1


def test_settings_code_versions_hardware_and_texts_that_differ(studies):
    def edit(content):
        content["settings"]["training"]["batch_size"] = 7
        content["settings"]["model"].pop("d_ff")
        content["settings"]["study"] = "another name"
        run = next(record for path, record in content["records"].items() if path.startswith("runs/"))
        run["code"]["train"] = "0123456789abcdef"
        run["versions"]["torch"] = "9.9"
        run["hardware"]["cores"] = 1024
        content["files"]["corpora/tiny/train.txt"]["sha256"] = "f" * 64

    change(studies[1] / "provenance.json", edit)
    found = comparison(*studies)
    settings = {row["what"]: (row["first"], row["second"]) for row in found["settings"]}
    assert settings == {"training.batch_size": (4, 7), "model.d_ff": (32, None)}
    made_by = {row["what"]: (row["first"], row["second"]) for row in found["made_by"]}
    assert set(made_by) == {"code of train", "version of torch", "hardware: cores"}
    assert made_by["version of torch"][1] == f"{made_by['version of torch'][0]}, 9.9", "all that were used"
    assert [row["what"] for row in found["texts"]] == ["corpora/tiny/train.txt"]


def test_studies_with_other_experiments_and_problems(studies):
    def edit(content):
        content["problems"]["another"] = content["problems"].pop("sweep")
        content["problems"]["unicode1"]["status"] = "missing"
        content["problems"]["unicode1"]["metrics"] = {}

    change(studies[1] / "findings.json", edit)
    found = comparison(*studies)
    assert {(row["what"], row["first"], row["second"]) for row in found["statuses"]} == {
        ("sweep", "answered", None),
        ("another", None, "answered"),
        ("unicode1", "answered", "missing"),
    }
    assert {one["problem"] for one in found["in_one_only"]} == {"sweep", "another", "unicode1"}


def test_it_is_written_for_programs_and_for_people(studies, capsys, tmp_path):
    change(studies[1] / "provenance.json", lambda content: content["settings"].update(seeds=[0, 1]))
    main(["compare", "a", "b", "--output", "x/found.json"])
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "x/found.json").read_text(encoding="utf-8"))
    assert found["settings"] == [{"what": "seeds", "first": [0], "second": [0, 1]}]
    main(["compare", "a", "b", "--output", "found.md"])
    assert (tmp_path / "found.md").read_text(encoding="utf-8") == printed
    assert re.search(r"\| seeds +\| \[0\] +\| \[0, 1\] +\|", printed)


def test_tables_are_aligned_and_keep_their_columns():
    lines = aligned(["a", "b"], [["x|y", "1"], ["z", "22"]])
    assert lines == ["| a    | b  |", "| ---- | -- |", "| x\\|y | 1  |", "| z    | 22 |"]
    assert flat_settings({"study": "x", "a": {"b": {}, "c": None}}) == {"a.b": {}, "a.c": None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "none"], "none: has no provenance.json"),
        (["none", "a"], "none: has no"),
        (["a", "b/findings.json"], "b/findings.json: has no"),
        (["a", "b", "--output", "x.txt"], "--output: expected a name that ends in .json or .md, found x.txt"),
    ],
)
def test_what_is_no_study_is_told_in_one_line(studies, arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["compare", *arguments])
    captured = capsys.readouterr()
    assert caught.value.code == 1
    assert captured.out == ""
    assert captured.err.startswith(f"lmpipe compare: {message}")
    assert captured.err.count("\n") == 1


def test_an_unfinished_study_is_told(studies):
    (studies[1] / "findings.json").unlink()
    with pytest.raises(InputError, match=r"has no findings\.json"):
        comparison(*studies)
