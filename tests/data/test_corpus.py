import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from lmpipe.data.corpus import make_corpus
from lmpipe.data.documents import CorpusInfo, SplitInfo
from lmpipe.data.sources.docstrings import docstrings
from lmpipe.data.sources.stories import stories
from lmpipe.errors import InputError
from lmpipe.study.corpora import Corpus, DocstringsCorpus
from lmpipe.tokenizer import chunking

END = "<|endoftext|>"
PRINTED = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])
FILES = {"name": "mine", "source": "files", "valid_fraction": 0.1, "shuffle": False}


def make(folder, settings, texts=(), valid=()):
    files = {"files": [str(text) for text in texts]} if texts else {}
    files |= {"valid": [str(text) for text in valid]} if valid else {}
    settings = settings | files | {"tokenizer": {"vocab_size": 300}}
    name = settings.pop("name")
    info = make_corpus(name, TypeAdapter(Corpus).validate_python(settings), folder)
    assert CorpusInfo.read(folder / "corpus.json") == info
    return (folder / "train.txt").read_bytes(), (folder / "valid.txt").read_bytes(), info.splits


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_stories_hold_out_one_percent_for_validation(tmp_path):
    train, valid, sizes = make(tmp_path, {"name": "s", "source": "stories", "documents": 300, "seed": 4})
    documents = list(stories(300, 4))
    assert train.decode() == "".join(f"{story}\n{END}\n" for story in documents[:297])
    assert valid.decode() == "".join(f"{story}\n{END}\n" for story in documents[297:])
    sha256 = hashlib.sha256(train).hexdigest()
    assert sizes.train == SplitInfo(bytes=len(train), documents=297, sha256=sha256)


