"""The torture runs in small: a few tries of each fault, and that their oracles notice what is lost."""

import os
import re
import secrets
import signal
from pathlib import Path

import psutil
import pytest

from benchmarks import faults, processes, study_faults, torture, work, workflow_faults
from benchmarks.faults import Fault, LostError, run_fault

ROOT = Path(__file__).parents[2]
TRIES = {
    "study text": 40,
    "study values": 50,
    "study commands": 1,
    "tokenizer files": 25,
    "token files": 15,
    "count files": 15,
    "run files": 30,
    "best.json": 10,
    "inputs of a run": 10,
    "checkpoints": 10,
}
# Faults of processes, whose tries take seconds.
OF_RUNS = {"killed run": 3, "terminated run": 1}
# Tried on a smaller study in test_reruns.py.
OF_STUDIES = {"killed study", "two calls"}
# What a shell gets without quotes: numbers that the plan has checked.
NUMBERS = {
    "threads",
    "resources.runs_per_gpu",
    "wildcards.shard",
    *(f"params.{name}" for name in ("gpus", "shards", "train_threads", "vocab_size")),
}


def test_every_fault_is_tried_here():
    assert TRIES.keys() | OF_RUNS.keys() | OF_STUDIES == torture.FAULTS.keys()


@pytest.mark.parametrize(("name", "tries"), TRIES.items())
def test_nothing_is_lost(name, tries):
    outcome = run_fault(torture.FAULTS[name], 0, tries)
    assert outcome.losses == {}
    assert outcome.survived.total() == tries
    # Harm that is always refused, or never, tries nothing.
    assert tries == 1 or len(outcome.survived) > 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "tries"), OF_RUNS.items())
def test_a_training_run_survives(name, tries):
    outcome = run_fault(torture.FAULTS[name], secrets.randbelow(10**9), tries)
    assert outcome.losses == {}
    assert outcome.survived.total() == tries


def crash(random, folder):
    raise KeyError("vocab")


def run_planted_code(random, folder):
    os.system(f"touch {faults.MARKER}")
    return "read"


def take_long(random, folder):
    while True:
        pass


def take_much(random, folder):
    return str(len(bytearray(2 * faults.MEMORY_BYTES)))


@pytest.mark.parametrize(
    ("attempt", "loss"),
    [
        (crash, "KeyError: 'vocab'.*test_torture.py"),
        (run_planted_code, "LostError: code from a file has run"),
        (take_long, "TimeoutError: took more than"),
        (take_much, "MemoryError"),
    ],
)
def test_a_loss_is_noticed_and_can_be_made_again(attempt, loss, monkeypatch, capsys):
    monkeypatch.setattr(faults, "PROCESSOR_SECONDS", 0.2)
    monkeypatch.setattr(torture, "FAULTS", {"bad": Fault("bad", 3, attempt)})
    with pytest.raises(SystemExit) as end:
        torture.main(["--seed", "7", "--tries", "2"])
    printed = capsys.readouterr().out
    assert end.value.code == 1
    assert "python -m benchmarks.torture --only 'bad' --seed 8 --tries 1\n" in printed
    assert len(re.findall(loss, printed)) == 2
    assert re.search(r"^bad +2 +0 +2 ", printed, re.MULTILINE)


def stored_run(results):
    """A study's folder with a run in its store, as training leaves it, and its copy."""
    for folder in ("store/abc", "runs/sweep/max_lr=0.01/seed0"):
        (results / folder).mkdir(parents=True)
        for name, content in {
            "summary.json": '{"steps": 7}',
            "metrics.csv": "step,wall_seconds,train_loss\n1,0.1,5.5\n",
            "model.safetensors": "weights",
            "config.json": "{}",
        }.items():
            (results / folder / name).write_text(content)
    (results / "samples").mkdir()
    (results / "samples/more.provenance.json").write_text("{'started': ''}")
    return results


def replace(path, content):
    """Write a file as lmpipe does: under the same name stands another one."""
    new = path.with_name("new")
    new.write_text(content)
    new.replace(path)


def test_trained_steps_are_counted_in_the_store_and_copies_are_not(tmp_path):
    results = stored_run(tmp_path)
    assert work.work_since({}, results).trained == {"sweep/max_lr=0.01/seed0": 7}
    before = work.stamps(results)
    replace(results / "runs/sweep/max_lr=0.01/seed0/summary.json", '{"steps": 7}')
    assert not work.work_since(before, results)
    replace(results / "store/abc/summary.json", '{"steps": 7}')
    assert work.work_since(before, results).trained == {"sweep/max_lr=0.01/seed0": 7}


