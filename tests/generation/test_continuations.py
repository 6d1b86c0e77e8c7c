"""Continuations of prompts by the command: their number, their files, and their limits."""

import json
from contextlib import nullcontext

import pytest

from lmpipe.cli.main import main
from lmpipe.errors import InputError
from lmpipe.generation.continuations import continue_prompts, read_prompts
from lmpipe.generation.inference import load_run
from lmpipe.generation.sampling import generate
from lmpipe.study.schema import SamplesSettings
from tests.support.cli_cases import RUN

SAMPLES = {"models": {"tiny": "a/b"}, "prompts": [""], "temperature": [1], "top_p": [1]}
SETTINGS = {"temperature": 0.8, "top_p": 0.9, "max_new_tokens": 12, "seed": 3}


@pytest.fixture(autouse=True)
def _in_the_study(whole_study, monkeypatch):
    monkeypatch.chdir(whole_study)


def written(capfdbinary, prompts, samples=1, output=None, **settings):
    """Return what continue_prompts writes, to standard output or to a file."""
    continue_prompts(RUN, prompts, samples, **SETTINGS | settings, output=output)
    return output.read_bytes() if output else capfdbinary.readouterr().out


def expected(prompts):
    model, tokenizer = load_run(RUN)
    return [tokenizer.decode(sample.new_ids) for sample in generate(model, tokenizer, prompts, **SETTINGS)]


def test_file_has_the_bytes_of_standard_output(tmp_path, capfdbinary):
    for prompts, samples in ((["the sun"], 1), (["the \udcff sun"], 1), (["the", "a stone"], 2)):
        shown = written(capfdbinary, prompts, samples)
        assert shown == written(capfdbinary, prompts, samples, tmp_path / "texts.txt")
        assert shown.count(b"<|endoftext|>") == len(prompts) * samples - 1


def test_samples_of_a_prompt_differ_and_the_first_is_the_single_one(tmp_path, capfdbinary):
    lines = written(capfdbinary, ["the", "a"], 3, tmp_path / "texts.jsonl").splitlines()
    records = list(map(json.loads, lines))
    assert [record["prompt"] for record in records] == ["the"] * 3 + ["a"] * 3
    assert [record["text"] for record in records] == expected(["the"] * 3 + ["a"] * 3)
    assert records[0]["text"] == expected(["the"])[0]
    assert len({record["text"] for record in records[:3]}) == 3
    assert all(record["reached_eos"] or record["tokens"] == 12 for record in records)


def test_prompts_are_the_lines_of_a_file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"\xef\xbb\xbfthe sun\r\n\n  a  stone\n")
    assert read_prompts(path) == ["the sun", "  a  stone"]
    for data in (b"", b"\n\n", b"the\n\xff\n"):
        path.write_bytes(data)
        with pytest.raises(InputError) as caught:
            read_prompts(path)
        assert caught.value.where == str(path)
    assert "line 2" in caught.value.problem


@pytest.mark.parametrize(
    ("key", "values", "listed"),
    [
        ("seed", [-1, 0, 2**32 - 1, 2**32], "seeds"),
        ("temperature", [-0.1, 0, 9], "temperature"),
        ("top_p", [0, 1e-9, 1, 1.1], "top_p"),
        ("max_new_tokens", [-1, 0, 1], None),
    ],
)
def test_limits_are_those_of_a_study(key, values, listed, capfd):
    option = f"--{key.replace('_', '-')}"
    for value in values:
        changed = {listed: [value]} if listed else {key: value}
        try:
            SamplesSettings.model_validate(SAMPLES | changed)
            code = 0
        except ValueError:
            code = 1
        with pytest.raises(SystemExit) if code else nullcontext():
            main(["generate", "--run", RUN, "--prompt", "", "--max-new-tokens", "2", f"{option}={value}"])
        assert (option in capfd.readouterr().err) == bool(code), value


def test_empty_prompt_is_that_of_a_new_document(capfdbinary):
    (prompt,) = SamplesSettings.model_validate(SAMPLES).prompts_for("tiny")
    assert written(capfdbinary, [""]) == written(capfdbinary, [prompt]).removeprefix(prompt.encode())
