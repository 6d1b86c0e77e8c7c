import io
import os
import re
import sys
from collections import Counter
from itertools import chain

import numpy as np
import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st
from reference import naive_bpe

from lmpipe import InputError, pretokenize
from lmpipe.files import read_json
from lmpipe.pretokenize import (
    END_OF_TEXT,
    SPACES,
    count_pretokens,
    count_shard,
    cut_before_space,
    documents,
    load_counts,
    merge_counts,
    pretokens,
    read_pieces,
    save_counts,
    shard_bounds,
    split_on_special,
    stream_stretches,
    stretches,
    to_bytes,
    to_text,
)

# Characters on which the pattern turns, and whole special tokens.
TRICKY = st.sampled_from(
    [*"'srtdmlve 0½\n\t\r .-!éß漢字あ🙂\x00\x1c\x85\xa0\u3000\u200b\u2028\ufffd\udc80", "'ll", "'re", "  ", END_OF_TEXT]
)
TEXTS = st.lists(st.one_of(TRICKY, st.characters()), max_size=40).map("".join)
SPECIALS = ["<|a|>", "<|a|><|b|>", "|><", END_OF_TEXT]


def write(path, data: bytes):
    path.write_bytes(data)
    return path


def test_stretches_use_the_white_space_of_the_regex_package():
    characters = "".join(map(chr, range(sys.maxunicode + 1)))
    assert re.findall(f"[{SPACES}]", characters) == regex.findall(r"\s", characters)


@given(TEXTS)
def test_pretokens_equal_the_published_pattern_and_join_to_the_text(text):
    assert pretokens(text) == regex.findall(naive_bpe.GPT2, text)
    assert "".join(pretokens(text)) == text


@given(TEXTS)
@example("a  b\n\n c\u3000 d \u3000e 's  'll")
@example("!\x1c a\x1c\n b")
def test_pretokens_of_stretches_are_the_pretokens_of_the_text(text):
    assert "".join(stretches(text)) == text
    assert [pretoken for stretch in stretches(text) for pretoken in pretokens(stretch)] == pretokens(text)


@given(st.text(alphabet="<|ab>x", max_size=30), st.lists(st.sampled_from(SPECIALS), unique=True))
def test_special_tokens_cut_the_longest_first(text, specials):
    pieces = [
        piece
        for ordinary, special in split_on_special(text, specials)
        for piece in [(ordinary, False), *([(special, True)] if special else [])]
    ]
    assert pieces == naive_bpe.cut(text, specials)


def test_an_empty_special_token_is_refused():
    with pytest.raises(InputError, match="special_tokens"):
        list(split_on_special("a", [""]))


@given(st.lists(st.text(alphabet="<|ab>x 'l\n\u3000", max_size=9), max_size=12), st.sampled_from([1, 2, 5, 50]))
@example(["<|a|>", "<|b|>x"], 1)
@example(["a ", " ", "\n", "b'", "l", "l"], 1)
@example(["a<b>a'l", "l<|a", ">b"], 2)
@example(["\n\n<|", "<|a|>"], 1)
def test_a_stream_cuts_as_the_whole_text_does_wherever_its_pieces_end(pieces, window):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretokenize, "WINDOW_CHARACTERS", window)
        streamed = [
            piece
            for found, special in stream_stretches(pieces, SPECIALS)
            for piece in [*chain.from_iterable(map(pretokens, found)), *([special] if special else [])]
        ]
    whole = [
        piece
        for ordinary, special in split_on_special("".join(pieces), SPECIALS)
        for piece in [*pretokens(ordinary), *([special] if special else [])]
    ]
    assert streamed == whole


