"""A short text, and a tokenizer that encodes it."""

import pytest

from lmpipe.tokenizer.bpe_training import merge_pretokens
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT
from lmpipe.tokenizer.tokenizer import Tokenizer


@pytest.fixture
def tokenizer():
    vocab, merges = merge_pretokens({b"The": 3, b" the": 5, b" cat": 2, b"at": 9}, 264, [END_OF_TEXT])
    return Tokenizer(vocab, merges, [END_OF_TEXT])


@pytest.fixture
def text_path(tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes(f"The cat sat on the mat.\r\nÉté! {END_OF_TEXT}\n".encode() * 30 + b"no end")
    return path
