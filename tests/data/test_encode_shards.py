"""A text that is encoded shard by shard and joined: the same bytes as of the text encoded at once."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from lmpipe.cli.main import main
from lmpipe.data import encode, token_dataset
from lmpipe.data.corpus import make_corpus
from lmpipe.data.documents import TokenFileInfo
from lmpipe.data.encode import concat_shards, encode_file
from lmpipe.errors import InputError
from lmpipe.io.files import read_json, write_json
from lmpipe.provenance.job_records import RECORD
from lmpipe.study.corpora import Corpus
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT
from lmpipe.tokenizer.tokenizer import Tokenizer
from tests.support.tiny_study import tiny_text, tiny_tokenizer

TEXT = tiny_text(200, seed=0)
TINY = tiny_tokenizer()
PIECES = ["the sun", " ", "\n", "  ", "'s", ".", END_OF_TEXT, "<|endof", "|>", "é", "\N{IDEOGRAPHIC SPACE}", "1st"]


def encode_at_once(folder, text, tokenizer):
    """Return the bytes of NAME.bin and NAME.json."""
    (folder / "text.txt").write_bytes(text.encode())
    encode_file(folder / "text.txt", tokenizer, folder / "whole.bin", folder / "whole.json", "tiny")
    return both(folder / "whole.bin")


def encode_in_shards(folder, tokenizer, shards):
    """Return the paths of the shards' ids."""
    paths = [folder / f"{shard}.bin" for shard in range(shards)]
    for shard, path in enumerate(paths):
        encode_file(folder / "text.txt", tokenizer, path, path.with_suffix(".json"), "tiny", shard, shards)
    return paths


def both(path):
    return path.read_bytes(), path.with_suffix(".json").read_bytes()


def join(folder, paths):
    concat_shards(paths, folder / "joined.bin", folder / "joined.json")
    return both(folder / "joined.bin")


@pytest.fixture
def shards(tmp_path):
    """Return the paths of three shards of a text."""
    encode_at_once(tmp_path, TEXT, TINY)
    return encode_in_shards(tmp_path, TINY, 3)


def edit(path, **changes):
    write_json(path, read_json(path) | changes)


@settings(max_examples=15)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=60).map("".join), st.integers(1, 6))
def test_concatenated_shards_equal_the_whole_text(tmp_path_factory, text, shards):
    folder = tmp_path_factory.getbasetemp()
    expected = encode_at_once(folder, text, TINY)
    assert join(folder, encode_in_shards(folder, TINY, shards)) == expected


@pytest.mark.parametrize("scanned", [1, 7])
def test_concatenation_does_not_depend_on_the_chunk_size(tmp_path, shards, monkeypatch, scanned):
    monkeypatch.setattr(encode, "CHUNK_TOKENS", scanned)
    assert join(tmp_path, shards) == both(tmp_path / "whole.bin")
    assert len({path.stat().st_size for path in shards} - {0}) > 1, "shards with something in them"


def test_shards_of_large_vocabularies_use_uint32(tmp_path):
    vocab = dict(TINY.vocab)
    vocab |= {token_id: f"unused {token_id}".encode() for token_id in range(len(vocab), 70_000)}
    large = Tokenizer(vocab, TINY.merges, [END_OF_TEXT])
    expected = encode_at_once(tmp_path, TEXT, large)
    assert read_json(tmp_path / "whole.json")["dtype"] == "uint32"
    assert join(tmp_path, encode_in_shards(tmp_path, large, 2)) == expected


def test_shard_info_names_its_index_and_shards_may_be_empty(tmp_path):
    expected = encode_at_once(tmp_path, "one document without an end", TINY)
    paths = encode_in_shards(tmp_path, TINY, 3)
    infos = [TokenFileInfo.read(path.with_suffix(".json")) for path in paths]
    assert [(info.shard, info.num_shards) for info in infos] == [(0, 3), (1, 3), (2, 3)]
    assert [info.tokens > 0 for info in infos] == [True, False, False]
    assert paths[1].read_bytes() == b""
    assert (infos[1].max_id, infos[1].text_bytes) == (None, 0)
    assert join(tmp_path, paths) == expected