def test_a_stream_is_lazy_and_holds_little_back():
    taken = 0

    def pieces():
        nonlocal taken
        while True:
            taken += 1
            yield "some words " * 10

    stream = stream_stretches(pieces(), [END_OF_TEXT])
    for _ in range(100):
        next(stream)
    assert taken <= 100 * (pretokenize.WINDOW_CHARACTERS // 110 + 2)


@given(data=st.one_of(st.binary(max_size=60), TEXTS.map(to_bytes)), block=st.integers(1, 7))
@example(data="é€🙂".encode() + b"\xe2\x82" + b"\xed\xa0\x80\xff", block=1)
@example(data=b"some stretches are long, and some are short", block=2)
def test_any_bytes_survive_and_are_counted_alike_with_blocks_of_any_size(tmp_path_factory, data, block):
    path = write(tmp_path_factory.getbasetemp() / "bytes.txt", data)
    assert to_bytes(to_text(data)) == data
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretokenize, "BLOCK_BYTES", block)
        patch.setattr(pretokenize, "WINDOW_CHARACTERS", 1)
        patch.setattr(pretokenize, "UNIQUE_STRETCHES", 2)
        patch.setattr(pretokenize, "WAITING_CHARACTERS", 9)
        assert to_bytes("".join(read_pieces(path, "reading"))) == data
        counts = count_pretokens(path, SPECIALS)
    assert counts == Counter(naive_bpe.pretokens(data.decode("utf-8", "surrogateescape"), SPECIALS))


@given(st.text(alphabet=st.characters(exclude_categories=[]), max_size=20))
def test_every_text_has_bytes(text):
    data = to_bytes(text)
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert data == text.encode()
    assert to_bytes(to_text(data)) == data


@given(
    st.lists(st.sampled_from(["A story.\n", "é 漢 ", END_OF_TEXT, "\n", "<|endof"]), max_size=30).map("".join),
    st.integers(1, 6),
    st.integers(1, 20),
)
def test_shards_end_after_documents_and_count_what_the_whole_counts(tmp_path_factory, text, shards, block):
    path = write(tmp_path_factory.getbasetemp() / "shards.txt", text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretokenize, "BLOCK_BYTES", block)
        bounds = shard_bounds(path, shards)
    assert len(bounds) == shards
    assert [0, *(stop for _, stop in bounds)] == [*(start for start, _ in bounds), len(text.encode())]
    for _, stop in bounds[:-1]:
        assert stop in (0, len(text.encode())) or text.encode()[:stop].endswith(END_OF_TEXT.encode())
    parts = [count_pretokens(path, [END_OF_TEXT], *bound) for bound in bounds]
    assert merge_counts(parts) == count_pretokens(path, [END_OF_TEXT])


def test_shards_of_many_documents_are_about_equal(tmp_path):
    path = write(tmp_path / "text.txt", (b"a" * 87 + END_OF_TEXT.encode()) * 1000)
    assert [stop - start for start, stop in shard_bounds(path, 4)] == [25_100, 25_000, 25_000, 24_900]


@given(st.lists(st.sampled_from([b"one", b" \n", END_OF_TEXT.encode(), b"\xff"]), max_size=20), st.integers(1, 30))
def test_documents_are_what_lies_between_delimiters(tmp_path_factory, parts, block):
    data = b"".join(parts)
    path = write(tmp_path_factory.getbasetemp() / "documents.txt", data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretokenize, "BLOCK_BYTES", block)
        found = list(documents(path))
    assert found == [part for part in data.split(END_OF_TEXT.encode()) if part.strip()]


@given(st.lists(st.sampled_from([b"one", b"two ", b" \n", END_OF_TEXT.encode()]), max_size=40), st.integers(1, 30))
def test_a_long_document_comes_in_parts(tmp_path_factory, parts, block):
    data = b"".join(parts)
    path = write(tmp_path_factory.getbasetemp() / "long.txt", data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretokenize, "BLOCK_BYTES", block)
        patch.setattr(pretokenize, "LONGEST_DOCUMENT", 40)
        found = list(documents(path))
    assert max(map(len, found), default=0) <= 40 + block
    assert b"".join(b"".join(found).split()) == b"".join(data.replace(END_OF_TEXT.encode(), b"").split())


