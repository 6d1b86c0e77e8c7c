"""Every command with a missing and a damaged input, and every parser with each corruption: one line, exit code 1."""

import contextlib
import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmpipe.cli.main import main
from lmpipe.io.documents import Document
from lmpipe.io.files import read_json
from lmpipe.model.accounting import expected_counts
from tests.support.cli_cases import (
    ARGUMENTS,
    CORPUS,
    COUNTS,
    OPTIONAL,
    READS,
    RESOLVED,
    RESULTS,
    RUN,
    STUDY_FILE,
    TEXT,
    TOKENIZER,
    TOKENS,
    command,
    fills_folder,
    lmpipe,
    outputs,
)
from tests.support.corruptions import CORRUPTIONS
from tests.support.fake_results import skip_drawing

FILE_COMMANDS = [name for name, arguments in ARGUMENTS.items() if "--output" in arguments]


class EmptyDocument(Document):
    """Stand-in for a measurement."""


@pytest.fixture(autouse=True)
def _in_the_study(whole_study, monkeypatch):
    """Work in the study's folder, without the seconds that drawing and counting take."""
    monkeypatch.chdir(whole_study)
    skip_drawing(monkeypatch)
    monkeypatch.setattr("lmpipe.tokenizer.unicode_demo.demonstrate_unicode", EmptyDocument)
    for slow in ("profile_step", "benchmark_batch_sizes"):
        monkeypatch.setattr(f"lmpipe.training.profiling.{slow}", lambda model, training, **options: EmptyDocument())
    monkeypatch.setattr("lmpipe.model.torch_counts.count_with_torch", expected_counts)