def test_docstrings_are_unique():
    texts = docstrings(["jinja2"], processes=1)
    assert any(text.startswith("The core component of Jinja is the `Environment`.") for text in texts)
    assert len(texts) == len(set(texts)) > 300
    assert texts == docstrings(["jinja2"], processes=2), "the same on any number of cores"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a package with tests of its own, itself below a folder named tests."""
    folder = tmp_path / "tests" / "kettle"
    (folder / "tests").mkdir(parents=True)
    (folder / "__init__.py").write_text('"""How to boil water."""\n\n\ndef pour():\n    """Pour it out."""\n')
    (folder / "tests" / "test_pour.py").write_text('"""Whether it pours."""\n')
    (folder / "silent.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(folder.parent)
    return folder


def test_docstrings_exclude_the_tests_of_a_package(package):
    assert sorted(docstrings(["kettle"], processes=1)) == ["How to boil water.", "Pour it out."]


def test_packages_without_docstrings_are_refused(package, tmp_path):
    (package / "__init__.py").write_text("")
    with pytest.raises(InputError, match="packages: contain 0 docstrings"):
        corpus = DocstringsCorpus.model_construct(source="docstrings", packages=["kettle"])
        make_corpus("d", corpus, tmp_path / "out")


def test_missing_package_is_an_input_error():
    with pytest.raises(InputError, match="'no_such_package' is not installed"):
        docstrings(["no_such_package"], processes=1)


def test_separate_validation_files(tmp_path):
    a, b, v = (write(tmp_path / f"{name}.txt", f"{name}\n{END}\n") for name in "abv")
    train, valid, _ = make(tmp_path / "out", {**FILES, "valid_fraction": None}, [a, b], [v])
    assert train.decode() == f"a\n{END}\nb\n{END}\n"
    assert valid.decode() == f"v\n{END}\n"


@pytest.mark.parametrize("ending", ["", "\n", "\n\n"])
def test_end_of_a_file_ends_a_document(tmp_path, ending):
    a, b = write(tmp_path / "a.txt", f"first{ending}"), write(tmp_path / "b.txt", "second")
    train, _, _ = make(tmp_path / "out", {**FILES, "valid_fraction": None}, [a, b], [write(tmp_path / "v.txt", "v")])
    assert train.decode() == f"first{ending or chr(10)}{END}\nsecond\n{END}\n"


def test_equal_files_are_read_once(tmp_path):
    (tmp_path / "texts" / "sub").mkdir(parents=True)
    for name, text in (("a", "one\ntwo"), ("b", "three\nfour"), ("sub/c", "one\ntwo"), ("d", "one\ntwO"), ("e", "")):
        write(tmp_path / "texts" / f"{name}.txt", text)
    folder = tmp_path / "out"
    train, valid, _ = make(folder, {**FILES, "valid_fraction": 0.4}, [tmp_path / "texts"])
    assert (train + valid).decode() == "".join(f"{text}\n{END}\n" for text in ("one\ntwo", "three\nfour", "one\ntwO"))
    info = CorpusInfo.read(folder / "corpus.json")
    assert (info.files, info.equal_files) == (3, 1)


def test_equal_files_for_training_and_validation_are_refused(tmp_path):
    a, b, c = (write(tmp_path / f"{name}.txt", text) for name, text in (("a", "x"), ("b", "y"), ("c", "x")))
    with pytest.raises(InputError, match=r"c\.txt: equals .*a\.txt"):
        make(tmp_path / "out", {**FILES, "valid_fraction": None}, [a, b], [c])


def test_records_of_several_formats_are_shuffled_together(tmp_path):
    write(tmp_path / "a.jsonl", "".join(f'{{"body": "record {number}"}}\n' for number in range(200)))
    write(tmp_path / "b.csv", "body\n" + "".join(f"row {number}\n" for number in range(200)))
    settings = {**FILES, "shuffle": True, "seed": 3, "text_key": "body"}
    _, valid, splits = make(tmp_path / "out", settings, [tmp_path / "*.[jc]s*"])
    assert splits.train.documents + splits.valid.documents == 400 and 38 <= splits.valid.documents <= 42
    assert b"record" in valid and b"row" in valid
    assert CorpusInfo.read(tmp_path / "out" / "corpus.json").settings["seed"] == 3


def test_byte_order_marks_are_removed_also_between_files(tmp_path):
    files = [write(tmp_path / f"{name}.txt", f"\ufeff{name} {name}") for name in "abc"]
    train, valid, _ = make(tmp_path / "out", {**FILES, "valid_fraction": 0.4}, files)
    assert (train + valid).decode() == "".join(f"{name} {name}\n{END}\n" for name in "abc")


def test_text_without_delimiters_is_split_at_a_line(tmp_path):
    lines = "".join(f"Line {number} of one long text.\n" for number in range(100))
    train, valid, sizes = make(tmp_path / "out", FILES, [write(tmp_path / "a.txt", lines)])
    assert train.decode() == lines[: len(train) - len(END) - 1] + f"{END}\n"
    assert valid.decode().startswith("Line 9")
    assert sizes.valid.documents == 1


def test_files_without_document_ends_are_documents(tmp_path):
    files = [write(tmp_path / f"{number}.txt", f"text {number} " * 20) for number in range(4)]
    train, valid, sizes = make(tmp_path / "out", {**FILES, "valid_fraction": 0.4}, files)
    assert (sizes.train.documents, sizes.valid.documents) == (2, 2)
    assert b"text 2" not in train and b"text 1" not in valid


@pytest.mark.parametrize(
    ("text", "share", "train"),
    [
        (f"one\r\n{END}\r\ntwo\r\n{END}\r\n", 0.5, f"one\r\n{END}\r\n"),
        (f"0.\n{END}\n0.\n{END}\n", 0.75, f"0.\n{END}\n"),
    ],
    ids=["CRLF", "target inside a delimiter"],
)
def test_text_is_split_behind_the_line_of_a_delimiter(tmp_path, text, share, train):
    corpus = make(tmp_path / "out", {**FILES, "valid_fraction": share}, [write(tmp_path / "a.txt", text)])
    assert (corpus[0] + corpus[1]).decode() == text
    assert corpus[0].decode() == train


@pytest.mark.parametrize("text", [" \n ", "word", "\n", f"{END}\n{END}\n", "A" * 1000])
def test_a_text_that_cannot_be_split_is_refused(tmp_path, text):
    with pytest.raises(InputError):
        make(tmp_path / "out", FILES, [write(tmp_path / "a.txt", text)])
    assert not list((tmp_path / "out").iterdir())


@given(st.text("ab\n", max_size=40), st.sampled_from([b"a", b"ab", b"aba"]), st.integers(0, 45), st.integers(1, 9))
def test_a_mark_is_found_for_any_block_size(tmp_path_factory, text, mark, position, block):
    path = write(tmp_path_factory.getbasetemp() / "marks.txt", text)
    starts = [start for start in range(len(text)) if text.encode().startswith(mark, start)]
    with open(path, "rb") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunking, "BLOCK_BYTES", block)
        ends = (start + len(mark) for start in starts if start >= position)
        assert chunking.find_end(file.fileno(), mark, position) == next(ends, None)


@settings(max_examples=30)
@given(
    documents=st.lists(st.text(PRINTED, min_size=1, max_size=30), min_size=2, max_size=20),
    share=st.floats(0.05, 0.95),
)
def test_splits_keep_documents_whole(tmp_path_factory, documents, share):
    documents = [document.replace(END, "") + "." for document in documents]
    text = "".join(f"{document}\n{END}\n" for document in documents).encode()
    folder = tmp_path_factory.mktemp("split")
    train, valid, sizes = make(folder / "out", {**FILES, "valid_fraction": share}, [write(folder / "a.txt", text)])
    assert train + valid == text
    assert train.endswith(f"{END}\n".encode())
    assert sizes.train.documents + sizes.valid.documents == len(documents)