def test_concatenating_only_empty_shards_is_refused(tmp_path):
    (tmp_path / "text.txt").touch()
    paths = encode_in_shards(tmp_path, TINY, 2)
    with pytest.raises(InputError, match=r"0\.bin: .*no tokens"):
        join(tmp_path, paths)
    assert not (tmp_path / "joined.bin").exists()


@settings(max_examples=30)
@given(st.lists(st.sampled_from([*PIECES, "<|user|>", "|>x", "<|user|"]), max_size=60))
def test_shards_with_other_special_tokens_are_the_same_bytes(tmp_path_factory, pieces):
    specials = [END_OF_TEXT, "<|user|>", "|>x", ">"]
    tokenizer, folder = Tokenizer(TINY.vocab, TINY.merges, specials), tmp_path_factory.mktemp("specials")
    text = "".join(pieces) + "end"
    expected = encode_at_once(folder, text, tokenizer)
    concat_shards(encode_in_shards(folder, tokenizer, 3), folder / "joined.bin", folder / "joined.json")
    assert both(folder / "joined.bin") == expected


@pytest.mark.parametrize("specials", [[], [END_OF_TEXT, "the <|end"], [END_OF_TEXT, END_OF_TEXT + "!"], ["<|end|>"]])
def test_sharding_needs_end_of_text_and_no_token_that_overlaps_it(tmp_path, specials):
    vocab = dict(TINY.vocab)
    vocab |= {len(vocab) + rank: token.encode() for rank, token in enumerate(specials) if token != END_OF_TEXT}
    tokenizer = Tokenizer(vocab, TINY.merges, specials)
    encode_at_once(tmp_path, TEXT, tokenizer)
    with pytest.raises(InputError, match="--shards: "):
        encode_in_shards(tmp_path, tokenizer, 2)


@pytest.mark.parametrize("shard", [-1, 2])
def test_shard_index_out_of_range(tmp_path, shard):
    encode_at_once(tmp_path, TEXT, TINY)
    with pytest.raises(InputError, match=f"--shard: is {shard}"):
        encode_file(tmp_path / "text.txt", TINY, tmp_path / "a.bin", tmp_path / "a.json", "tiny", shard, 2)


# --- shards that do not belong together ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([0, 2, 1], "2.bin: is shard 2 of 3.* shard 1 of 3"),
        ([0, 1], "0.bin: is shard 0 of 3.* shard 0 of 2"),
        ([0, 1, 1], "1.bin: is shard 1 of 3.* shard 2 of 3"),
        ([0, 1, 2, 2], "0.bin: is shard 0 of 3.* shard 0 of 4"),
    ],
)
def test_shards_out_of_order_are_refused(tmp_path, shards, order, message):
    with pytest.raises(InputError, match=message):
        join(tmp_path, [shards[number] for number in order])


def test_shards_of_two_tokenizers_are_refused(tmp_path, shards):
    tokenizer = TINY
    other = Tokenizer(dict(list(tokenizer.vocab.items())[:-1]), tokenizer.merges[:-1], [END_OF_TEXT])
    path = shards[1]
    encode_file(tmp_path / "text.txt", other, path, path.with_suffix(".json"), "tiny", 1, 3)
    with pytest.raises(InputError, match=r"1\.bin: tokenizer is .*0\.bin"):
        join(tmp_path, shards)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, "1.bin: has sha256 .* 000"),
        ({"max_id": 3}, "1.bin: has the largest id"),
        ({"tokens": 5}, "1.bin: has .* bytes, but 5 tokens"),
        ({"tokens": 0}, "1.bin: has [0-9]+ bytes, but no tokens"),
        ({"vocab_size": 10**15}, f"1.bin: vocab_size is {10**15}"),
        ({"dtype": "uint32"}, "1.bin: has .* bytes"),
        ({"text_bytes": None}, "1.json: text_bytes"),
    ],
)
def test_shard_with_wrong_info_is_refused(tmp_path, shards, changes, message):
    edit(shards[1].with_suffix(".json"), **changes)
    with pytest.raises(InputError, match=message):
        join(tmp_path, shards)
    assert not list(tmp_path.glob("joined*"))


