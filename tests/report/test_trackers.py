"""`lmpipe log`: what TensorBoard and W&B read from its files, for runs that are over and under way."""

import json
import shutil
import subprocess
import sys
import time
from collections import defaultdict

import numpy as np
import pytest
from safetensors.numpy import save_file

from lmpipe.cli.main import main
from lmpipe.io.process_identity import ProcessIdentity
from lmpipe.planning.plan import load_plan
from lmpipe.planning.session import start_session
from lmpipe.provenance.checksums import entries
from lmpipe.report import trackers
from lmpipe.report.trackers import checkpoint_rows, parse_rows
from lmpipe.training.progress import METRICS_TENSOR, PROGRESS
from lmpipe.training.run import train
from tests.support.fake_results import fabricate_study
from tests.support.tiny_study import make_tiny_study, tiny_run
from tests.support.training_runs import StoppedError, stop, stop_at
from tests.support.wandb_file import read_records

RATES = {"learning_rate": {"corpus": "stories", "sweep": {"max_lr": [0.01, 3.0]}}}
GOOD, DIVERGED = "learning_rate/max_lr=0.01/seed0", "learning_rate/max_lr=3.0/seed0"
FINGERPRINT = "0123456789abcdef0123"


@pytest.fixture(scope="module", autouse=True)
def end_of_wandb():
    """End the process that wandb starts for its runs."""
    yield
    import wandb

    wandb.teardown()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the results folder of a study with two runs that are over."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    results = fabricate_study(tmp_path / "results/fabricated", RATES)
    start_session(load_plan(results.study, "the fabricated study"), 2, [])
    return results.folder


@pytest.fixture
def unfinish(folder):
    """Return a function that makes GOOD a run under way whose checkpoint has some rows; and restores it without."""
    run, store, aside = folder / "runs" / GOOD, folder / "store" / FINGERPRINT, folder / "aside"

    def change(num_rows=None):
        if aside.exists():
            shutil.copytree(aside, run)
        else:
            shutil.copytree(run, aside)
        if num_rows is None:
            shutil.rmtree(store)
            return
        content = {
            "config": json.loads((run / "config.json").read_text(encoding="utf-8")),
            "planned_steps": 200,
            "process": ProcessIdentity.current().model_dump(),
            "step": num_rows - 1,
            "training_loss": 3.25,
            "best_validation_loss": 3.5,
            "tokens_per_second": 1024.0,
            "updated_at": time.time(),
        }
        lines = (run / "metrics.csv").read_text(encoding="utf-8").splitlines(keepends=True)
        shutil.rmtree(run)
        (store / "checkpoints").mkdir(parents=True, exist_ok=True)
        (store / PROGRESS).write_text(json.dumps(content), encoding="utf-8")
        text = np.frombuffer("".join(lines[: 1 + num_rows]).encode(), np.uint8)
        save_file({METRICS_TENSOR: text.copy()}, store / f"checkpoints/step-{num_rows:010d}.safetensors")

    return change


def rows_of(folder, run):
    return parse_rows((folder / "runs" / run / "metrics.csv").read_text(encoding="utf-8"))


def tensorboard_scalars(folder, run):
    """Return steps and values by tag, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tensorboard" / run), size_guidance={"scalars": 0})
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in tags}


def wandb_runs(folder):
    """Return the files of each W&B run by its name, the oldest first; each as (config, history, summary)."""
    import wandb

    wandb.teardown()  # its process has written everything when it ends
    runs = defaultdict(list)
    for path in sorted(folder.glob("wandb/wandb/offline-run-*/*.wandb")):
        config, history, summary = {}, [], {}
        for record in read_records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                name = record.run.display_name
                config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
            elif kind == "history":
                history.append({item.nested_key[0]: json.loads(item.value_json) for item in record.history.item})
            elif kind == "summary":
                for item in record.summary.update:
                    summary[item.key or item.nested_key[0]] = json.loads(item.value_json)
        runs[name].append((config, history, summary))
    return runs


def column(rows, name):
    return [(int(row["step"]), row[name]) for row in rows if name in row]


def test_tensorboard_reads_every_row_and_the_final_losses(folder):
    main(["log", str(folder), "--to", "tensorboard"])
    for run in (GOOD, DIVERGED):
        scalars, rows = tensorboard_scalars(folder, run), rows_of(folder, run)
        for name in ("train_loss", "validation_loss", "tokens", "wall_seconds"):
            assert [step for step, _ in scalars[name]] == [step for step, _ in column(rows, name)]
            assert scalars[name] == [(step, pytest.approx(value)) for step, value in column(rows, name)]
    summary = json.loads((folder / "runs" / GOOD / "summary.json").read_text(encoding="utf-8"))
    assert tensorboard_scalars(folder, GOOD)["final/validation_loss"] == [
        (rows_of(folder, GOOD)[-1]["step"], pytest.approx(summary["validation_loss"]))
    ]


def test_tensorboard_reads_the_settings(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    main(["log", str(folder), "--to", "tensorboard"])
    accumulator = EventAccumulator(str(folder / "tensorboard" / GOOD))
    accumulator.Reload()
    content = accumulator.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    settings = metadata.parse_session_start_info_plugin_data(content).hparams
    assert settings["max_lr"].number_value == 0.01 and settings["norm"].string_value == "pre"


def test_wandb_reads_every_row_the_settings_and_the_summary(folder):
    main(["log", str(folder), "--to", "wandb"])
    runs = wandb_runs(folder)
    assert runs.keys() == {GOOD, DIVERGED}
    for run in runs:
        [(config, history, summary)] = runs[run]
        rows = rows_of(folder, run)
        for name in ("train_loss", "validation_loss", "tokens"):
            logged = [(row["_step"], row[name]) for row in history if name in row]
            assert logged == column(rows, name)
        assert config["corpus"] == "stories" and config["max_lr"] == float(run.split("=")[1].split("/")[0])
        assert summary["status"] == ("finished" if run == GOOD else "diverged")


def test_second_call_writes_nothing(folder):
    for tracker, files in (("tensorboard", "events.*"), ("wandb", "*.wandb")):
        main(["log", str(folder), "--to", tracker])
        before = sorted((folder / tracker).rglob(files))
        contents = {run: tensorboard_scalars(folder, run) for run in (GOOD, DIVERGED)}
        main(["log", str(folder), "--to", tracker])
        assert sorted((folder / tracker).rglob(files)) == before
        assert {run: tensorboard_scalars(folder, run) for run in (GOOD, DIVERGED)} == contents


def complete_later(folder, unfinish, tracker, monkeypatch):
    """Log a run twice under way and once when it is over, as one training; return its fingerprint's rows."""
    monkeypatch.setattr("lmpipe.training.run_documents.RunConfig.fingerprint", lambda config, code: FINGERPRINT)
    for num_rows in (4, 9, None):
        unfinish(num_rows)
        main(["log", str(folder), "--to", tracker])
    return rows_of(folder, GOOD)