def test_a_part_of_a_long_document_ends_before_white_space():
    assert cut_before_space(b"one two \n three") == (b"one two", b" \n three")
    assert cut_before_space(b"one two\n") == (b"one two", b"\n")
    assert cut_before_space(b" onetwo") == (b" on", b"etwo")


@given(st.dictionaries(st.binary(min_size=1, max_size=5), st.integers(1, 2**40), max_size=20))
def test_counts_survive_saving_and_equal_counts_give_equal_bytes(tmp_path_factory, counts):
    folder = tmp_path_factory.getbasetemp()
    save_counts(folder / "a.npz", counts)
    save_counts(folder / "b.npz", dict(reversed(counts.items())))
    assert load_counts(folder / "a.npz") == counts
    assert (folder / "a.npz").read_bytes() == (folder / "b.npz").read_bytes()
    with np.load(folder / "a.npz", allow_pickle=False) as arrays:
        assert {name: arrays[name].dtype.name for name in arrays} == {
            "text": "uint8",
            "lengths": "uint32",
            "counts": "int64",
        }
        assert arrays["text"].tobytes() == b"".join(sorted(counts))


def test_damaged_and_missing_counts_are_told_in_one_line(tmp_path):
    save_counts(tmp_path / "good.npz", {b"a": 1, b"bc": 2})
    data = (tmp_path / "good.npz").read_bytes()
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    damaged = {
        "cut.npz": data[: len(data) // 2],
        "empty.npz": b"",
        "text.npz": b"hello",
        "pickle.npz": pickled.getvalue(),
    }
    for name, content in damaged.items():
        with pytest.raises(InputError, match=f"{name}.*delete it and count again") as caught:
            load_counts(write(tmp_path / name, content))
        assert "\n" not in str(caught.value)
    ones = np.ones(3, np.int64)
    np.savez(tmp_path / "short.npz", text=np.zeros(5, np.uint8), lengths=ones.astype(np.uint32), counts=ones)
    with pytest.raises(InputError, match="lengths"):
        load_counts(tmp_path / "short.npz")
    with pytest.raises(InputError, match="count-pretokens"):
        load_counts(tmp_path / "none.npz")


def test_count_shard_writes_counts_and_their_cost(tmp_path):
    text = ("One day, a cat ran." + END_OF_TEXT) * 10
    path = write(tmp_path / "train.txt", text.encode())
    for shard in range(2):
        count_shard(path, shard, 2, tmp_path / f"{shard}.npz", tmp_path / f"{shard}.json")
    records = [read_json(tmp_path / f"{shard}.json") for shard in range(2)]
    total = merge_counts(load_counts(tmp_path / f"{shard}.npz") for shard in range(2))
    assert total == Counter(naive_bpe.pretokens(text, [END_OF_TEXT]))
    assert sum(record["bytes"] for record in records) == os.path.getsize(path)
    assert sum(record["pretokens"] for record in records) == sum(total.values())
    assert all(record["wall_seconds"] > 0 and record["peak_memory_bytes"] > 1e6 for record in records)


def test_a_missing_text_is_an_input_error(tmp_path):
    for missing in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(InputError, match="expected a text file"):
            count_pretokens(missing, [])
        with pytest.raises(InputError, match="expected a text file"):
            count_shard(missing, 0, 1, tmp_path / "a.npz", tmp_path / "a.json")


def test_damaged_counts_are_told_in_one_line(tmp_path):
    path = tmp_path / "0.npz"
    save_counts(path, {bytes([byte, 10]): 1 for byte in range(256)})
    # Cut out of the first name, which zipfile then shows with all that follows.
    data = path.read_bytes()
    path.write_bytes(data.replace(b"text.npy", b"ext.npy", 1))
    with pytest.raises(InputError) as caught:
        load_counts(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
