import shutil
import time
from pathlib import Path

import pytest

from lmpipe.analysis.finding import Findings
from lmpipe.analysis.run_states import StudyFiles
from lmpipe.cli.main import main
from lmpipe.errors import InputError
from lmpipe.planning.plan import load_plan
from lmpipe.planning.session import find_study, start_session
from lmpipe.report import page
from lmpipe.report.incomplete import analyze_available, available_results
from lmpipe.report.page import build_report, write_page
from tests.support.fake_results import EXPERIMENTS, fabricate_records, fabricate_study, skip_drawing

SOME = ("learning_rate", "layer_norm_ablation", "swiglu_ablation", "main_experiment", "vocabulary")
RESULTS = Path("results/fabricated")
ERROR_LINE = "lmpipe train: results/x: is too small <more>; correct it"


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch):
    skip_drawing(monkeypatch)


@pytest.fixture(scope="module")
def complete_study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made up") / "fabricated"
    results = fabricate_study(folder, {name: EXPERIMENTS[name] for name in SOME})
    for experiment in results.experiments():
        experiment.write_table(folder / "experiments" / experiment.name / "table.csv")
    fabricate_records(results)
    return results


@pytest.fixture
def study(complete_study, tmp_path, monkeypatch):
    """Return the folder of a study that was started and has corpora, runs and their plots only."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(complete_study.folder, RESULTS)
    start_session(load_plan(complete_study.study, "the fabricated study"), 2, ["--cores", "2"])
    return RESULTS


@pytest.fixture
def report(study, monkeypatch):
    """Report the study; return the findings on the page, and the page."""
    reports = []

    def write(path, plan, results, findings, *rest):
        reports.append(findings)
        write_page(path, plan, results, findings, *rest)

    def call():
        main(["report", str(study)])
        return reports[-1].problems, (study / "report.html").read_text(encoding="utf-8")

    monkeypatch.setattr(page, "write_page", write)
    return call


def files_below(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))}


def remove(study, *runs):
    for run in runs:
        shutil.rmtree(study / "runs" / run)


def write_log(text, path):
    log = Path("logs/fabricated") / path
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(text, encoding="utf-8")


def test_incomplete_study_is_reported_as_far_as_it_exists(study, report, capsys):
    remove(study, "learning_rate/max_lr=3.0", "main_experiment", "layer_norm_ablation/no_norm/seed1", "vocabulary")
    write_log(f"{ERROR_LINE}\n", "train/learning_rate/max_lr=3.0/seed0.log")
    write_log("Traceback (most recent call last):\n  x\nOSError: no [room]\n", "make_corpus/docs.log")
    shutil.rmtree(study / "corpora/docs")
    before = files_below(study)
    problems, html = report()
    assert capsys.readouterr().out.startswith("results/fabricated/report.html")
    after = files_below(study)
    assert after.keys() - before.keys() == {study / "report.html"}
    assert {path for path in before if after[path] != before[path]} == set()

    assert "lmpipe train: results/x: is too small &lt;more&gt;; correct it" in html
    assert "OSError: no [room]" in html
    assert "run learning_rate/max_lr=3.0/seed0" in html
    assert "Continue with <code>snakemake --cores 2</code>" in html

    rate = problems["learning_rate"]
    assert rate.status == "partial"
    assert rate.reason == "So far from 5 of 6 runs. Missing: max_lr=3.0 with seed 0 (failed)."
    assert rate.metrics["best_max_lr"].value == 0.01
    assert problems["main_experiment"].status == "missing"
    assert problems["main_experiment"].reason == "None of its 2 runs has finished: 2 waiting."
    assert problems["layer_norm_ablation"].reason.startswith("So far from 11 of 12 runs.")
    assert problems["swiglu_ablation"].status == "answered", "all of its runs exist"
    assert problems["experiment_log"].reason.startswith("So far from ")


def test_complete_study_has_no_gaps(whole_study, tmp_path, monkeypatch):
    shutil.copytree(whole_study, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    main(["report", "results/tiny"])
    assert 'id="missing"' not in Path("results/tiny/report.html").read_text(encoding="utf-8")
    snapshot = StudyFiles(find_study("results/tiny")).snapshot(time.time())
    assert snapshot.has_results("report")
    results, unreadable = available_results(snapshot)
    assert unreadable == {}
    assert analyze_available(results, snapshot, unreadable) == Findings.read("results/tiny/findings.json")
    (info,) = Path("results/tiny/corpora").glob("*/corpus.json")
    info.unlink()
    with pytest.raises(InputError, match=r"corpus\.json: is missing"):
        build_report(find_study("results/tiny"))


def test_study_without_runs(study, report):
    shutil.rmtree(study / "runs")
    shutil.rmtree(study / "corpora")
    problems, html = report()
    assert "0 of " in html
    assert problems["learning_rate"].reason == "None of its 6 runs has finished: 6 waiting."
    assert problems["learning_rate"].status == "missing"


@pytest.mark.parametrize(
    "missing",
    [
        "layer_norm_ablation/baseline learning_rate/max_lr=0.01 main_experiment/stories",
        "layer_norm_ablation/no_norm swiglu_ablation/baseline main_experiment/docs vocabulary/vocab_size=512",
    ],
)
def test_other_runs_are_reported_whichever_is_missing(study, report, missing):
    runs = missing.split()
    remove(study, *runs)
    problems, _ = report()
    incomplete = {run.split("/")[0] for run in runs}
    for experiment in incomplete:
        assert problems[experiment].status in ("partial", "missing")
        assert problems[experiment].reason
    assert {problems[name].status for name in SOME if name not in incomplete} <= {"answered", "partial"}


def test_damaged_results_are_named_and_the_rest_is_reported(study, report):
    metrics = study / "runs/learning_rate/max_lr=0.01/seed0/metrics.csv"
    metrics.write_text("step\n", encoding="utf-8")
    (study / "runs/swiglu_ablation/silu/seed0/summary.json").write_text("{", encoding="utf-8")
    problems, html = report()
    assert "results/fabricated/runs/swiglu_ablation/silu/seed0/summary.json: " in html
    assert problems["learning_rate"].status == "missing"
    assert problems["learning_rate"].reason.startswith(f"Its results cannot be read: {metrics}: ")
    assert problems["layer_norm_ablation"].status == "answered"


def test_study_without_a_results_folder_is_an_input_error(study):
    shutil.rmtree("results")
    with pytest.raises(InputError):
        build_report(find_study("results/fabricated"))
