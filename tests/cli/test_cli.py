"""The parser of each command, its examples, and what the command line loads."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lmpipe import __version__
from lmpipe.cli.main import SPINNING, limit_spinning, main, make_parser, parse
from lmpipe.planning.stages import STAGES
from lmpipe.tokenizer.tokenizer import Tokenizer
from lmpipe.training.run_documents import RunSummary
from tests.support.cli_cases import ARGUMENTS, CORPUS, RESULTS, RUN, STUDY_FILE, TOKENIZER

PARSERS = make_parser()._subparsers._group_actions[0].choices
HEAVY = {"torch", "numba", "llvmlite", "pandas", "matplotlib", "scipy"}


def test_every_command_has_a_case():
    assert set(PARSERS) == {*ARGUMENTS, "download", "init", "run"}


def test_every_stage_has_a_command():
    assert {stage.command for stage in STAGES} <= set(PARSERS)


@pytest.mark.parametrize("name", PARSERS)
def test_help_ends_with_an_example_that_parses(name, capsys):
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    examples = re.findall(r"^  lmpipe (.*)$", capsys.readouterr().out.partition("example")[2], re.MULTILINE)
    assert examples
    for example in examples:
        assert parse(shlex.split(example)).command == name


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"lmpipe {__version__}\n"


@pytest.mark.parametrize(
    ("option", "value"),
    [("--threads", value) for value in ("0", "-1", "x", "1.5")]
    + [("--checkpoint-seconds", value) for value in ("-1", "x", "nan", "inf")],
)
def test_wrong_number_is_named(capsys, option, value):
    with pytest.raises(SystemExit) as caught:
        main(["train", "results", "a/b/seed0", f"{option}={value}"])
    assert caught.value.code == 1
    message = capsys.readouterr().err
    assert option in message and repr(value) in message and message.count("\n") == 1


def test_interrupted_command_ends_with_one_line(capsys, monkeypatch):
    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("lmpipe.planning.plan.read_plan", interrupt)
    with pytest.raises(SystemExit) as caught:
        main(["estimate", "study.yaml"])
    assert (caught.value.code, capsys.readouterr().err) == (130, "interrupted\n")


def test_tokenizer_from_text_to_tokens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "the cat and the hat\n<|endoftext|>\n" * 50
    (tmp_path / "train.txt").write_text(text, encoding="utf-8")
    main(["count-pretokens", "--text", "train.txt", "--output", "p/0.npz"])
    main(["train-bpe", "--counts", "p/0.npz", "--vocab-size", "262", "--output", "t/c"])
    main(["encode", "--text", "train.txt", "--tokenizer", "t/c", "--output", "k/train.bin"])
    record = json.loads((tmp_path / "k" / "train.json").read_text(encoding="utf-8"))
    assert record["text_bytes"] == len(text)
    assert record["tokens"] * 2 == (tmp_path / "k" / "train.bin").stat().st_size


def test_light_commands_load_no_heavy_package(whole_study):
    calls = [["estimate", STUDY_FILE], ["status", RESULTS, "--once"], ["verify", RESULTS], ["--help"]]
    code = (
        "import json, sys\nfrom lmpipe.cli.main import main\ntry:\n    for call in json.loads(sys.argv[1]):\n"
        f"        main(call)\nexcept SystemExit:\n    print({HEAVY} & set(sys.modules), file=sys.stderr)"
    )
    arguments = [sys.executable, "-c", code, json.dumps(calls)]
    done = subprocess.run(arguments, cwd=whole_study, capture_output=True, text=True)
    assert done.stderr == "set()\n", done.stderr


def test_the_parser_loads_no_schema():
    code = "import sys\nfrom lmpipe.cli.main import make_parser\nmake_parser()\n"
    code += "print({'pydantic', 'yaml', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_evaluation_of_the_validation_text_is_that_of_the_training(whole_study, monkeypatch, capsys):
    monkeypatch.chdir(whole_study)
    main(["evaluate", RUN, f"{CORPUS}/valid.txt", f"{CORPUS}/train.txt"])
    _, valid, train = (line.split() for line in capsys.readouterr().out.splitlines())
    summary = RunSummary.read(f"{RUN}/summary.json")
    figures = [summary.validation_loss, summary.perplexity, summary.bits_per_byte]
    assert [float(figure) for figure in valid[1:4]] == pytest.approx(figures, rel=1e-5)
    assert valid[4].endswith("valid.txt") and train[4].endswith("train.txt") and train[1] != valid[1]


def test_tokens_are_shown_with_the_pieces_of_the_text(whole_study, monkeypatch, capsys):
    monkeypatch.chdir(whole_study)
    text = "the sun\n\N{SNOWMAN} sat"
    Path("tokenize.txt").write_text(text, encoding="utf-8")
    outputs = []
    for arguments in ([TOKENIZER, text], [RUN, "--file", "tokenize.txt"]):
        main(["tokenize", *arguments])
        outputs.append(capsys.readouterr().out)
        main(["tokenize", *arguments, "--ids"])
        ids = list(map(int, capsys.readouterr().out.split()))
    assert outputs[0] == outputs[1]
    rows = [line.split("\t") for line in outputs[0].splitlines()]
    assert [int(token_id) for token_id, _ in rows] == ids == Tokenizer.from_folder(TOKENIZER).encode(text)
    pieces = [ast.literal_eval(piece) for _, piece in rows]
    joined = b"".join(piece if isinstance(piece, bytes) else piece.encode() for piece in pieces)
    assert joined.decode() == text
    Path("tokenize.txt").unlink()


@pytest.mark.parametrize("policy", [None, "active"])
def test_waiting_threads_sleep_soon_unless_the_user_decides(monkeypatch, policy):
    """Otherwise two threads and a busy core train many times slower."""
    for name in ("OMP_WAIT_POLICY", *SPINNING):
        monkeypatch.delenv(name, raising=False)
    if policy:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    limit_spinning()
    assert {name for name in SPINNING if name in os.environ} == (set() if policy else set(SPINNING))
    for name in SPINNING:
        monkeypatch.delenv(name, raising=False)
