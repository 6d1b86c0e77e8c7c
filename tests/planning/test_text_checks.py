"""Text files of a study are checked before its first job, and only once."""

import gzip
import json
import os
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from lmpipe.cli.main import main
from lmpipe.errors import InputError
from lmpipe.planning import text_checks
from lmpipe.planning.estimate import Estimate, format_estimate
from lmpipe.planning.plan import load_plan
from lmpipe.planning.snakemake_checks import load_config
from lmpipe.planning.text_checks import check_texts
from tests.support.cli_cases import STUDY, TEXT
from tests.support.tiny_study import tiny_tokenizer

UTF16 = "Not the text that it seems to be.\n".encode("utf-16")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LMPIPE_CACHE", str(tmp_path / "cache"))
    Path(TEXT).write_text("One.\n<|endoftext|>\nTwo.\n", encoding="utf-8")


def check(**settings):
    corpus = STUDY["corpora"]["tiny"] | settings
    check_texts(load_plan(STUDY | {"corpora": {"tiny": corpus}}, "tiny.yaml"), "tiny.yaml")


@pytest.fixture
def opened(monkeypatch):
    """Return the list of the files that are opened for a check."""
    paths = []
    check_file = text_checks.check_file
    monkeypatch.setattr(text_checks, "check_file", lambda path, *rest: (paths.append(path), check_file(path, *rest)))
    return paths


def test_wrong_text_is_named_with_its_key():
    Path(TEXT).write_bytes(UTF16)
    with pytest.raises(InputError, match=r"tiny\.yaml: corpora\.tiny: text\.txt is UTF-16"):
        check()


def test_file_is_opened_again_only_if_it_changed(opened):
    check()
    check()
    assert opened == [TEXT]
    Path(TEXT).write_bytes(UTF16)
    with pytest.raises(InputError):
        check()
    with pytest.raises(InputError):
        check()
    Path(TEXT).write_text("Three.\n<|endoftext|>\nFour.\n", encoding="utf-8")
    os.utime(TEXT, (1, 1))
    check()
    assert len(opened) == 4


def test_damaged_cache_costs_time_only(opened):
    check()
    for file in Path("cache").rglob("checked-texts"):
        file.write_bytes(b"\0" * 19)
    check()
    check()
    assert opened == [TEXT, TEXT]


@pytest.mark.parametrize("files", [[TEXT, "./text.txt"], [TEXT, "*.txt"], ["texts", "texts/sub"]])
def test_the_same_path_twice_is_refused(files):
    Path("texts/sub").mkdir(parents=True)
    Path("texts/sub/a.txt").write_text("text")
    with pytest.raises(InputError, match=r"corpora\.tiny: .* twice"):
        check(files=files)
    with pytest.raises(InputError, match="twice"):
        check(files=files[0], valid=files[1], valid_fraction=None)


def test_results_of_the_study_are_no_texts_of_it():
    check(files="**/*.txt")
    Path("results/tiny/corpora/tiny").mkdir(parents=True)
    Path("results/tiny/corpora/tiny/train.txt").write_text("text")
    with pytest.raises(InputError, match=r"results/tiny.*is a result"):
        check(files="**/*.txt")


@pytest.mark.parametrize(("key", "value"), [("text_key", "body"), ("documents", "lines")])
def test_a_setting_that_no_file_uses_is_refused(key, value):
    Path("a.jsonl").write_text('{"body": "x", "text": "y"}\n')
    file = TEXT if key == "text_key" else "a.jsonl"
    with pytest.raises(InputError, match=f"corpora.tiny: {key} is about"):
        check(files=file, **{key: value})
    check(files=[TEXT, "a.jsonl"], **{key: value})


def test_declarations_are_of_one_file():
    with pytest.raises(InputError, match="is not one file"):
        check(files=[{"path": "*.txt", "sha256": "ab" * 32}])


def test_a_hundred_thousand_files_are_checked_in_seconds():
    folder = Path("many")
    for number in range(100):
        (folder / str(number)).mkdir(parents=True)
        for index in range(100):
            (folder / str(number) / f"{index}.txt").write_text(f"text {number} {index}")
    check(files="many")
    started = time.process_time()
    check(files="many")
    assert time.process_time() - started < 0.5, "5 s for ten times as many"


def test_an_existing_tokenizer_is_read_before_the_first_job():
    tokenizer = tiny_tokenizer()
    tokenizer.save("bpe")
    for path in ("bpe", "bpe/tokenizer.json"):
        check(tokenizer={"path": path, "vocab_size": tokenizer.vocab_size})
    with pytest.raises(InputError, match=f"use vocab_size: {tokenizer.vocab_size}"):
        check(tokenizer={"path": "bpe", "vocab_size": 300})
    with pytest.raises(InputError, match="none"):
        check(tokenizer={"path": "none", "vocab_size": 300})


