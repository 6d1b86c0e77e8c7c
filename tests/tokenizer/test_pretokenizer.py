import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmpipe.errors import InputError
from lmpipe.tokenizer import pretokenizer
from lmpipe.tokenizer.bpe_training import merge_pretokens, train_bpe
from lmpipe.tokenizer.pretokenizer import (
    END_OF_TEXT,
    decode_utf8,
    documents,
    encode_utf8,
    special_bytes,
    split_before_space,
)
from lmpipe.tokenizer.tokenizer import Tokenizer


def write(path, data: bytes):
    path.write_bytes(data)
    return path


@given(st.text(alphabet=st.characters(exclude_categories=[]), max_size=20))
def test_every_text_has_bytes(text):
    data = encode_utf8(text)
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert data == text.encode()
    assert encode_utf8(decode_utf8(data)) == data


def test_special_tokens_are_texts_of_one_character_or_more_that_utf8_has():
    assert special_bytes(["é", "<|a|>", "é"]) == ["é".encode(), b"<|a|>"]
    with pytest.raises(InputError, match="special_tokens: contains an empty token"):
        special_bytes(["a", ""])
    with pytest.raises(InputError, match="special_tokens: contains "):
        special_bytes(["\udcff"])


@given(st.lists(st.sampled_from([b"one", b" \n", END_OF_TEXT.encode(), b"\xff"]), max_size=20), st.integers(1, 30))
def test_documents_are_separated_by_delimiters(tmp_path_factory, parts, block):
    data = b"".join(parts)
    path = write(tmp_path_factory.getbasetemp() / "documents.txt", data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretokenizer, "BLOCK_BYTES", block)
        texts = list(documents(path))
    assert texts == [piece for piece in data.split(END_OF_TEXT.encode()) if piece.strip()]


@given(st.lists(st.sampled_from([b"one", b"two ", b" \n", END_OF_TEXT.encode()]), max_size=40), st.integers(1, 30))
def test_a_long_document_comes_in_parts(tmp_path_factory, parts, block):
    data = b"".join(parts)
    path = write(tmp_path_factory.getbasetemp() / "long.txt", data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretokenizer, "BLOCK_BYTES", block)
        patch.setattr(pretokenizer, "MAX_DOCUMENT_BYTES", 40)
        texts = list(documents(path))
    assert max(map(len, texts), default=0) <= 40 + block
    assert b"".join(b"".join(texts).split()) == b"".join(data.replace(END_OF_TEXT.encode(), b"").split())


def test_a_part_of_a_long_document_ends_before_white_space():
    assert split_before_space(b"one two \n three") == (b"one two", b" \n three")
    assert split_before_space(b"one two\n") == (b"one two", b"\n")
    assert split_before_space(b" onetwo") == (b" on", b"etwo")


@pytest.mark.parametrize(
    "call",
    [
        lambda: Tokenizer({byte: bytes([byte]) for byte in range(256)}, [], END_OF_TEXT),
        lambda: merge_pretokens({b"a": 1}, 300, END_OF_TEXT),
        lambda: train_bpe("corpus.txt", 300, END_OF_TEXT),
    ],
    ids=["Tokenizer", "merge_pretokens", "train_bpe"],
)
def test_a_string_as_special_tokens_is_refused(call):
    with pytest.raises(InputError, match="special_tokens: is the string"):
        call()
