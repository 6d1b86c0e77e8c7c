import json
import re
import shutil

import pytest

from lmpipe.analysis.finding import Finding, Findings, Metric
from lmpipe.cli.main import main
from lmpipe.report.compare import Comparison, Difference, compare_studies, diff, markdown_table


@pytest.fixture
def studies(whole_study, tmp_path, monkeypatch):
    """Two copies of findings.json and provenance.json of a finished study; the second may be changed."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for file in ("findings.json", "provenance.json"):
            shutil.copy(whole_study / "results/tiny" / file, tmp_path / name / file)
    return tmp_path / "a", tmp_path / "b"


def change(path, edit):
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_findings(folder, metrics):
    """Write findings.json with one problem that has these metrics."""
    finding = Finding("answered", metrics)
    Findings(study="x", problems={"main_experiment": finding}).write(folder / "findings.json")


def nats(value, interval=None):
    return Metric(value, "nats per token", "x", interval)


def test_a_study_does_not_differ_from_itself(studies, capsys):
    main(["compare", "a", "b"])
    text = capsys.readouterr().out
    num_metrics = sum(len(finding.metrics) for finding in Findings.read(studies[0] / "findings.json").problems.values())
    assert num_metrics > 50
    assert f"{num_metrics} metrics are equal." in text
    assert text.count("None.") == text.count("## ") == 7


# Values of both studies, and the difference, its percentage, and if it is resolved.
MOVED = {
    "apart": (nats(4.0, (3.9, 4.1)), nats(3.0, (2.9, 3.1)), (-1.0, -25.0, True)),
    "overlapping": (nats(4.0, (3.8, 4.2)), nats(4.1, (3.9, 4.3)), pytest.approx((0.1, 2.5, False))),
    "touching": (nats(4.0, (3.9, 4.1)), nats(4.2, (4.1, 4.3)), pytest.approx((0.2, 5.0, False))),
    "one_seed": (nats(-2.0), nats(-1.5), (0.5, 25.0, None)),
    "from_zero": (nats(0.0), nats(1.0), (1.0, None, None)),
    "undefined": (nats(None), nats(2.0), (None, None, None)),
    "word": (nats("a"), nats("b"), (None, None, None)),
    "yes": (nats(True), nats(False), (None, None, None)),
}


def test_moved_metrics(studies):
    for index, other in enumerate(("lost", "new")):
        metrics = {name: pair[index] for name, pair in MOVED.items()} | {other: nats(1.0), "same": nats(5, (4, 6))}
        write_findings(studies[index], metrics | {"seconds": Metric(10.0 + index, "s")})
    comparison = compare_studies(*studies)
    moved = {row.metric: (row.difference, row.percent, row.is_resolved) for row in comparison.metrics}
    assert moved == {name: expected for name, (_, _, expected) in MOVED.items()}
    assert [row.metric for row in comparison.machine_dependent] == ["seconds"]
    assert {row.metric: row.present_in for row in comparison.unpaired} == {"lost": "first", "new": "second"}
    assert comparison.num_equal == 1


def test_settings_code_versions_hardware_and_texts(studies):
    def edit(content):
        content["settings"]["training"]["batch_size"] = 7
        content["settings"]["model"].pop("d_ff")
        content["settings"]["study"] = "another name"
        run = next(record for path, record in content["records"].items() if path.startswith("runs/"))
        run["code"]["train"] = "0123456789abcdef"
        run["versions"]["torch"] = "9.9"
        run["hardware"]["cores"] = 1024
        content["records"]["corpora/tiny/provenance.json"]["outputs"]["train.txt"]["sha256"] = "f" * 64

    change(studies[1] / "provenance.json", edit)
    comparison = compare_studies(*studies)
    assert comparison.settings == [
        Difference(name="model.d_ff", first=32, second=None),
        Difference(name="training.batch_size", first=4, second=7),
    ]
    provenance = {row.name: (row.first, row.second) for row in comparison.provenance}
    assert set(provenance) == {"code of train", "version of torch", "hardware: cores"}
    assert provenance["version of torch"][1] == f"{provenance['version of torch'][0]}, 9.9", "all versions"
    assert [row.name for row in comparison.texts] == ["corpora/tiny/train.txt"]


def test_other_experiments_and_problems(studies):
    def edit(content):
        content["problems"]["another"] = content["problems"].pop("sweep")
        content["problems"]["unicode1"]["status"] = "missing"
        content["problems"]["unicode1"]["metrics"] = {}

    change(studies[1] / "findings.json", edit)
    comparison = compare_studies(*studies)
    assert {(row.name, row.first, row.second) for row in comparison.statuses} == {
        ("sweep", "answered", None),
        ("another", None, "answered"),
        ("unicode1", "answered", "missing"),
    }
    assert {row.problem for row in comparison.unpaired} == {"sweep", "another", "unicode1"}


def test_comparison_is_written_as_json_and_markdown(studies, capsys, tmp_path):
    change(studies[1] / "provenance.json", lambda content: content["settings"].update(seeds=[0, 1]))
    main(["compare", "a", "b", "--output", "x/comparison.json"])
    printed = capsys.readouterr().out
    comparison = Comparison.read(tmp_path / "x/comparison.json")
    assert comparison.settings == [Difference(name="seeds", first=[0], second=[0, 1])]
    main(["compare", "a", "b", "--output", "comparison.md"])
    assert (tmp_path / "comparison.md").read_text(encoding="utf-8") == printed
    assert re.search(r"\| seeds +\| \[0\] +\| \[0, 1\] +\|", printed)


def test_tables_are_aligned_and_escaped():
    lines = markdown_table([["x|y", "1"], ["z", "22"]], ["a", "b"]).splitlines()
    assert lines == ["| a    | b   |", "|:-----|:----|", "| x\\|y | 1   |", "| z    | 22  |"]


def test_settings_are_compared_at_any_depth():
    rows = [Difference(name="a.c", first=2, second=None), Difference(name="d", first=None, second=[0])]
    assert diff({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}, "d": [0]}) == rows
    assert diff({"a": {"b": {"c": 1}}}, {"a": {}}) == [Difference(name="a.b.c", first=1, second=None)]


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["a", "none"], "none"),
        (["none", "a"], "none"),
        (["a", "b/findings.json"], "b/findings.json"),
        (["a", "b", "--output", "x.txt"], "--output x.txt"),
    ],
)
def test_folders_without_a_finished_study_are_refused_in_one_line(studies, arguments, where, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["compare", *arguments])
    captured = capsys.readouterr()
    assert caught.value.code == 1
    assert captured.out == ""
    assert captured.err.startswith(f"lmpipe compare: {where}: ")
    assert captured.err.count("\n") == 1
