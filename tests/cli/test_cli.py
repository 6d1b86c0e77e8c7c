"""The parser of each command, its examples, and what the command line loads."""

import json
import re
import shlex
import subprocess
import sys

import pytest

from lmpipe import __version__
from lmpipe.cli.main import main, make_parser, parse
from lmpipe.planning.stages import STAGES
from tests.support.cli_cases import ARGUMENTS, RESULTS, STUDY_FILE

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
