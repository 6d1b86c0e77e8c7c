"""Datasets of local data files, and of a Hub on this machine, as corpora."""

import json
import os
import subprocess
import sys
import threading

import pyarrow
import pyarrow.parquet
import pytest
from pydantic import TypeAdapter, ValidationError

from lmpipe.data.corpus import make_corpus
from lmpipe.errors import InputError
from lmpipe.study.corpora import Corpus
from tests.support.hub_server import COMMIT, Hub

END = "<|endoftext|>"
pytest.importorskip("datasets", reason="needs the extra `datasets`")


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    import datasets

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def write(path, texts, key="text"):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"id": range(len(texts)), key: texts}), path)
    else:
        path.write_text("".join(json.dumps({"id": 1, key: text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


def make(folder, **settings):
    block = {"source": "dataset", "tokenizer": {"vocab_size": 300}, **settings}
    info = make_corpus("mine", TypeAdapter(Corpus).validate_python(block), folder)
    return [(folder / f"{split}.txt").read_text(encoding="utf-8") for split in ("train", "valid")], info


def as_text(texts):
    return "".join(f"{text}\n{END}\n" for text in texts)


@pytest.mark.parametrize(("name", "ending"), [("json", ".jsonl"), ("parquet", ".parquet")])
def test_splits_of_data_files(tmp_path, name, ending):
    train, valid = [f"text {number}" for number in range(50)], ["один", "two\nlines"]
    files = {"train": write(tmp_path / f"a{ending}", train), "test": [write(tmp_path / f"b{ending}", valid)]}
    texts, info = make(tmp_path / "out", name=name, data_files=files, valid_split="test")
    assert texts == [as_text(train), as_text(valid)]
    assert info.source == "dataset" and info.settings["valid_split"] == "test"


def test_fraction_of_a_folder_is_shuffled_and_blank_records_are_left_out(tmp_path):
    texts = [f"text {number}" for number in range(100)]
    write(tmp_path / "data" / "train.jsonl", [*texts, "", " "], key="body")
    (train, valid), info = make(tmp_path / "out", name="data", text_key="body", valid_fraction=0.2, seed=1)
    documents = [text.strip() for text in (train + valid).split(END) if text.strip()]
    assert sorted(documents) == sorted(texts) != documents
    assert (info.splits.train.documents, info.splits.valid.documents, info.blank_records) == (80, 20, 2)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"text_key": "body"}, "set text_key to one of 'id', 'text'"),
        ({"split": "test"}, "test"),
        ({"data_files": "none.jsonl"}, "none.jsonl"),
        ({"name": "no/such-dataset", "data_files": None}, "cannot be read"),
        ({"text_key": "id"}, "a record has 1 as id"),
    ],
)
def test_what_cannot_be_read_is_one_error(tmp_path, settings, problem):
    file = write(tmp_path / "a.jsonl", ["text"] * 9)
    with pytest.raises(InputError) as error:
        make(tmp_path / "out", **{"name": "json", "data_files": file, "valid_fraction": 0.1} | settings)
    assert problem in str(error.value) and error.value.remedy and "\n" not in str(error.value)


def test_dataset_of_a_hub(tmp_path):
    files = {
        name: write(tmp_path / name, [f"{name} {number}" for number in range(size)])
        for name, size in (("train.jsonl", 30), ("test.jsonl", 3))
    }
    block = {"source": "dataset", "name": "owner/name", "valid_split": "test", "revision": COMMIT}
    # A process of its own, for the library reads the Hub's address when it is imported.
    program = f"""
from pathlib import Path
from pydantic import TypeAdapter
from lmpipe.data.corpus import make_corpus
from lmpipe.study.corpora import Corpus
block = {block | {"tokenizer": {"vocab_size": 300}}}
make_corpus("mine", TypeAdapter(Corpus).validate_python(block), Path("out"))
"""
    with Hub({name: (tmp_path / name).read_bytes() for name in files}) as hub:
        threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        environment = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
        subprocess.run([sys.executable, "-c", program], check=True, env=environment)
        hub.shutdown()
    assert (tmp_path / "out/train.txt").read_text() == as_text(f"train.jsonl {number}" for number in range(30))
    assert (tmp_path / "out/valid.txt").read_text() == as_text(f"test.jsonl {number}" for number in range(3))
    assert any(path.endswith("/data/train.jsonl") for path in hub.requests)


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="pip install datasets"):
        make(tmp_path / "out", name="json", data_files="a.jsonl", valid_fraction=0.1)


@pytest.mark.parametrize("settings", [{}, {"valid_split": "test", "valid_fraction": 0.1}])
def test_one_validation_split_is_needed(settings):
    with pytest.raises(ValidationError):
        TypeAdapter(Corpus).validate_python(
            {"source": "dataset", "name": "x", "tokenizer": {"vocab_size": 300}} | settings
        )
