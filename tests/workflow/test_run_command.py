"""`lmpipe run` on a tiny study: what it prints, what a dry run announces, and what then happens."""

import json
import re
from collections import Counter
from pathlib import Path
from shutil import copytree, rmtree

import pytest
import yaml

from lmpipe.planning.session import Session
from lmpipe.provenance.job_records import RECORD, JobRecord
from tests.support.cli_cases import STUDY, STUDY_FILE, TEXT
from tests.support.tiny_study import tiny_text
from tests.support.workflow import call_module

RUNS, TABLES = Path("results/tiny/runs"), [f"results/tiny/experiments/{name}/table.csv" for name in ("sweep", "tuned")]
SUMMARIES = [str(RUNS / f"sweep/max_lr={rate}/seed0/summary.json") for rate in (0.01, 0.02)]
RULE = re.compile(r"^  (\w+) +(\d+)  (.*)$", re.MULTILINE)
FINISHED = re.compile(r"^\[ ?(\d+)/(\d+)\] (.*), [0-9.]+ m?s$", re.MULTILINE)


def run(folder, *words, **options):
    """Run `lmpipe run` in a folder."""
    return call_module("lmpipe.cli.main", ["run", STUDY_FILE, *words], folder, **options)


def write(study, folder):
    (folder / STUDY_FILE).write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return a folder in which the experiments of the tiny study are done, and what the call printed."""
    folder = tmp_path_factory.mktemp("a study")
    (folder / TEXT).write_text(tiny_text(200, seed=0), encoding="utf-8")
    write(STUDY, folder)
    return folder, run(folder, "--cores", "2", "experiments")


@pytest.fixture
def folder(finished, tmp_path):
    """Return a copy of the folder, to be changed."""
    return copytree(finished[0], tmp_path / "a copy")


def announced(folder, *words):
    """Return the number of jobs by rule, and the text beside it, that a dry run prints."""
    lines = RULE.findall(run(folder, *words, "--dry-run").stdout)
    return {rule: int(count) for rule, count, _ in lines}, {rule: text for rule, _, text in lines}


def trained(folder):
    """Return how many runs were trained by the last call, and how many copied from the store."""
    counts = Counter(JobRecord.read(path).cache_hit for path in (folder / RUNS).rglob(RECORD))
    return counts[False], counts[True]


def test_each_job_is_a_line_and_the_log_has_the_rest(finished):
    folder, done = finished
    lines = FINISHED.findall(done.stderr)
    labels = [label for *_, label in lines]
    assert [int(number) for number, *_ in lines] == list(range(1, len(lines) + 1))
    assert {"make_corpus tiny", "train sweep/max_lr=0.02/seed0", "plot_experiment tuned"} <= set(labels)
    assert len(labels) == len(set(labels)) == int(lines[0][1])
    assert len(done.stderr.splitlines()) <= len(lines) + 4
    log = folder / re.search(r"\S+\.snakemake\.log", done.stderr)[0]
    assert log.read_text(encoding="utf-8").count("Finished jobid") == len(lines) + 1


def test_the_command_of_the_call_is_remembered(finished):
    session = Session.read(finished[0] / "results/tiny/session.json")
    assert session.command == f"lmpipe run {STUDY_FILE} --cores 2 experiments"


def test_everything_is_below_the_current_folder(finished):
    entries = {path.name for path in finished[0].iterdir()}
    assert entries == {STUDY_FILE, TEXT, "results", "logs", ".snakemake"}


def test_finished_study_has_nothing_to_do(finished):
    done = run(finished[0], "experiments", "-n")
    assert (done.stdout, done.stderr.count("Nothing to be done")) == ("", 1)


def test_dry_run_announces_what_is_trained_and_what_changed(folder):
    """A deleted run is in the store, and one with another budget is not."""
    rmtree(folder / RUNS / "sweep/max_lr=0.01")
    study = json.loads(json.dumps(STUDY))
    study["experiments"]["tuned"]["total_tokens"] = 640
    write(study, folder)
    targets = [SUMMARIES[0], *TABLES]
    jobs, texts = announced(folder, *targets)
    assert jobs == {"train": 2, "select_best": 1, "plot_experiment": 2}
    # The best rate of the sweep may change, and with it the run that takes it.
    assert texts["train"] == "up to 1 to train, 1 from the store; 1 new, 1 changed (training.total_tokens)"
    assert "total_tokens" not in texts["plot_experiment"]
    run(folder, *targets)
    assert trained(folder) == (2, 1)  # the other run of the sweep is still the first call's
    assert announced(folder, *targets) == ({}, {})


def test_dry_run_knows_the_runs_in_the_store(folder):
    rmtree(folder / RUNS)
    (stored, *_) = (folder / "results/tiny/store").glob("*/summary.json")
    for count in (0, 1):
        jobs, texts = announced(folder, *SUMMARIES)
        assert jobs == {"train": 2}
        assert texts["train"] == f"{count} to train, {2 - count} from the store; new"
        stored.unlink(missing_ok=True)


def test_dry_run_names_settings_and_modules_that_changed(folder):
    digest = JobRecord.read(folder / "results/tiny/corpora/tiny" / RECORD).code["data.corpus"]
    for path in (folder / ".snakemake/metadata").iterdir():  # of the jobs, as if they had run with older code
        path.write_text(path.read_text(encoding="utf-8").replace(digest, "0" * len(digest)), encoding="utf-8")
    study = json.loads(json.dumps(STUDY))
    study["corpora"]["tiny"]["tokenizer"] = {"vocab_size": 280, "special_tokens": ["<|user|>"]}
    write(study, folder)
    _, texts = announced(folder, TABLES[0])
    assert texts["make_corpus"] == "changed (data.corpus)"
    assert texts["count_pretokens"] == "changed (special_tokens)"
    assert texts["train_bpe"] == "changed (vocab_size, special_tokens)"
    assert texts["encode_corpus"] == "with new input"


def test_study_without_the_handout_makes_only_what_its_report_shows(folder):
    problems = {"evaluate_tokenizers", "demonstrate_unicode", "account_models", "profile_model", "sgd_toy"}
    assert announced(folder)[0].keys() >= problems | {"benchmark_batch_sizes"}
    write(STUDY | {"handout": "none"}, folder)
    jobs, _ = announced(folder)
    assert (
        jobs.keys().isdisjoint(problems | {"benchmark_batch_sizes"})
        and {"analyze", "report", "generate"} <= jobs.keys()
    )
    assert announced(folder, "results/tiny/unicode.json")[0] == {"demonstrate_unicode": 1}


def test_options_after_two_dashes_are_snakemakes(finished):
    done = run(finished[0], "-n", TABLES[0], "--", "--forcerun", "plot_experiment")
    assert RULE.findall(done.stdout) == [("plot_experiment", "1", "forced")]


def test_failing_job_shows_the_end_of_its_log(folder):
    (folder / TEXT).write_text(" ", encoding="utf-8")
    done = run(folder, "results/tiny/corpora/tiny/corpus.json", check=False)
    assert done.returncode == 1
    assert done.stderr.count("failed: make_corpus tiny") == 1
    assert done.stderr.count("lmpipe make-corpus: ") == 1 and "Traceback" not in done.stderr
    assert "CalledProcessError" not in done.stderr
    assert "lmpipe report results/tiny" in done.stderr


def test_wrong_study_is_one_line(folder):
    write(STUDY | {"seeds": []}, folder)
    done = run(folder, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{STUDY_FILE}: seeds" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