@pytest.mark.parametrize("name", ["summary.json", "metrics.csv", "model.safetensors"])
def test_a_run_that_is_trained_twice_is_noticed_though_its_bytes_are_the_same(tmp_path, name):
    results = stored_run(tmp_path)
    watch = workflow_faults.Watch(results)
    watch.look()
    path = results / "store/abc" / name
    replace(path, path.read_text())
    with pytest.raises(LostError, match="trained once"):
        watch.look()


RUN = "runs/sweep/max_lr=0.01/seed0"


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        (f"{RUN}/metrics.csv", "step,wall_seconds,train_loss\n1,0.9,5.5\n", []),
        (f"{RUN}/metrics.csv", "step,wall_seconds,train_loss\n1,0.1,5.6\n", [f"{RUN}/metrics.csv"]),
        (f"{RUN}/model.safetensors", "weighty", [f"{RUN}/model.safetensors"]),
        (f"{RUN}/summary.json", "{}", []),
        ("samples/more.provenance.json", "{}", []),
        ("store/abc/model.safetensors", "weighty", []),
        ("tokens/more/train.bin", "x", ["tokens/more/train.bin"]),
    ],
)
def test_what_differs_between_two_studies(tmp_path, name, content, found):
    first, second = stored_run(tmp_path / "first"), stored_run(tmp_path / "second")
    (second / name).parent.mkdir(parents=True, exist_ok=True)
    (second / name).write_text(content)
    assert work.differences(first, second) == found


def test_a_kill_leaves_no_process_behind(tmp_path):
    child = "import time; print('started', flush=True); time.sleep(60)"
    parent = f"""if True:
        import subprocess, sys
        for alone in (False, True):
            subprocess.Popen([sys.executable, "-c", {child!r}], start_new_session=alone)
        {child}
    """
    (tmp_path / "parent.py").write_text(parent)
    log = tmp_path / "log"
    with processes.started(["parent"], tmp_path, log) as process:
        processes.wait_for(process, lambda: log.read_text().count("started") == 3, 0)
        everyone = psutil.Process(process.pid).children(recursive=True)
        assert len(everyone) == 2
        assert processes.kill_all(process)
        assert not any(each.is_running() for each in everyone)
        assert process.returncode == -signal.SIGKILL
        assert not processes.kill_all(process)


def test_without_losses_the_exit_code_is_0(monkeypatch, capsys):
    monkeypatch.setattr(torture, "FAULTS", {"good": Fault("good", 3, lambda random, folder: "refused")})
    with pytest.raises(SystemExit) as end:
        torture.main([])
    assert end.value.code == 0
    assert re.search(r"^good +3 +3 +0 .* refused 3$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    "message", ["a\nb; c", "study.yaml: \x1b[31m; x", "study.yaml: " + "x" * 2000 + "; y", "study.yaml: no"]
)
def test_an_unclear_message_is_a_loss(message):
    with pytest.raises(LostError):
        study_faults.check_message(message, "study.yaml")


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "results/a/../../x",
        "results/a b",
        "results/a//b",
        "results/-n",
        "results/" + "x" * 250,
        "/etc/x",
        "results/...",
    ],
)
def test_a_path_outside_or_an_odd_one_is_a_loss(path, monkeypatch):
    monkeypatch.setattr(study_faults, "paths_of", lambda plan: ["results/a/b", path])
    with pytest.raises(LostError):
        study_faults.check_paths(None)


@pytest.mark.parametrize("paths", [["results/a", "results/A"], ["results/a", "results/a/b"]])
def test_two_results_in_one_place_are_a_loss(paths, monkeypatch):
    monkeypatch.setattr(study_faults, "paths_of", lambda plan: paths)
    with pytest.raises(LostError):
        study_faults.check_paths(None)


def test_a_command_that_a_shell_reads_otherwise_is_a_loss(tmp_path):
    assert study_faults.seen_by_a_shell("lmpipe train 'a b' 2> x.log", tmp_path) == ["train", "a b"]
    with pytest.raises(LostError):
        study_faults.seen_by_a_shell("lmpipe train a; ls nowhere 2> x.log", tmp_path)


def test_rules_quote_every_text_that_reaches_a_shell():
    shells = [
        line
        for path in [ROOT / "Snakefile", *(ROOT / "workflow" / "rules").glob("*.smk")]
        for line in re.findall(r"^ +shell:\n((?:^ +[\"'].*\n)+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert len(shells) > 10
    unquoted = {name for shell in shells for name in re.findall(r"\{([^{}]+?)\}", shell) if not name.endswith(":q")}
    assert unquoted <= NUMBERS