def test_rows_of_a_run_under_way_are_continued_in_tensorboard(folder, unfinish, monkeypatch):
    rows = complete_later(folder, unfinish, "tensorboard", monkeypatch)
    scalars = tensorboard_scalars(folder, GOOD)
    for name in ("train_loss", "validation_loss"):
        assert scalars[name] == [(step, pytest.approx(value)) for step, value in column(rows, name)]


def test_rows_of_a_run_under_way_are_continued_in_wandb(folder, unfinish, monkeypatch):
    rows = complete_later(folder, unfinish, "wandb", monkeypatch)
    parts = wandb_runs(folder)[GOOD]
    # `wandb sync` uploads the files of one run in their order.
    assert [len(history) for _, history, _ in parts] == [3, 5, len(rows) - 8]
    history = [row for _, part, _ in parts for row in part]
    assert [(row["_step"], row["train_loss"]) for row in history if "train_loss" in row] == column(rows, "train_loss")


def test_a_run_trained_again_replaces_its_rows(folder):
    main(["log", str(folder), "--to", "tensorboard"])
    path = folder / "runs" / GOOD / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8")) | {"code": {"model.transformer": "f" * 16}}
    path.write_text(json.dumps(summary), encoding="utf-8")
    metrics = folder / "runs" / GOOD / "metrics.csv"
    metrics.write_text(metrics.read_text(encoding="utf-8").replace(",0.01,", ",0.02,"), encoding="utf-8")
    main(["log", str(folder), "--to", "tensorboard"])
    rows = rows_of(folder, GOOD)
    scalars = tensorboard_scalars(folder, GOOD)
    for name in ("train_loss", "learning_rate"):
        assert scalars.get(name, []) == [(step, pytest.approx(value)) for step, value in column(rows, name)]


def test_following_ends_with_the_study_and_has_every_row(folder, unfinish, monkeypatch):
    monkeypatch.setattr("lmpipe.training.run_documents.RunConfig.fingerprint", lambda config, code: FINGERPRINT)
    monkeypatch.setattr(trackers, "FOLLOW_SECONDS", 0.0)
    calls = iter([4, 9, None])
    # Active until the run is over.
    monkeypatch.setattr(trackers, "is_active", lambda snapshot: (folder / "store" / FINGERPRINT).exists())
    histories = trackers.run_histories

    def advance(snapshot, logged):
        unfinish(next(calls))
        return histories(trackers.StudyFiles(snapshot.files.study).snapshot(time.time()), logged)

    monkeypatch.setattr(trackers, "run_histories", advance)
    main(["log", str(folder), "--to", "tensorboard", "--follow"])
    scalars = tensorboard_scalars(folder, GOOD)
    rows = rows_of(folder, GOOD)
    assert scalars["train_loss"] == [(step, pytest.approx(value)) for step, value in column(rows, "train_loss")]
    assert len(list((folder / "tensorboard" / GOOD).iterdir())) == 1


def test_metrics_of_a_run_that_is_logged_are_not_read_again(folder, monkeypatch):
    main(["log", str(folder), "--to", "tensorboard"])
    read = []
    monkeypatch.setattr("lmpipe.report.trackers.parse_rows", lambda text: read.append(text) or [])
    main(["log", str(folder), "--to", "tensorboard"])
    assert read == []


def test_files_of_trackers_are_no_results(folder):
    before = dict(entries(folder))
    main(["log", str(folder), "--to", "tensorboard"])
    assert dict(entries(folder)) == before


def test_rows_of_a_checkpoint_are_the_first_of_the_finished_run(tmp_path, monkeypatch):
    study = make_tiny_study(tmp_path / "results")
    stop_at(monkeypatch, 30, stop)
    with pytest.raises(StoppedError):
        train(tiny_run(), study, study / "run", checkpoint_seconds=0)
    [store] = study.glob("store/*/")
    rows = checkpoint_rows(store)
    assert len(rows) > 10
    train(tiny_run(), study, study / "run")
    assert rows == parse_rows((study / "run/metrics.csv").read_text(encoding="utf-8"))[: len(rows)]


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
def test_missing_package_is_named(folder, tracker, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, tracker, None)
    with pytest.raises(SystemExit):
        main(["log", str(folder), "--to", tracker])
    assert f"pip install {tracker}" in capsys.readouterr().err


def test_logging_loads_no_torch(folder):
    code = (
        "import sys\nfrom lmpipe.cli.main import main\n"
        f"main(['log', {str(folder)!r}, '--to', 'tensorboard'])\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