@contextlib.contextmanager
def without_root_rights() -> Iterator[None]:
    """Let permissions hold for root as well, by giving up the capabilities to override them for a while."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    before, reduced = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, before) == 0
    reduced[:] = before[:]
    # CAP_DAC_OVERRIDE is 1, CAP_DAC_READ_SEARCH is 2; the first of the three numbers are those in effect.
    reduced[0] &= ~0b110
    assert libc.capset(header, reduced) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0


def contents() -> dict[str, bytes | None]:
    """Return every file below this folder with its bytes; None for folders."""
    folders = list(os.walk("."))
    files = {f"{folder}/{name}": Path(folder, name).read_bytes() for folder, _, names in folders for name in names}
    return files | {folder: None for folder, *_ in folders}


def call(arguments: list[str], capfd) -> tuple[int, str]:
    """Return the exit code of a command, and what it wrote to standard error."""
    capfd.readouterr()
    try:
        with without_root_rights():
            main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0), capfd.readouterr().err
    return 0, capfd.readouterr().err


def assert_refused(arguments: list[str], capfd, *locations: str) -> None:
    """Assert that a command ends with exit code 1 and one line that names one of the locations, and changes no file."""
    before = contents()
    code, message = call(arguments, capfd)
    after = contents()
    assert code == 1, "accepted"
    assert message.startswith(f"lmpipe {arguments[0]}: ") and message.count("\n") == 1, message
    assert any(where in message for where in locations), message
    assert after == before


@contextlib.contextmanager
def replaced(path: str, replace: Callable[[bytes], bytes | None]) -> Iterator[None]:
    """Replace the content of a file for a while; None removes the file."""
    file, aside = Path(path), Path(f"{path}.aside")
    data = replace(file.read_bytes())
    file.rename(aside)
    try:
        if data is not None:
            file.write_bytes(data)
        yield
    finally:
        aside.rename(file)


# --- each command, each parser ---------------------------------------------------------------------------------------

FIRST_INPUTS = {name: next(iter(files.items())) for name, files in READS.items()}


@pytest.mark.parametrize("name", FIRST_INPUTS)
def test_missing_input(name, capfd):
    path, _ = FIRST_INPUTS[name]
    with replaced(path, lambda data: None):
        if path in OPTIONAL.get(name, ()):
            assert call(command(name), capfd)[0] == 0
        else:
            assert_refused(command(name), capfd, path, str(Path(path).parent))


@pytest.mark.parametrize(
    ("name", "path"),
    [(name, path) for name, files in READS.items() for path, kind in files.items() if kind != "text"],
    ids=lambda value: value.removeprefix(f"{RESULTS}/"),
)
def test_damaged_input(name, path, capfd):
    with replaced(path, lambda data: data[: len(data) // 2]):
        assert_refused(command(name), capfd, path, str(Path(path).parent))


# A command that does little more than parse a file of each kind.
PARSERS = {
    "json": ("select-best", f"{RUN}/summary.json"),
    "yaml": ("estimate", STUDY_FILE),
    "resolved study": ("account-models", RESOLVED),
    "csv": ("plot-experiment", f"{RUN}/metrics.csv"),
    "npz": ("train-bpe", COUNTS),
    "merges": ("encode", f"{TOKENIZER}/merges.txt"),
    "tokens": ("train", f"{TOKENS}/train.bin"),
    "weights": ("export", f"{RUN}/model.safetensors"),
}


@pytest.mark.parametrize(
    ("kind", "how"), [(kind, how) for kind in PARSERS for how in CORRUPTIONS[kind] if how != "half"]
)
def test_corrupted_file(kind, how, capfd):
    name, path = PARSERS[kind]
    with replaced(path, CORRUPTIONS[kind][how]):
        assert_refused(command(name), capfd, path, str(Path(path).parent))


@pytest.mark.parametrize("how", ["a folder", "unreadable"])
def test_input_that_cannot_be_opened(how, capfd):
    path = Path(f"{CORPUS}/train.txt")
    with replaced(str(path), lambda data: None if how == "a folder" else data):
        if how == "a folder":
            path.mkdir()
        else:
            path.chmod(0)
        try:
            assert_refused(command("count-pretokens"), capfd, str(path))
        finally:
            if path.is_dir():
                path.rmdir()


@pytest.mark.parametrize("how", CORRUPTIONS["text"])
def test_any_bytes_are_a_text(how, tmp_path, capfd):
    path = tmp_path / "text.txt"
    path.write_bytes(CORRUPTIONS["text"][how](Path(TEXT).read_bytes()))
    assert call(["count-pretokens", "--text", str(path), "--output", str(tmp_path / "0.npz")], capfd) == (0, "")


# --- outputs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILE_COMMANDS)
def test_output_that_cannot_be_written(name, tmp_path, capfd):
    arguments, index = command(name), command(name).index("--output") + 1
    read_only, folder = tmp_path / "read-only", tmp_path / "taken"
    read_only.mkdir(mode=0o555)
    if name in ("train-bpe", "import-tokenizer"):
        folder.write_text("a file")
    else:
        (folder / "inside").mkdir(parents=True)
    for output in (read_only / "output", folder, Path(TEXT) / "output", read_only / "new" / "output"):
        arguments[index] = str(output)
        assert_refused(arguments, capfd, str(output), str(output.parent))


@pytest.mark.parametrize("name", ["make-corpus", "train", "select-best", "generate", "analyze", "collect-provenance"])
def test_results_folder_that_cannot_be_written(name, capfd):
    output = outputs()[name]
    folder = output if fills_folder(name) else output.parent
    folder.chmod(0o555)
    try:
        assert_refused(command(name), capfd, str(folder))
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("count-pretokens", f"{CORPUS}/train.txt"),
        ("encode", f"{CORPUS}/train.txt"),
        ("encode", f"{RESULTS}/ids.json"),
    ],
)
def test_output_that_would_replace_an_input_or_another_output(name, output, capfd):
    assert_refused([*command(name)[:-1], output], capfd, output)


# --- files that do not belong together -------------------------------------------------------------------------------


def with_another_token(vocab: dict[str, int]) -> dict[str, int]:
    """Return the vocabulary of a training that merged another pair last."""
    *others, (_, last) = sorted(vocab.items(), key=lambda item: item[1])
    return {**dict(others), "qq": last}


def of_another_model(key: str, value: int) -> Callable[[Any], Any]:
    """Return a change of a run's config.json to that of another model."""
    return lambda config: config | {"model": config["model"] | {key: value}}


def with_another_special_token(exported: dict[str, Any]) -> dict[str, Any]:
    """Return the tokenizer.json of a tokenizer with another special token."""
    return exported | {"added_tokens": [exported["added_tokens"][0] | {"content": "<|end|>"}]}


VOCAB, CONFIG, OTHER_CONFIG = (
    f"{TOKENIZER}/vocab.json",
    f"{RUN}/config.json",
    f"{RUN}/config.json".replace("0.01", "0.02"),
)
FOREIGN = {"name": "x", "sha256": "0" * 64}
EVALUATIONS = ("select-best", "plot-experiment", "analyze")


