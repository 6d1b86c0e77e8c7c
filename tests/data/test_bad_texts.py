"""Texts of any bytes and any shape: each comes back from its tokens, and one in a single long line needs no more."""

import random
import resource
import subprocess
from pathlib import Path

import pytest

from lmpipe.cli.main import main
from lmpipe.data.corpus import make_corpus
from lmpipe.data.token_dataset import TokenDataset
from lmpipe.errors import InputError
from lmpipe.io.files import read_json
from lmpipe.planning.plan import load_plan
from lmpipe.planning.session import write_study
from lmpipe.study.corpora import FilesCorpus
from lmpipe.study.paths import StudyPaths
from lmpipe.tokenizer.pretokenizer import decode_utf8
from lmpipe.tokenizer.tokenizer import Tokenizer
from tests.support.cli_cases import TEXT, lmpipe
from tests.support.corruptions import CORRUPTIONS
from tests.support.tiny_study import MODEL, TRAINING, tiny_text, tiny_tokenizer

# The seconds of one core that a verb may take for a document in one long line, and the memory that it needs without.
LINE_SECONDS = 10
WITHOUT_TEXT_BYTES = 120_000_000
BYTES_PER_BYTE = 8


@pytest.mark.parametrize("how", [how for how in CORRUPTIONS["text"] if how != "empty"])
def test_tokens_decode_to_the_same_bytes(how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = CORRUPTIONS["text"][how](tiny_text(50, seed=1).encode())
    Path(TEXT).write_bytes(data)
    main(["count-pretokens", "--text", TEXT, "--output", "counts.npz"])
    if how not in ("only delimiters", "one byte", "only white space"):  # of too few pairs
        main(["train-bpe", "--counts", "counts.npz", "--corpus", "x", "--vocab-size", "280", "--output", "bpe"])
    tokenizer = Tokenizer.from_folder("bpe") if Path("bpe").exists() else tiny_tokenizer()
    tokenizer.save("again")
    main(["encode", "--text", TEXT, "--tokenizer", "again", "--output", "ids.bin"])
    ids = TokenDataset.open("ids.bin").tokens[:].tolist()
    assert tokenizer.decode_bytes(ids) == data
    assert tokenizer.encode(decode_utf8(data)) == ids


@pytest.mark.parametrize("how", ["nul bytes", "no UTF-8", "png"])
def test_corpus_of_no_text_is_refused(how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(TEXT).write_bytes(CORRUPTIONS["text"][how](tiny_text(50, seed=1).encode()))
    with pytest.raises(InputError, match=TEXT):
        make_corpus("mine", text_corpus(valid_fraction=0.2), "corpus")
    assert not list(Path("corpus").iterdir())


@pytest.mark.parametrize("how", ["crlf", "half a delimiter"])
def test_corpus_keeps_every_byte_and_ends_with_a_delimiter(how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = CORRUPTIONS["text"][how](tiny_text(50, seed=1).encode()) + b" " * 100
    Path(TEXT).write_bytes(data)
    make_corpus("mine", text_corpus(valid_fraction=0.2, shuffle=False), "corpus")
    train, valid = (Path("corpus", f"{split}.txt").read_bytes() for split in ("train", "valid"))
    assert without_ends(train + valid) == without_ends(data)
    assert train.endswith(b"<|endoftext|>\n") or how == "crlf"
    assert valid.rstrip().endswith(b"<|endoftext|>")


def text_corpus(**settings):
    """Return the study's block of a corpus whose only file is TEXT."""
    return FilesCorpus(source="files", files=f"{TEXT}", tokenizer={"vocab_size": 300}, **settings)


def without_ends(text: bytes) -> bytes:
    """Return a text without the delimiters and white space that a corpus may add."""
    return b"".join(text.replace(b"<|endoftext|>", b"").split())


def test_document_in_one_long_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    size = 1_000_000
    data = "".join(random.Random(0).choices("ACGT", k=size)).encode()
    Path(TEXT).write_bytes(data)
    Path("valid.txt").write_text(tiny_text(10, seed=0), encoding="utf-8")
    corpus = text_corpus(valid="valid.txt").model_dump(mode="json", exclude_none=True)
    settings = {"study": "mine", "seeds": [0], "corpora": {"mine": corpus}, "model": MODEL, "training": TRAINING}
    plan = load_plan(settings | {"experiments": {"x": {"corpus": "mine"}}}, "the study")
    paths = StudyPaths(Path("results/mine"))
    write_study(plan, paths)
    train, tokenizer, ids = paths.text("mine", "train"), paths.tokenizer("mine"), paths.tokens("mine", "train")
    commands = {
        "results/mine/corpora/mine/provenance.json": ["make-corpus", "results/mine", "mine"],
        "0.provenance.json": ["count-pretokens", "--text", train, "--output", "0.npz"],
        tokenizer / "provenance.json": [
            "train-bpe",
            *["--counts", "0.npz", "--corpus", "mine", "--vocab-size", "300", "--output"],
            tokenizer,
        ],
        ids.with_suffix(".provenance.json"): ["encode", "--text", train, "--tokenizer", tokenizer, "--output", ids],
        "results/mine/tokenizer_experiments.provenance.json": ["evaluate-tokenizers", "results/mine"],
    }
    for record, arguments in commands.items():
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        lmpipe(list(map(str, arguments)), check=True, stderr=subprocess.DEVNULL)
        seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        assert seconds < LINE_SECONDS, arguments[0]
        peak = read_json(record)["peak_memory_bytes"]
        assert peak < WITHOUT_TEXT_BYTES + BYTES_PER_BYTE * size, (arguments[0], peak)
    opened = Tokenizer.from_folder(tokenizer)
    text = b"".join(map(opened.token_bytes, TokenDataset.open(ids).tokens[:].tolist()))
    assert text == data + b"\n<|endoftext|>\n"
