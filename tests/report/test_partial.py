import json
import shutil
from pathlib import Path

import pytest

from lmpipe.analysis.finding import Findings
from lmpipe.cli.main import main
from lmpipe.errors import InputError
from lmpipe.planning.plan import load_plan
from lmpipe.planning.session import begin
from lmpipe.report.partial import report_partially
from tests.support.fake_results import EXPERIMENTS, fabricate_study

SOME = ("learning_rate", "layer_norm_ablation", "swiglu_ablation", "main_experiment", "vocabulary")
COMPLAINT = "lmpipe train: results/x: expected <more>, found less; correct it"


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made up") / "fabricated"
    return fabricate_study(folder, {name: EXPERIMENTS[name] for name in SOME})


@pytest.fixture
def study(made_up, tmp_path, monkeypatch):
    """The folder of a study that was begun, of which nothing but corpora and runs is there."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made_up.folder, "results/fabricated")
    begin(load_plan(made_up.study, "the fabricated study"), 2, ["--cores", "2"])
    return Path("results/fabricated")


@pytest.fixture(autouse=True)
def _findings_are_kept(monkeypatch, tmp_path):
    """Keep findings.json, which lies in a folder for the time being."""

    def write(self, path):
        original(self, tmp_path / "kept.json")
        original(self, path)

    original = Findings.write
    monkeypatch.setattr(Findings, "write", write)


def findings():
    return json.loads(Path("kept.json").read_text(encoding="utf-8"))["problems"]


def files_below(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))}


def remove(study, *runs):
    for run in runs:
        shutil.rmtree(study / "runs" / run)


def write_log(text, path):
    log = Path("logs/fabricated") / path
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(text, encoding="utf-8")


def test_an_unfinished_study_is_reported_as_far_as_it_is_there(study, capsys):
    remove(study, "learning_rate/max_lr=3.0", "main_experiment", "layer_norm_ablation/no_norm/seed1", "vocabulary")
    write_log(f"{COMPLAINT}\n", "train/learning_rate/max_lr=3.0/seed0.log")
    write_log("Traceback (most recent call last):\n  x\nOSError: no [room]\n", "make_corpus/docs.log")
    shutil.rmtree(study / "corpora/docs")
    before = files_below(study)
    main(["report", "--partial", "results/fabricated"])
    assert capsys.readouterr().out == "results/fabricated/report-partial.html\n"
    after = files_below(study)
    assert after.keys() - before.keys() == {study / "report-partial.html"}
    changed = {path for path in before if after[path] != before[path]}
    assert changed == set()
    told = (study / "report-partial.html").read_text(encoding="utf-8")
    assert "lmpipe train: results/x: expected &lt;more&gt;, found less; correct it" in told
    assert "OSError: no [room]" in told
    assert "run learning_rate/max_lr=3.0/seed0" in told
    assert "To go on: <code>snakemake --cores 2</code>" in told
    problems = findings()
    rate = problems["learning_rate"]
    assert rate["status"] == "partial"
    told = "So far from 5 of 6 runs. "
    assert rate["sentences"][0].startswith(told)
    assert len(rate["sentences"][0]) > len(told) + 20, "and then the answer"
    assert rate["sentences"][1] == "Not there: max_lr=3.0 with seed 0 (failed)."
    assert rate["metrics"]["best_max_lr"]["value"] == 0.01
    assert problems["main_experiment"]["status"] == "missing"
    assert problems["main_experiment"]["sentences"] == ["None of its 2 runs is there yet: 2 waiting."]
    assert problems["vocabulary"]["sentences"] == ["None of its 6 runs is there yet: 6 waiting."]
    assert problems["layer_norm_ablation"]["sentences"][0].startswith("So far from 11 of 12 runs. Without RMSNorm ")
    assert problems["swiglu_ablation"]["status"] == "answered", "all of its runs are there"
    assert problems["experiment_log"]["sentences"][0].startswith("So far from ")


def test_a_whole_study_is_reported_as_usual(whole_study, tmp_path, monkeypatch):
    shutil.copytree(whole_study[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    told = report_partially("results").read_text(encoding="utf-8")
    assert "All results are there" in told
    assert "What is not there" not in told
    usual = json.loads(Path("results/findings.json").read_text(encoding="utf-8"))["problems"]
    told = json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))["problems"]
    assert told == usual


def test_no_run_at_all(study):
    shutil.rmtree(study / "runs")
    shutil.rmtree(study / "corpora")
    page = report_partially("results/fabricated")
    assert "0 of " in page.read_text(encoding="utf-8")
    assert findings()["learning_rate"]["sentences"] == ["None of its 6 runs is there yet: 6 waiting."]
    assert findings()["learning_rate"]["status"] == "missing"


@pytest.mark.parametrize(
    "run",
    [
        "layer_norm_ablation/baseline",
        "swiglu_ablation/baseline/seed2",
        "learning_rate/max_lr=0.01",
        "main_experiment/stories",
        "main_experiment/docs",
        "vocabulary/vocab_size=1024",
    ],
)
def test_whichever_run_is_missing_the_others_are_reported(study, run):
    remove(study, run)
    report_partially("results/fabricated")
    experiment = run.split("/")[0]
    assert findings()[experiment]["status"] in ("partial", "missing")
    assert "Not there: " in " ".join(findings()[experiment]["sentences"])
    others = {name for name in SOME if name != experiment}
    assert {findings()[name]["status"] for name in others} <= {"answered", "partial"}


def test_damaged_results_are_named_and_the_rest_is_reported(study):
    (study / "runs/learning_rate/max_lr=0.01/seed0/metrics.csv").write_text("step\n", encoding="utf-8")
    (study / "runs/swiglu_ablation/silu/seed0/summary.json").write_text("{", encoding="utf-8")
    page = report_partially("results/fabricated").read_text(encoding="utf-8")
    assert "results/fabricated/runs/swiglu_ablation/silu/seed0/summary.json: expected JSON" in page
    assert "lmpipe-report-" not in page, "no path of the folder for the time being"
    assert findings()["learning_rate"]["status"] == "missing"
    place = "results/fabricated/runs/learning_rate/max_lr=0.01/seed0/metrics.csv"
    (told,) = findings()["learning_rate"]["sentences"]
    assert told.startswith(f"Its results cannot be read: {place}: ")
    assert findings()["layer_norm_ablation"]["status"] == "answered"


def test_nothing_to_report(study, tmp_path):
    shutil.rmtree("results")
    with pytest.raises(InputError, match=r"results/fabricated: expected "):
        report_partially("results/fabricated")


@pytest.mark.parametrize("others", [[], ["--partial", "x", "--output", "y"], ["--results", "x"]])
def test_one_way_or_the_other(others, capsys):
    with pytest.raises(SystemExit):
        main(["report", *others])
    told = capsys.readouterr().err
    assert told == (
        "lmpipe report: expected --partial STUDY, or all of --settings, --results and --output; give one or the other\n"
    )