@pytest.mark.parametrize(
    ("name", "path", "change", "where"),
    [
        ("encode", VOCAB, with_another_token, TOKENIZER),
        ("encode", VOCAB, lambda vocab: vocab | {"qq": 270}, TOKENIZER),
        ("encode", VOCAB, lambda vocab: {name: number for name, number in vocab.items() if number != 65}, TOKENIZER),
        *(("encode", VOCAB, lambda vocab, a=a: vocab | {"A": a}, TOKENIZER) for a in (66, -1, 2**63, 65.0, True)),
        ("encode", VOCAB, lambda vocab: vocab | {"a b": 65}, TOKENIZER),
        ("encode", f"{TOKENIZER}/tokenizer.json", with_another_special_token, TOKENIZER),
        ("train", f"{TOKENS}/train.json", lambda info: read_json(f"{TOKENS}/valid.json"), f"{TOKENS}/train.bin"),
        ("train", f"{TOKENS}/train.json", lambda info: info | {"tokenizer": FOREIGN}, f"{TOKENS}/train.bin"),
        *((name, CONFIG, lambda config: read_json(OTHER_CONFIG), CONFIG) for name in EVALUATIONS),
        ("generate", CONFIG, of_another_model("d_ff", 2**40), RUN),
        ("generate", CONFIG, of_another_model("num_layers", 10**12), RUN),
        ("generate", CONFIG, of_another_model("vocab_size", 2**30), RUN),
        ("generate", CONFIG, of_another_model("d_model", 32), RUN),
    ],
)
def test_files_that_do_not_belong_together(name, path, change, where, capfd):
    with replaced(path, lambda data: json.dumps(change(json.loads(data))).encode()):
        assert_refused(command(name), capfd, where)


@pytest.mark.parametrize("name", ["summary.json", "model.safetensors"])
def test_finished_run_whose_files_in_the_store_are_damaged(name, capfd):
    with contextlib.ExitStack() as stack:
        for file in Path(RESULTS, "store").glob(f"*/{name}"):
            stack.enter_context(replaced(str(file), lambda data: b"{}"))
        assert_refused(command("train"), capfd, name)
    assert call(command("train"), capfd) == (0, "")


def test_clear_runs_removes_nothing_but_runs(tmp_path, capfd):
    for folder in ("0123456789abcdef0123", "photographs"):
        (tmp_path / "store" / folder).mkdir(parents=True)
    assert call(["clear-runs", str(tmp_path)], capfd)[0] == 0
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["photographs"]


@pytest.mark.parametrize("name", ["train", "analyze", "report", "verify", "status", "compare", "prune", "clear-runs"])
def test_results_folder_that_is_none(name, tmp_path, capfd):
    arguments = [str(tmp_path / "none") if argument == RESULTS else argument for argument in command(name)]
    assert_refused(arguments, capfd, str(tmp_path / "none"))


# --- names and options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["train", RESULTS, "sweep/max_lr=0.1/seed0"], "sweep/max_lr=0.01/seed0"),
        (["train", RESULTS, "tuned/base/seed0"], "tuned/baseline/seed0"),
        (["make-corpus", RESULTS, "tini"], "tiny"),
        (["select-best", RESULTS, "swep"], "sweep"),
        (["plot-experiment", RESULTS, "x"], "sweep"),
        (["generate", RESULTS, "tinny"], "tiny"),
    ],
)
def test_unknown_name_comes_with_the_nearest_ones(arguments, near, capfd):
    assert_refused(arguments, capfd, near)


