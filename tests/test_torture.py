"""The torture runs in small: a few tries of each fault, and that their oracles notice what is lost."""

import os
import re
from pathlib import Path

import pytest

from bench import faults, study_faults, torture
from bench.faults import Fault, LostError, run_fault

ROOT = Path(__file__).parent.parent
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
# What a shell gets without quotes: numbers that the plan has checked.
NUMBERS = {"threads", "wildcards.shard", "params.shards", "params.vocab_size"}


def test_every_fault_is_tried_here():
    assert TRIES.keys() == torture.FAULTS.keys()


@pytest.mark.parametrize(("name", "tries"), TRIES.items())
def test_nothing_is_lost(name, tries):
    outcome = run_fault(torture.FAULTS[name], 0, tries)
    assert outcome.losses == {}
    assert outcome.survived.total() == tries
    # Harm that is always refused, or never, tries nothing.
    assert tries == 1 or len(outcome.survived) > 1


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
    assert "python -m bench.torture --only 'bad' --seed 8 --tries 1\n" in printed
    assert len(re.findall(loss, printed)) == 2
    assert re.search(r"^bad +2 +0 +2 ", printed, re.MULTILINE)


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
