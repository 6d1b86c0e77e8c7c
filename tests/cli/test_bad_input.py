"""Every verb with every input and output damaged in every way: it works, or says in one line what is wrong."""

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from lmpipe.analysis.finding import Findings
from lmpipe.analysis.problems.registry import module_of
from lmpipe.analysis.ranking import select_best
from lmpipe.analysis.results import Results
from lmpipe.cli.main import main, make_parser
from lmpipe.errors import InputError
from lmpipe.io.documents import Document
from lmpipe.io.files import write_json
from lmpipe.model.accounting import expected_counts
from lmpipe.planning.lineage import Lineage
from lmpipe.planning.plan import load_plan
from lmpipe.planning.stages import records_of
from lmpipe.report import page, section
from lmpipe.report.plots.experiment import read_curve, run_styles
from lmpipe.report.plots.style import Drawing
from lmpipe.study.documents import SETTINGS
from lmpipe.study.documents import STUDY as STUDY_OF
from lmpipe.tokenizer.bpe_training import train_tokenizer
from lmpipe.training.run_config import load_run
from tests.support.cli_cases import (
    BEST,
    CORPUS,
    COUNTS,
    FILLS_FOLDER,
    OPTIONAL,
    READS,
    RUN,
    STUDY,
    TEXT,
    TOKENIZER,
    TOKENS,
    WRITES,
    lmpipe,
)
from tests.support.corruptions import DAMAGES, NESTED

# The download is damaged on its way in test_downloads.py.
ELSEWHERE = {"download"}
EVERY_KIND = ("missing", "a folder", "unreadable")
# Texts of any bytes are texts; these verbs need something in them.
NEEDS_TEXT = {
    "make-corpus": {"empty", "one byte", "only white space", "only delimiters"},
    "encode-corpus": {"empty"},
    "compare-tokenizers": {"empty", "only white space", "only delimiters"},
}
INPUTS = [
    pytest.param(verb, path, how, id=f"{verb} {path} {how}")
    for verb, reads in READS.items()
    for path, kind in reads.items()
    for how in (*EVERY_KIND, *DAMAGES[kind])
]


def is_fine(verb: str, path: str, how: str) -> bool:
    """Whether a verb works with an input of that state, as documented."""
    if READS[verb][path] == "text" and how not in EVERY_KIND:
        return how not in NEEDS_TEXT.get(verb, ())
    return how == "missing" and path in OPTIONAL.get(verb, ())


def verbs() -> set[str]:
    """Every verb of the command line."""
    return set(make_parser()._subparsers._group_actions[0].choices)


@pytest.fixture
def commands(whole_study):
    """The command of every verb, as a list of arguments."""
    return whole_study[1]


EMPTY_DRAWING = Drawing('<svg viewBox="0 0 1 1"></svg>', "x\n")


class EmptyDocument(Document):
    """Stand-in for a measurement."""


