import json
import subprocess
import sys

import pytest

from lmpipe import __version__
from lmpipe.cli.main import main, make_parser


def verbs():
    return list(make_parser()._subparsers._group_actions[0].choices)


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    assert f"lmpipe {verb}" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"lmpipe {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["select-best", "--settings", '{"experiment": "x", "runs": [["a", 0]]}', "--results", "r", "--output", "b"],
            "r/runs/x/a/seed0/config.json: no such file; make it first",
        ),
        (["count-pretokens", "--text", "none.txt", "--output", "a.npz"], "none.txt"),
        (["encode-corpus", "--text", "none.txt", "--tokenizer", "nowhere", "--output", "a.bin"], "nowhere"),
        (["train-bpe", "--counts", "none.npz", "--corpus", "c", "--vocab-size", "300", "--output", "t"], "none.json"),
        (["generate", "--run", "nowhere", "--prompt", "x"], "nowhere"),
        (["generate", "--run", "nowhere"], "expected --prompt TEXT, or all of --settings, --texts and --output"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = subprocess.run([sys.executable, "-m", "lmpipe.cli.main", *arguments], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith(f"lmpipe {arguments[0]}: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == [], "nothing half-made is left"


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5"])
def test_counts_must_be_positive(capsys, value):
    with pytest.raises(SystemExit) as caught:
        main(["train", "--settings", "{}", "--results", "r", "--output", "o", "--threads", value])
    assert caught.value.code == 1
    assert f"expected a whole number of at least 1, found '{value}'" in capsys.readouterr().err


def test_a_tokenizer_from_text_to_tokens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "the cat and the hat\n<|endoftext|>\n" * 50
    (tmp_path / "train.txt").write_text(text, encoding="utf-8")
    main(["count-pretokens", "--text", "train.txt", "--output", "p/0.npz"])
    main(["train-bpe", "--counts", "p/0.npz", "--corpus", "c", "--vocab-size", "262", "--output", "t/c"])
    main(["encode-corpus", "--text", "train.txt", "--tokenizer", "t/c", "--output", "k/train.bin"])
    record = json.loads((tmp_path / "k" / "train.json").read_text(encoding="utf-8"))
    assert record["text_bytes"] == len(text)
    assert record["tokens"] * 2 == (tmp_path / "k" / "train.bin").stat().st_size


@pytest.mark.parametrize("value", ["-1", "x", "nan", "inf"])
def test_times_must_be_seconds(capsys, value):
    with pytest.raises(SystemExit) as caught:
        main(["train", "--settings", "{}", "--results", "r", "--output", "o", f"--checkpoint-seconds={value}"])
    assert caught.value.code == 1
    assert f"expected seconds, found '{value}'" in capsys.readouterr().err