def test_changed_or_missing_shard_is_refused(tmp_path, shards):
    ids = np.fromfile(shards[1], "<u2")
    ids[[5, 6]] = ids[[6, 5]]
    ids.tofile(shards[1])
    with pytest.raises(InputError, match=r"1\.bin: has sha256 "):
        join(tmp_path, shards)
    shards[1].unlink()
    with pytest.raises(InputError, match=r"1\.bin: is missing"):
        join(tmp_path, shards)
    shards[1].with_suffix(".json").unlink()
    with pytest.raises(InputError, match=r"1\.json: "):
        join(tmp_path, shards)


def test_a_shard_is_not_overwritten(tmp_path, shards):
    with pytest.raises(InputError, match=r"0\.bin: "):
        concat_shards(shards, shards[0], tmp_path / "joined.json")


def test_concatenation_takes_constant_memory(tmp_path, monkeypatch):
    for module in (encode, token_dataset):
        monkeypatch.setattr(module, "CHUNK_TOKENS", 1 << 12)
    encode_at_once(tmp_path, TEXT * 100, TINY)
    paths = encode_in_shards(tmp_path, TINY, 2)
    assert paths[0].stat().st_size > 1_000_000
    join(tmp_path, paths)
    tracemalloc.start()
    try:
        concat_shards(paths, tmp_path / "joined.bin", tmp_path / "joined.json")
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


# --- the command line ------------------------------------------------------------------------------------------------


def test_record_of_concatenated_shards_names_text_and_tokenizer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    corpus = {"source": "stories", "documents": 100, "seed": 0, "tokenizer": {"vocab_size": 300}}
    make_corpus("tiny", TypeAdapter(Corpus).validate_python(corpus), "corpora/tiny")
    TINY.save("tokenizers/tiny")
    encode = ["encode", "--text", "corpora/tiny/train.txt", "--tokenizer", "tokenizers/tiny"]
    main([*encode, "--output", "whole.bin"])
    paths = [f"tokens/tiny/train-shards/{shard}.bin" for shard in range(2)]
    for shard, path in enumerate(paths):
        main([*encode, "--shard", str(shard), "--shards", "2", "--output", path])
    join = ["concat-tokens", "--tokens", *paths, "--output", "tokens/tiny/train.bin"]
    main(join)
    assert both(Path("tokens/tiny/train.bin")) == both(Path("whole.bin"))
    record = read_json("tokens/tiny/train.provenance.json")
    assert set(record["inputs"]) == {
        "../../corpora/tiny/train.txt",
        *(f"../../tokenizers/tiny/{name}" for name in ("merges.txt", "ranks.tiktoken", "tokenizer.json", "vocab.json")),
    }
    assert set(record["outputs"]) == {"train.bin", "train.json"}
    assert [shard["arguments"].get("shard", 0) for shard in record["shards"]] == [0, 1]
    assert all(shard["code"] and shard["wall_seconds"] >= 0 for shard in record["shards"])

    for path in Path("tokens/tiny/train-shards").glob(f"*.{RECORD}"):
        path.unlink()
    main(join)
    record = json.loads(Path("tokens/tiny/train.provenance.json").read_text())
    names = [f"train-shards/{shard}.{ending}" for shard in range(2) for ending in ("bin", "json")]
    assert (sorted(record["inputs"]), record["shards"]) == (names, [])