@pytest.fixture(autouse=True)
def _in_the_study(whole_study, monkeypatch):
    """Work in the study's folder, without the seconds that drawing and counting take."""
    monkeypatch.chdir(whole_study[0])
    for slow in (
        "lmpipe.report.page.draw",
        "lmpipe.report.page.forest_plot",
        "lmpipe.report.plots.experiment.draw_curves",
        "lmpipe.report.plots.experiment.draw_final_loss",
    ):
        monkeypatch.setattr(slow, lambda *arguments, **options: EMPTY_DRAWING)
    monkeypatch.setattr("lmpipe.tokenizer.unicode_demo.demonstrate_unicode", lambda: {})
    for slow in ("profiling.profile_step", "batch_size_benchmark.benchmark_batch_sizes"):
        monkeypatch.setattr(f"lmpipe.training.{slow}", lambda model, training, **options: EmptyDocument())
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
    """Every file below this folder with its bytes; None for folders."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(Path().rglob("*"))}


def call(arguments: list[str], capfd) -> tuple[int, str]:
    """The exit code of a command, and what it wrote to standard error."""
    capfd.readouterr()
    try:
        with without_root_rights():
            main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0), capfd.readouterr().err
    return 0, capfd.readouterr().err


def is_one_line(verb: str, told: str) -> bool:
    """Return True for one line with a place, a problem and a remedy."""
    return told.startswith(f"lmpipe {verb}: ") and told.count("\n") == 1 and ";" in told


def assert_refused(arguments: list[str], capfd, *places: str) -> None:
    """The command ends with exit code 1 and one line that names one of the places, and changes nothing."""
    before = contents()
    code, told = call(arguments, capfd)
    after = contents()
    assert code == 1, "accepted"
    assert is_one_line(arguments[0], told), told
    assert any(place in told for place in places), told
    assert {path for path in before.keys() | after.keys() if before.get(path, b"") != after.get(path, b"")} == set()


@contextlib.contextmanager
def damaged(path: str, how: str, kind: str) -> Iterator[None]:
    """Damage a file for a while."""
    file, aside = Path(path), Path(f"{path}.aside")
    data = file.read_bytes()
    file.rename(aside)
    try:
        if how == "a folder":
            file.mkdir()
        elif how == "unreadable":
            file.write_bytes(data)
            file.chmod(0)
        elif how != "missing":
            file.write_bytes(DAMAGES[kind][how](data))
        yield
    finally:
        if file.is_dir():
            shutil.rmtree(file)
        aside.rename(file)


def test_every_verb_has_its_row():
    assert set(READS) | ELSEWHERE == verbs()


@pytest.mark.parametrize(("verb", "path", "how"), INPUTS)
def test_damaged_inputs(commands, verb, path, how, capfd):
    with damaged(path, how, READS[verb][path]):
        if is_fine(verb, path, how):
            assert call([*commands[verb][:-1], f"elsewhere/{verb}"], capfd) == (0, "")
        else:
            assert_refused(commands[verb], capfd, path, str(Path(path).parent))


# --- JSON of the right keys with one wrong value ---------------------------------------------------------------------

MOST_MUTATIONS = 50
WRONG = (None, "x", -1, [], {}, True, 1e300, 0, 10**30, "a\0b", "\ud800", [[]], 0.5)


def mutations(value: Any, turn: Iterator[Any]) -> Iterator[Any]:
    """A JSON value with one key or member left out, or replaced by what may be of the wrong kind, at each place."""
    for key in list(value) if isinstance(value, dict) else range(min(len(value), 2)):
        rest = (
            {k: v for k, v in value.items() if k != key} if isinstance(value, dict) else value[:key] + value[key + 1 :]
        )
        yield rest
        replaced = [next(turn) for _ in range(3)]
        if isinstance(value[key], dict | list):
            replaced += mutations(value[key], turn)
        for other in replaced:
            yield value | {key: other} if isinstance(value, dict) else [*value[:key], other, *value[key + 1 :]]


def some_of(values: Iterable[Any]) -> list[Any]:
    """The first values, and no more than so many of the others, from all parts of them."""
    values = list(values)
    others = values[MOST_MUTATIONS:]
    return values[:MOST_MUTATIONS] + others[:: len(others) // MOST_MUTATIONS + 1]


def read_findings(results: Results, *problems: str) -> None:
    for problem in problems:
        module_of(problem).analyze(results)


def read_runs(results: Results) -> None:
    experiment = results.experiment("sweep")
    select_best(experiment)
    run_styles(experiment)
    read_curve(experiment.runs[0])
    read_findings(results, "experiment_log", "learning_rate")


def read_report(results: Results) -> None:
    findings = Findings.read("results/findings.json")
    page.corpora(results, ["tiny"])
    page.build_info(results)
    page.headline_tiles(results, findings.problems)
    page.headlines(findings.problems)
    page.effects_in(findings.problems)
    drawings, lineage = page.draw_plots(findings, results.folder), Lineage({})
    for problem, finding in findings.problems.items():
        section.make_section(problem, finding, drawings, lineage, "tiny")


def read_lineage(results: Results) -> None:
    plan = load_plan(STUDY, "the tiny study")
    lineage = Lineage.read(results.folder, [path for paths in records_of(plan).values() for path in paths])
    page.stage_rows(plan, lineage)
    section.origin(lineage, ["runs/*/*/seed*/summary.json"], "tiny")


def read_inputs_of_run(results: Results) -> None:
    settings = load_plan(STUDY, "the tiny study").runs_by_experiment["tuned"][0]
    load_run(settings, results.folder, BEST, results.folder / "elsewhere")


# Who reads what, with as little else as can be.
READERS: dict[str, Callable[[Results], Any]] = {
    "results/unicode.json": lambda results: read_findings(results, "unicode1", "unicode2"),
    "results/accounting/study.json": lambda results: read_findings(
        results, "transformer_accounting", "adamwAccounting"
    ),
    "results/tokenizer_experiments.json": lambda results: read_findings(
        results, "tokenizer_experiments", "train_bpe_tinystories"
    ),
    f"{TOKENIZER}/training.json": lambda results: read_findings(results, "train_bpe_tinystories"),
    "results/samples/tiny.json": lambda results: read_findings(results, "generate"),
    f"{CORPUS}/corpus.json": read_report,
    "results/findings.json": read_report,
    f"{RUN}/provenance.json": read_lineage,
    f"{RUN}/config.json": read_runs,
    f"{RUN}/summary.json": read_runs,
    f"{TOKENS}/train.json": read_inputs_of_run,
    f"{TOKENIZER}/tokenizer.json": read_inputs_of_run,
    BEST: read_inputs_of_run,
    COUNTS.replace("npz", "json"): lambda results: train_tokenizer([COUNTS], "elsewhere/t", "t", "tiny", 260),
}


@pytest.mark.parametrize("path", READERS)
def test_records_with_one_wrong_value(path):
    file, plan = Path(path), load_plan(STUDY, "the tiny study")
    data = file.read_bytes()
    READERS[path](Results("results", plan.study, plan.run_keys()))
    refused = 0
    try:
        for value in some_of(mutations(json.loads(data), cycle(WRONG))):
            write_json(path, value)
            try:
                READERS[path](Results("results", plan.study, plan.run_keys()))
            except InputError as error:
                refused += 1
                assert str(file.parent) in str(error), json.dumps(value)[:2000]
            except Exception as error:
                raise AssertionError(json.dumps(value)[:4000]) from error
    finally:
        file.write_bytes(data)
    assert refused > 1


class ReachedError(InputError):
    """The settings were accepted."""


@pytest.mark.parametrize("verb", [verb for verb, shape in SETTINGS.items() if verb in READS and shape is not STUDY_OF])
def test_settings_with_one_wrong_value(commands, verb, monkeypatch, capfd):
    def stop(*arguments):
        raise ReachedError("expected no more, found it; stop")

    monkeypatch.setattr("lmpipe.training.run.StoredRun.of", stop)
    place = commands[verb].index("--settings") + 1
    settings = json.loads(commands[verb][place])
    broken = ["", "{", "null", "[1]", "{}", '"x"', "7", NESTED.decode(), '{"a": NaN}', '{"a": 1, "a": 2}']
    for text in [*broken, *map(json.dumps, mutations(settings, cycle(WRONG)))]:
        arguments = [*commands[verb][:place], text, *commands[verb][place + 1 : -1], f"elsewhere/settings of {verb}"]
        code, told = call(arguments, capfd)
        assert code in (0, 1), text
        if text in broken:
            assert code == 1 and "--settings" in told, text
        assert told == "" if code == 0 else is_one_line(verb, told), (text, told)


# --- outputs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", WRITES)
def test_outputs_that_cannot_be_written(commands, verb, tmp_path, capfd):
    read_only, taken = tmp_path / "read-only", tmp_path / "taken"
    read_only.mkdir(mode=0o555)
    if verb in FILLS_FOLDER:
        taken.write_text("a file")
    else:
        (taken / "inside").mkdir(parents=True)
    for output in (read_only / "output", taken, Path(TEXT) / "output", read_only / "new" / "output"):
        assert_refused([*commands[verb][:-1], str(output)], capfd, str(output), str(output.parent))
    if verb not in FILLS_FOLDER:
        assert_refused([*commands[verb][:-1], "/dev/null"], capfd, "/dev/null")


@pytest.mark.parametrize(
    ("verb", "output"),
    [
        ("make-corpus", "."),
        ("count-pretokens", f"{CORPUS}/train.txt"),
        ("encode-corpus", f"{CORPUS}/train.txt"),
        ("encode-corpus", "results/ids.json"),
    ],
)
def test_outputs_that_would_destroy_an_input_or_each_other(commands, verb, output, capfd):
    arguments = [*commands[verb][:-1], output]
    if verb == "make-corpus":
        shutil.copy(TEXT, "train.txt")
        arguments[arguments.index(TEXT)] = "train.txt"
    assert_refused(arguments, capfd, output)


# --- what does not belong together -----------------------------------------------------------------------------------


@contextlib.contextmanager
def changed(path: str, change: Callable[[Any], Any]) -> Iterator[None]:
    """Change the value of a JSON file for a while."""
    file = Path(path)
    data = file.read_bytes()
    write_json(file, change(json.loads(data)))
    try:
        yield
    finally:
        file.write_bytes(data)


def with_another_token(vocab: dict[str, int]) -> dict[str, int]:
    """The vocabulary of a training that merged another pair last."""
    *others, (_, last) = sorted(vocab.items(), key=lambda item: item[1])
    return {**dict(others), "qq": last}


@pytest.mark.parametrize(
    "change",
    [
        with_another_token,
        lambda vocab: vocab | {"qq": 270},
        lambda vocab: {name: token_id for name, token_id in vocab.items() if token_id != 65},
        lambda vocab: vocab | {"A": 66},
        lambda vocab: vocab | {"A": -1},
        lambda vocab: vocab | {"A": 2**63},
        lambda vocab: vocab | {"A": 65.0},
        lambda vocab: vocab | {"A": True},
        lambda vocab: vocab | {"a b": 65},
    ],
    ids=["of another training", "too many", "no A", "twice", "negative", "huge", "float", "boolean", "a space"],
)
def test_a_vocabulary_that_does_not_fit(commands, change, capfd):
    with changed(f"{TOKENIZER}/vocab.json", change):
        assert_refused(commands["encode-corpus"], capfd, TOKENIZER)


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[:-1],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [*lines, "Z Z"],
        lambda lines: [*lines, "no merge at all"],
        lambda lines: [*lines, "\u2603 x"],
    ],
    ids=["one less", "one twice", "one more", "three words", "no byte"],
)
def test_merges_that_do_not_fit(commands, change, capfd):
    file = Path(TOKENIZER) / "merges.txt"
    text = file.read_text(encoding="utf-8")
    try:
        file.write_text("\n".join(change(text.splitlines())), encoding="utf-8")
        assert_refused(commands["encode-corpus"], capfd, TOKENIZER)
    finally:
        file.write_text(text, encoding="utf-8")


def test_special_tokens_of_another_tokenizer(commands, capfd):
    def rename(exported):
        return exported | {"added_tokens": [exported["added_tokens"][0] | {"content": "<|end|>"}]}

    with changed(f"{TOKENIZER}/tokenizer.json", rename):
        assert_refused(commands["encode-corpus"], capfd, TOKENIZER)


def test_a_token_file_with_the_record_of_another(commands, capfd):
    record = json.loads(Path(f"{TOKENS}/valid.json").read_text(encoding="utf-8"))
    with changed(f"{TOKENS}/train.json", lambda _: record):
        assert_refused(commands["train"], capfd, f"{TOKENS}/train.bin")
    with changed(f"{TOKENS}/train.json", lambda info: info | {"tokenizer": {"name": "x", "sha256": "0" * 64}}):
        assert_refused(commands["train"], capfd, f"{TOKENS}/train.bin")
    with changed(f"{TOKENS}/train.json", lambda info: info | {"vocab_size": 200}):
        assert call(commands["train"], capfd)[0] == 0, "the tokenizer's own size counts"


@pytest.mark.parametrize("verb", ["select-best", "plot-experiment", "find", "report"])
def test_a_run_in_the_place_of_another(commands, verb, capfd):
    other = json.loads(Path(RUN.replace("0.01", "0.02"), "config.json").read_text(encoding="utf-8"))
    with changed(f"{RUN}/config.json", lambda _: other):
        assert_refused(commands[verb], capfd, f"{RUN}/config.json")


def test_weights_of_another_model(commands, capfd):
    for key, value in (("d_ff", 2**40), ("num_layers", 10**12), ("vocab_size", 2**30), ("d_model", 32)):
        with changed(f"{RUN}/config.json", lambda config, key=key, value=value: grown(config, key, value)):
            assert_refused(commands["generate"], capfd, RUN)


def grown(config: dict[str, Any], key: str, value: int) -> dict[str, Any]:
    """A run's configuration with another shape of the model."""
    return config | {"model": config["model"] | {key: value}}


