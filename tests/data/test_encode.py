import hashlib
import math
from collections import Counter

import numpy as np
import pytest

from lmpipe.data.documents import TokenFileInfo
from lmpipe.data.encode import encode_file, unigram_entropy
from lmpipe.data.token_dataset import TokenDataset
from lmpipe.errors import InputError
from lmpipe.tokenizer import chunking, parallel_encoding
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT
from lmpipe.tokenizer.tokenizer import Tokenizer


def encode(text_path, tokenizer, folder):
    info = encode_file(text_path, tokenizer, folder / "train.bin", folder / "train.json", "mine")
    return info, folder / "train.bin"


def test_token_file_contains_the_ids_of_the_text(tmp_path, text_path, tokenizer):
    info, path = encode(text_path, tokenizer, tmp_path)
    ids = tokenizer.encode(text_path.read_bytes().decode())
    assert np.fromfile(path, "<u2").tolist() == ids
    shares = [count / len(ids) for count in Counter(ids).values()]
    entropy = -sum(share * math.log(share) for share in shares)
    assert info.unigram_entropy == pytest.approx(entropy, rel=1e-12)
    assert TokenFileInfo.read(tmp_path / "train.json") == info
    assert info.model_dump(exclude={"unigram_entropy"}) == {
        "tokens": len(ids),
        "dtype": "uint16",
        "max_id": max(ids),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "text_bytes": text_path.stat().st_size,
        "vocab_size": 264,
        "tokenizer": {"name": "mine", "sha256": tokenizer.sha256},
        "shard": 0,
        "num_shards": 1,
    }


def test_token_files_do_not_depend_on_blocks(tmp_path, text_path, tokenizer, monkeypatch):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    encode(text_path, tokenizer, tmp_path / "a")
    for module in (chunking, parallel_encoding):
        monkeypatch.setattr(module, "BLOCK_BYTES", 3)
    monkeypatch.setattr(parallel_encoding, "available_cpus", lambda: 3)
    encode(text_path, tokenizer, tmp_path / "b")
    for name in ("train.bin", "train.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_large_vocabularies_use_uint32(tmp_path, text_path, tokenizer):
    fitting = {**tokenizer.vocab, 65_535: b"some token"}
    info, path = encode(text_path, Tokenizer(fitting, tokenizer.merges, [END_OF_TEXT]), tmp_path)
    assert (info.dtype, path.stat().st_size) == ("uint16", 2 * info.tokens)
    larger = Tokenizer({**tokenizer.vocab, 70_000: b" o"}, [*tokenizer.merges, (b" ", b"o")], [END_OF_TEXT])
    info, path = encode(text_path, larger, tmp_path)
    assert (info.dtype, info.max_id, info.vocab_size) == ("uint32", 70_000, 70_001)
    assert TokenDataset.open(path).tokens[:].tolist() == larger.encode(text_path.read_bytes().decode())


def test_an_empty_text_is_refused_and_leaves_no_file(tmp_path, tokenizer):
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(InputError, match=r"empty\.txt"):
        encode(tmp_path / "empty.txt", tokenizer, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["empty.txt"]


def test_unigram_entropy_of_equal_and_of_single_tokens():
    assert unigram_entropy(np.array([3, 3, 3, 0])) == pytest.approx(math.log(3), rel=1e-15)
    assert unigram_entropy(np.array([0, 7])) == 0
