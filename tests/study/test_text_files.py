"""Paths, folders, patterns and addresses of text files."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from lmpipe.errors import InputError
from lmpipe.study.text_files import TextFile, list_files


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.txt", "a.jsonl.gz", "sub/c.PARQUET", "sub/deep/d.csv.zst", "notes.md", ".hidden.txt", ".git/e.txt"):
        path = Path("texts", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")


def names(path):
    return [Path(file.path).name for file in list_files(path)]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("texts", ["a.jsonl.gz", "b.txt", "c.PARQUET", "d.csv.zst"]),
        ("texts/sub/", ["c.PARQUET", "d.csv.zst"]),
        ("texts/*", ["a.jsonl.gz", "b.txt", "notes.md"]),
        ("texts/**/*.csv*", ["d.csv.zst"]),
        ("texts/[ab].*", ["a.jsonl.gz", "b.txt"]),
        ("texts/notes.md", ["notes.md"]),
    ],
)
def test_files_of_a_path(path, expected):
    assert names(path) == expected


def test_a_file_with_the_name_of_a_pattern_is_that_file():
    Path("texts/[b].txt").write_text("text")
    assert names("texts/[b].txt") == ["[b].txt"]


@pytest.mark.parametrize("path", ["none.txt", "texts/*.rst", "texts/.git/sub", "texts/**/none"])
def test_no_file_is_an_error(path):
    with pytest.raises(InputError):
        list_files(path)


def test_a_broken_link_is_an_error():
    Path("texts/link.txt").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"link\.txt: cannot be read"):
        list_files("texts")


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("hf://datasets/o/n@main/data/a.txt.gz", "https://huggingface.co/datasets/o/n/resolve/main/data/a.txt.gz"),
        (
            "hf://datasets/o/n@refs/convert/parquet/default/train/0000.parquet",
            "https://huggingface.co/datasets/o/n/resolve/refs%2Fconvert%2Fparquet/default/train/0000.parquet",
        ),
        ("hf://datasets/o/n@v1.0/a%20b.txt", "https://huggingface.co/datasets/o/n/resolve/v1.0/a%20b.txt"),
        ("https://h/a.txt?x=1", "https://h/a.txt?x=1"),
        ("texts//a.txt", None),
    ],
)
def test_address_of_a_file(path, url):
    assert TextFile(path=path).url == url


def test_the_hub_knows_the_same_address():
    from huggingface_hub import hf_hub_url

    expected = hf_hub_url("o/n", "a b/c#d.txt", repo_type="dataset", revision="refs/convert/parquet")
    assert TextFile(path="hf://datasets/o/n@refs/convert/parquet/a%20b/c%23d.txt").url == expected


@pytest.mark.parametrize("path", ["hf://datasets/o/n/a.txt", "hf://o/n@main/a.txt", "s3://b/a.txt", "file:a.txt", "-a"])
def test_other_addresses_are_refused(path):
    with pytest.raises(ValidationError):
        TextFile(path=path)


@pytest.mark.parametrize(
    ("url", "ending"), [("a.jsonl.zst", "-a.jsonl"), ("a.parquet?download=true", "-a.parquet"), ("x.txt.xz", "-x.txt")]
)
def test_a_download_keeps_the_ending_of_its_format(url, ending):
    assert TextFile(path=f"https://h/{url}").download_path.endswith(ending)


def test_a_link_to_a_folder_is_refused_and_read_by_a_pattern():
    Path("elsewhere").mkdir()
    Path("elsewhere/f.txt").write_text("text")
    Path("texts/link").symlink_to(Path("elsewhere").absolute())
    with pytest.raises(InputError, match="link to a folder"):
        list_files("texts")
    assert "f.txt" in names("texts/**/*.txt")
