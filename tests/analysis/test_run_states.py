import json
import os
import shutil
import time
from pathlib import Path

import pytest

from lmpipe.analysis.run_states import StudyFiles, last_lines
from lmpipe.cli.main import main
from lmpipe.io.process_identity import ProcessIdentity
from lmpipe.planning.plan import load_plan
from lmpipe.planning.session import StudySession, find_study, start_session, write_study
from lmpipe.planning.stages import STAGES
from lmpipe.study.paths import StudyPaths
from lmpipe.training import progress
from lmpipe.training.progress import PROGRESS
from lmpipe.training.step import TrainingStep
from tests.support.fake_results import fabricate_study, fake_study
from tests.support.forked import ForkedProcess
from tests.support.tiny_study import MODEL, TRAINING, make_tiny_study

RATES = {"learning_rate": {"corpus": "stories", "sweep": {"max_lr": [0.001, 0.01, 3.0]}}}
RUN = "learning_rate/max_lr=0.01/seed0"


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Return a made-up study of this process with three finished runs."""
    monkeypatch.chdir(tmp_path)
    results = fabricate_study(tmp_path / "results/fabricated", RATES)
    start_session(load_plan(results.study, "the fabricated study"), 2, [])
    return find_study("results/fabricated")


def state_of(study: StudySession, name: str = "max_lr=0.01"):
    return next(run for run in StudyFiles(study).snapshot(time.time()).runs if run.run.name == name)


def change_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def write_log(study: StudySession, text: str, path: str = f"train/{RUN}.log") -> Path:
    log = study.logs / path
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(text, encoding="utf-8")
    return log


def remove_results(study: StudySession, **progress) -> dict:
    """Remove the results of a run; leave its progress, if some is given."""
    folder = study.folder / "runs" / RUN
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shutil.rmtree(folder)
    content = {
        "config": config,
        "planned_steps": 200,
        "process": ProcessIdentity.current().model_dump(),
        "step": 50,
        "training_loss": 3.25,
        "best_validation_loss": 3.5,
        "tokens_per_second": 1024.0,
        "updated_at": time.time(),
    }
    if progress:
        store = study.folder / "store" / "0123456789abcdef0123"
        store.mkdir(parents=True)
        (store / PROGRESS).write_text(json.dumps(content | progress), encoding="utf-8")
    return config


def ended_process() -> dict:
    """Return a process of this machine that has ended."""
    return ProcessIdentity.current().model_dump() | {"create_time": 1.0}


def test_runs_that_are_over(study):
    states = {run.run.name: run.state for run in StudyFiles(study).snapshot(time.time()).runs}
    assert states == {"max_lr=0.001": "done", "max_lr=0.01": "done", "max_lr=3.0": "diverged"}
    change_json(study.folder / "runs" / RUN / "summary.json", status="not_learning", validation_loss=5.0)
    run = state_of(study)
    assert (run.state, run.validation_loss, run.share) == ("not_learning", 5.0, 1)


def test_results_of_other_settings_are_no_results_and_damaged_ones_are_a_failure(study):
    folder = study.folder / "runs" / RUN
    (folder / "summary.json").write_text("{", encoding="utf-8")
    run = state_of(study)
    assert run.state == "failed"
    assert "summary.json" in run.remark
    change_json(folder / "config.json", corpus="docs")
    (folder / "summary.json").write_text((folder.parents[1] / "max_lr=0.001/seed0/summary.json").read_text())
    assert state_of(study).state == "waiting"


def test_run_in_progress(study):
    remove_results(study, step=50)
    run = state_of(study)
    assert (run.state, run.step, run.training_loss, run.validation_loss) == ("running", 50, 3.25, 3.5)
    # 150 steps of 16 * 128 tokens at 1,024 tokens a second.
    assert run.seconds_left == 300
    assert run.share == 0.25


def test_a_run_whose_process_is_gone_has_stopped_or_failed(study):
    remove_results(study, process=ended_process())
    assert state_of(study).state == "stopped"
    write_log(study, "training: 10 of 20 tokens\ninterrupted after step 50; saved x\n")
    run = state_of(study)
    assert (run.state, run.remark) == ("stopped", "after step 50; resumes from its last checkpoint")
    write_log(study, 'Traceback (most recent call last):\n  File "x"\nMemoryError: \x1b[31mno room\n')
    run = state_of(study)
    assert (run.state, run.remark) == ("failed", "MemoryError:  [31mno room")


def test_a_run_whose_job_failed_before_its_first_step(study):
    remove_results(study)
    assert state_of(study).state == "waiting"
    line = "lmpipe train: --settings: model: expected more, found less; correct it"
    log = write_log(study, f"{line}\n")
    assert (state_of(study).state, state_of(study).remark) == ("failed", line)
    os.utime(log, (study.started - 10, study.started - 10))
    assert state_of(study).state == "waiting", "the failure of an earlier call"


def test_a_job_that_has_just_started_waits_or_was_killed_without_a_word(study):
    remove_results(study)
    log = write_log(study, "")
    assert state_of(study).state == "running"
    long_ago = time.time() - 3600
    os.utime(log, (long_ago, long_ago))
    assert state_of(StudySession(study.plan, study.folder, study.session, started=long_ago - 1)).state == "stopped"
    write_log(study, "waiting for the process that trains this run (results/x/store/0123)\n")
    assert state_of(study).state == "waiting"


def test_progress_of_other_settings_or_a_damaged_one_is_not_taken_for_this_run(study):
    config = remove_results(study, step=50)
    (path,) = study.folder.glob(f"store/*/{PROGRESS}")
    change_json(path, config=config | {"training": config["training"] | {"batch_size": 2}})
    assert state_of(study).state == "waiting"
    path.write_text("{", encoding="utf-8")
    assert state_of(study).state == "waiting"


def test_other_jobs_that_failed(study):
    write_log(study, "counting\nlmpipe make-corpus: no texts; add some\n", "make_corpus/docs.log")
    write_log(study, "encoding: 10 of 20 bytes\n", "encode_corpus/docs-train.log")
    write_log(study, "", "find.log")
    snapshot = StudyFiles(study).snapshot(time.time())
    assert [(job.log, job.line) for job in snapshot.failed_jobs] == [
        ("make_corpus/docs.log", "lmpipe make-corpus: no texts; add some")
    ]


def test_stages_are_counted_by_their_records_and_all_of_them_finish_a_study(study):
    (study.folder / "corpora/docs/provenance.json").write_text("{}", encoding="utf-8")
    stages = StudyFiles(study).snapshot(time.time()).stages
    assert (stages["corpora"], stages["tokens"]) == ((1, 2), (0, 4))
    for path in (path for stage in STAGES for path in stage.records(study.plan)):
        (study.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (study.folder / path).touch()
    snapshot = StudyFiles(study).snapshot(time.time())
    assert snapshot.has_results()
    assert snapshot.failed_jobs == []


def test_unchanged_documents_are_read_once(study, monkeypatch):
    files = StudyFiles(study)
    before = [run.state for run in files.snapshot(time.time()).runs]
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda path: pytest.fail(f"{path} was read again"))
    assert [run.state for run in files.snapshot(time.time()).runs] == before


def test_only_the_end_of_a_long_log_is_read(tmp_path):
    path = tmp_path / "long.log"
    path.write_text("x\n" * 100_000 + "the end\n\n", encoding="utf-8")
    lines = last_lines(path)
    assert lines[-1] == "the end"
    assert len(lines) < 10_000


def train_slowly(command: list[str]) -> None:
    """Run `lmpipe train` with steps that take 0.05 s, and with its progress written after each."""
    step = TrainingStep.run
    progress.WRITE_SECONDS = 0
    TrainingStep.run = lambda *args, **kwargs: (time.sleep(0.05), step(*args, **kwargs))[1]
    main(command)


def test_a_run_from_its_first_step_over_its_killing_to_its_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = make_tiny_study(tmp_path / "results/fabricated")
    steps = 30
    study = fake_study(
        corpora={"tiny": {"source": "stories", "documents": 100, "tokenizer": {"vocab_size": 263}}},
        model=MODEL,
        training=TRAINING | {"total_tokens": 16 * 4 * steps},
        experiments={"experiment": {"corpus": "tiny"}},
    )
    session = StudySession(load_plan(study, "the tiny study"), results)
    write_study(session.plan, StudyPaths(results))
    command = ["train", str(results), "experiment/baseline/seed0", "--device", "cpu"]

    def wait_for(condition):
        for _ in range(600):
            (run,) = StudyFiles(session).snapshot(time.time()).runs
            if condition(run):
                return run
            time.sleep(0.05)
        raise AssertionError(f"still {run}")

    process = ForkedProcess(train_slowly, command)
    running = wait_for(lambda run: run.step > 0)
    assert running.state == "running"
    assert 0 < running.seconds_left < 600
    assert 0 < running.training_loss < 10
    process.kill()
    process.wait()
    (killed,) = StudyFiles(session).snapshot(time.time()).runs
    assert killed.state == "stopped"
    assert 0 < killed.step < steps
    main(command)
    (over,) = StudyFiles(session).snapshot(time.time()).runs
    assert over.state in ("done", "not_learning")
    assert list(results.glob("store/*/progress.json")) == []