def test_estimate_refuses_what_is_no_text(capfd):
    Path(TEXT).write_bytes(UTF16)
    Path("tiny.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    with pytest.raises(SystemExit) as end:
        main(["estimate", "tiny.yaml"])
    assert end.value.code == 1 and "UTF-16" in capfd.readouterr().err


def test_snakemake_refuses_what_is_no_text_when_it_starts():
    Path(TEXT).write_bytes(UTF16)
    with pytest.raises(InputError, match="UTF-16"):
        load_config(STUDY, ["tiny.yaml"], {})


def test_text_of_the_future_is_refused_until_it_is_touched():
    check()
    os.utime(TEXT, (2e9 * 2, 2e9 * 2))
    with pytest.raises(InputError, match="future") as caught:
        check()
    subprocess.run(caught.value.remedy, shell=True, check=True)
    check()


def test_a_text_that_is_there_packed_and_unpacked_is_refused():
    Path("two").mkdir()
    Path("two/a.txt").write_text("One.\n")
    Path("two/a.txt.gz").write_bytes(gzip.compress(b"One.\n"))
    with pytest.raises(InputError, match="unpacked"):
        check(files="two")


def test_results_of_another_study_are_refused_unless_they_are_named():
    result = Path("results/other/corpora/mine/train.txt")
    result.parent.mkdir(parents=True)
    result.write_text("One.\n<|endoftext|>\nTwo.\n")
    for path in (".", "**/*.txt"):
        with pytest.raises(InputError, match="is a result of a study"):
            check(files=path)
    check(files=str(result))


def test_an_older_file_in_the_place_of_another_is_another_text():
    corpus = load_plan(STUDY, "tiny.yaml").study.corpora["tiny"]
    before = corpus.file_identities()
    os.utime(TEXT, (1, 1))
    assert load_plan(STUDY, "tiny.yaml").study.corpora["tiny"].file_identities() != before


def test_results_are_read_without_the_texts():
    settings = load_plan(STUDY, "tiny.yaml").study_settings()
    Path(TEXT).unlink()
    corpus = load_plan(settings, "study.yaml", results_only=True).study.corpora["tiny"]
    assert (corpus.num_shards, corpus.split_bytes) == (1, (0, 0))


def dataset_plan(**settings):
    block = {"source": "dataset", "name": "json", "data_files": "a.jsonl", "valid_fraction": 0.1} | settings
    return load_plan(STUDY | {"corpora": {"tiny": block | {"tokenizer": {"vocab_size": 300}}}}, "tiny.yaml")


@pytest.fixture
def data_files():
    """Return data files of a dataset in the folder data."""
    files = [Path("data/a.jsonl"), Path("data/sub/b.jsonl")]
    for number, file in enumerate(files, 1):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"text": "One."}) + "\n" * number)
    return files


@pytest.mark.parametrize(
    "settings",
    [
        {"data_files": ["data/a.jsonl", "data/sub/*.jsonl"]},
        {"data_files": {"train": "data/a.jsonl", "test": "data/**/b.jsonl"}},
        {"data_files": ["https://example.org/c.jsonl", "data/a.jsonl", "data/sub/b.jsonl"]},
        {"name": "data", "data_files": None},
        {"name": "data", "data_files": "**/*.jsonl"},
    ],
)
def test_changed_data_files_of_a_dataset_are_another_text(data_files, settings):
    before = dataset_plan(**settings).corpus_settings("tiny")
    assert before == dataset_plan(**settings).corpus_settings("tiny")
    for file in data_files:
        os.utime(file, (1, 1))
        after = dataset_plan(**settings).corpus_settings("tiny")
        assert after != before
        before = after


def test_sizes_of_local_data_files_are_known(data_files):
    sizes = [file.stat().st_size for file in data_files]
    by_split = {"data_files": {"train": "data/a.jsonl", "test": "data/sub/b.jsonl"}, "valid_split": "test"}
    corpora = {
        "by split": dataset_plan(**by_split, valid_fraction=None, split="train[:50%]"),
        "folder": dataset_plan(name="data", data_files=None),
        "hub": dataset_plan(name="owner/data", data_files="data/a.jsonl"),
    }
    known = {name: plan.study.corpora["tiny"].split_bytes for name, plan in corpora.items()}
    assert known["by split"] == tuple(sizes)
    assert sum(known["folder"]) == sum(sizes) and known["folder"][1] == round(sum(sizes) * 0.1)
    assert known["hub"] == (0, 0)
    notes = {name: format_estimate(Estimate(plan, 1)) for name, plan in corpora.items()}
    assert [name for name in notes if "Not counted" in notes[name]] == ["hub"]


@pytest.mark.parametrize(
    ("settings", "content", "problem"),
    [
        ({"name": "text"}, UTF16, "UTF-16"),
        ({"name": "text"}, b'{"text": "One."}\n', "JSON"),
        ({"name": "csv"}, b"id,body\n1,One.\n", "body"),
        ({"name": "parquet"}, b"One.\n", "parquet"),
        ({"name": "json"}, b"%PDF-1.4\n", "binary"),
        ({"name": "json", "data_files": "none.jsonl"}, b"{}", "none.jsonl"),
    ],
)
def test_first_bytes_of_data_files_are_of_their_format(settings, content, problem):
    Path("data.txt").write_bytes(content)
    with pytest.raises(InputError, match=rf"corpora\.tiny: .*{problem}"):
        check_texts(dataset_plan(**{"data_files": "data.txt"} | settings), "tiny.yaml")


def test_json_of_a_dataset_may_be_a_list():
    Path("a.jsonl").write_text(json.dumps([{"text": "One."}], indent=1))
    check_texts(dataset_plan(), "tiny.yaml")