@pytest.mark.parametrize("name", ["summary.json", "model.safetensors"])
def test_a_finished_run_whose_files_in_the_store_are_damaged(commands, name, capfd):
    for file in Path("results/store").glob(f"*/{name}"):
        file.rename(file.with_suffix(".aside"))
        file.write_bytes(b"{}")
    try:
        assert_refused(commands["train"], capfd, name)
    finally:
        for file in Path("results/store").glob(f"*/{Path(name).stem}.aside"):
            file.rename(file.with_name(name))
    assert call(commands["train"], capfd) == (0, "")


def test_forget_removes_nothing_but_runs(tmp_path, capfd):
    for folder in ("0123456789abcdef0123", "photographs"):
        (tmp_path / "store" / folder).mkdir(parents=True)
    assert call(["forget", str(tmp_path)], capfd)[0] == 0
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["photographs"]
    assert_refused(["forget", str(tmp_path / "nothing")], capfd, "nothing")
    assert_refused(["verify", str(tmp_path / "nothing")], capfd, "nothing")


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "options", "place"),
    [
        ("train", ["--device", "cuda:99"], "--device"),
        ("train", ["--device", "nonsense"], "--device"),
        ("train", ["--device", ""], "--device"),
        ("train", ["--threads", "0"], "--threads"),
        ("train", ["--threads", "9" * 5000], "--threads"),
        ("train", ["--best", "results/findings.json"], "results/findings.json"),
        ("count-pretokens", ["--shard", "1"], "--shard"),
        ("count-pretokens", ["--shard", "-1"], "--shard"),
        ("train-bpe", ["--vocab-size", "256"], "vocab_size"),
        ("train-bpe", ["--vocab-size", "10000000"], "vocab_size"),
        ("make-corpus", ["--texts"], "--texts"),
        ("make-corpus", ["--valid", "nothing.txt"], "nothing.txt"),
        ("generate", ["--prompt", "x", "--temperature", "nan"], "--temperature"),
        ("generate", ["--prompt", "x", "--temperature", "-inf"], "--temperature"),
        ("generate", ["--prompt", "x", "--top-p", "nan"], "--top-p"),
        ("generate", ["--prompt", "x", "--max-new-tokens", "0"], "--max-new-tokens"),
        ("generate", ["--prompt", "x", "--run", "nowhere"], "nowhere"),
    ],
)
def test_options_that_cannot_be(commands, verb, options, place, capfd):
    # A finished run would be copied whatever the device.
    for summary in Path("results/store").glob("*/summary.json"):
        summary.rename(summary.with_suffix(".aside"))
    try:
        assert_refused([*commands[verb], *options], capfd, place)
    finally:
        for aside in Path("results/store").glob("*/summary.aside"):
            aside.rename(aside.with_suffix(".json"))