@pytest.mark.parametrize(
    ("name", "options", "where"),
    [
        ("train", ["--device", "cuda:99"], "--device"),
        ("train", ["--device", "nonsense"], "--device"),
        ("train", ["--threads", "9" * 5000], "--threads"),
        ("count-pretokens", ["--shard", "1"], "shard"),
        ("count-pretokens", ["--shard", "-1"], "shard"),
        ("train-bpe", ["--vocab-size", "256"], "vocab_size"),
        ("train-bpe", ["--vocab-size", "10000000"], "vocab_size"),
        ("generate", ["--prompt", "x"], "--prompt"),
        ("generate", ["--run", RUN], "--run"),
        ("generate", ["--output", "x.txt"], "--output"),
        ("prompt", ["--prompts", TEXT], "--prompts"),
        ("prompt", ["--prompt", "-x"], "--prompt=-x"),
        ("tokenize", ["--file", TEXT], "--file"),
        ("prompt", ["--temperature", "nan"], "--temperature"),
        ("prompt", ["--temperature", "-inf"], "--temperature"),
        ("prompt", ["--top-p", "nan"], "--top-p"),
        ("prompt", ["--max-new-tokens", "0"], "--max-new-tokens"),
        ("prompt", ["--run", "nowhere"], "nowhere"),
    ],
)
def test_option_that_is_not_possible(name, options, where, capfd):
    arguments = ["generate", "--run", RUN, "--prompt", "x"] if name == "prompt" else command(name)
    with contextlib.ExitStack() as stack:
        for summary in Path(RESULTS, "store").glob("*/summary.json"):
            # A finished run would be copied with any device.
            stack.enter_context(replaced(str(summary), lambda data: None))
        assert_refused([*arguments, *options], capfd, where)


def test_missing_and_unknown_commands(capfd):
    for arguments in ([], ["tarin"], ["train", "--no-such-option"]):
        code, message = call(arguments, capfd)
        assert code == 1
        assert message.startswith("lmpipe") and message.count("\n") == 1


def test_train_without_a_resolved_study_names_snakemake(capfd):
    with replaced(RESOLVED, lambda data: None):
        assert_refused(command("train"), capfd, "snakemake")


def test_temperature_next_to_0_is_greedy(capfd):
    texts = []
    for temperature in ("0", "1e-320"):
        main(["generate", "--run", RUN, "--prompt", "the", "--temperature", temperature, "--max-new-tokens", "9"])
        texts.append(capfd.readouterr().out)
    assert texts[0] == texts[1]


# --- standard streams ------------------------------------------------------------------------------------------------


def test_prompt_of_any_bytes_comes_back():
    prompt = b"the \xff\xc3 sun"
    options = ["--max-new-tokens", "3", "--temperature", "0", "--prompt", os.fsdecode(prompt)]
    done = lmpipe(["generate", "--run", RUN, *options], capture_output=True)
    assert done.stderr == b""
    assert done.stdout.startswith(prompt)


ALL_CLOSED = "<&- >&- 2>&-"
CALLS = [
    (["status", RESULTS, "--once"], ">&-", 0),
    (["verify", "nothing"], "2>&-", 1),
    (["generate", "--run", RUN, "--max-new-tokens", "3", "--prompt", "the"], ALL_CLOSED, 0),
    (["train"], ALL_CLOSED, 1),
]


@pytest.mark.parametrize(("arguments", "closed", "code"), CALLS)
def test_closed_streams_change_no_exit_code(arguments, closed, code):
    command = ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-m", "lmpipe.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code
    assert "Traceback" not in done.stdout + done.stderr


def test_standard_output_takes_characters_outside_its_encoding():
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = lmpipe(["estimate", STUDY_FILE], capture_output=True, env=ascii_only)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"training FLOPs" in done.stdout and b"?" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "arguments",
    [["generate", "--run", RUN, "--max-new-tokens", "3", "--prompt", "the"], ["estimate", STUDY_FILE], ["--help"]],
    ids=lambda arguments: arguments[0],
)
def test_standard_output_on_a_full_disk(arguments):
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "wb") as full:
        done = lmpipe(arguments, stdout=full, stderr=subprocess.PIPE, text=True, env=buffered)
    assert done.returncode == 1
    assert re.fullmatch(r"lmpipe[a-z ]*: standard output: .*\n", done.stderr)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_log_on_a_full_disk_changes_nothing(tmp_path):
    noisy = [
        "import lmpipe.io.progress, sys",
        "lmpipe.io.progress.LOG_INTERVAL_SECONDS = 0",
        "from lmpipe.cli.main import main",
        "main(sys.argv[1:])",
    ]
    output = tmp_path / "0.npz"
    with open("/dev/full", "wb") as full:
        arguments = [sys.executable, "-c", "\n".join(noisy), *command("count-pretokens")[:-1], str(output)]
        done = subprocess.run(arguments, stderr=full)
    assert done.returncode == 0
    assert output.read_bytes() == Path(COUNTS).read_bytes()