def test_no_verb_and_an_unknown_one(capfd):
    for arguments in ([], ["tarin"], ["train", "--no-such-option"]):
        code, told = call(arguments, capfd)
        assert code == 1
        assert told.startswith("lmpipe") and told.count("\n") == 1


def test_a_temperature_next_to_0_is_greedy(capfd):
    texts = []
    for temperature in ("0", "1e-320"):
        main(["generate", "--run", RUN, "--prompt", "the", "--temperature", temperature, "--max-new-tokens", "9"])
        texts.append(capfd.readouterr().out)
    assert texts[0] == texts[1]


# --- standard output and error ---------------------------------------------------------------------------------------


def test_a_prompt_of_any_bytes_comes_back():
    prompt = b"the \xff\xc3 sun"
    arguments = [
        "generate",
        "--run",
        RUN,
        "--max-new-tokens",
        "3",
        "--temperature",
        "0",
        "--prompt",
        os.fsdecode(prompt),
    ]
    done = lmpipe(arguments, capture_output=True)
    assert done.stderr == b""
    assert done.stdout.startswith(prompt)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_standard_output_on_a_full_disk():
    with open("/dev/full", "wb") as full:
        arguments = ["generate", "--run", RUN, "--max-new-tokens", "3", "--prompt", "the"]
        done = lmpipe(arguments, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("lmpipe generate: standard output: expected room") and done.stderr.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_log_on_a_full_disk_changes_nothing(commands, tmp_path):
    noisy = [
        "import lmpipe.io.progress, sys",
        "lmpipe.io.progress.LOG_INTERVAL_SECONDS = 0",
        "from lmpipe.cli.main import main",
        "main(sys.argv[1:])",
    ]
    output = tmp_path / "0.npz"
    with open("/dev/full", "wb") as full:
        arguments = [sys.executable, "-c", "\n".join(noisy), *commands["count-pretokens"][:-1], str(output)]
        done = subprocess.run(arguments, stderr=full)
        failed = lmpipe(["verify", "nothing"], stderr=full)
    assert done.returncode == 0
    assert output.read_bytes() == Path(COUNTS).read_bytes()
    assert failed.returncode == 1
