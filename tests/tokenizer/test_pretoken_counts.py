import io
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from lmpipe.errors import InputError
from lmpipe.kernels.bpe import pretoken_table
from lmpipe.kernels.bpe.pretoken_table import PretokenTable
from lmpipe.tokenizer import chunking, pretoken_counts
from lmpipe.tokenizer.documents import PretokenShard
from lmpipe.tokenizer.pretoken_counts import (
    PretokenCounts,
    count_pretokens,
    count_shard,
    load_counts,
    shard_bounds,
    sum_counts,
    write_counts,
)
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT
from tests.reference import naive_bpe

SPECIALS = ["<|a|>", "<|a|> <|b|>", "|>\n<", " <", "<|endoftext|>"]
PIECES = st.sampled_from(
    ["word", " ", "\n", "it's", " a", "\u3000", "é", "漢字", "\xa0", "1", "!", "x" * 40, *SPECIALS]
)
TEXTS = st.lists(PIECES, max_size=60).map("".join)
BROKEN = st.lists(st.one_of(PIECES.map(str.encode), st.binary(max_size=4)), max_size=40).map(b"".join)


def words_of(counts: Mapping[bytes, int]) -> pretoken_table.PretokenArrays:
    return PretokenCounts.from_mapping(counts).arrays


def equal(left: pretoken_table.PretokenArrays, right: pretoken_table.PretokenArrays) -> bool:
    return all(map(np.array_equal, left, right)) and [a.dtype for a in left] == [a.dtype for a in right]


def counted(folder, data: bytes, specials: list[str]) -> pretoken_table.PretokenArrays:
    path = folder / "text.txt"
    path.write_bytes(data)
    return count_pretokens(path, specials).arrays


def save_counts(path, counts: Mapping[bytes, int]) -> None:
    with open(path, "wb") as file:
        write_counts(file, counts)


def set_block_bytes(patch, size: int) -> None:
    for module in (chunking, pretoken_counts):
        patch.setattr(module, "BLOCK_BYTES", size)


def expected(data: bytes, specials: list[str]) -> pretoken_table.PretokenArrays:
    return words_of(Counter(naive_bpe.pretokens(data.decode("utf-8", "surrogateescape"), specials)))


def counted_by_regex(data: bytes) -> pretoken_table.PretokenArrays:
    """As `expected`, for long texts."""
    longest_first = "|".join(map(re.escape, sorted(SPECIALS, key=len, reverse=True)))
    pieces = re.split(longest_first, data.decode("utf-8", "surrogateescape"))
    words = Counter(word for piece in pieces for word in regex.findall(naive_bpe.GPT2, piece))
    return words_of({word.encode("utf-8", "surrogateescape"): count for word, count in words.items()})


@given(data=st.one_of(TEXTS.map(str.encode), BROKEN), block=st.integers(1, 40), threads=st.sampled_from([1, 3]))
@example(data=b"a\xe3\x80\x80 b\xe3\x80 c \xff d", block=1, threads=1)
@example(data=b"<|a|> <|b|> <|a|> <|a|> <|b|", block=3, threads=3)
def test_neither_blocks_nor_threads_change_the_counts(tmp_path_factory, data, block, threads):
    with pytest.MonkeyPatch.context() as patch:
        set_block_bytes(patch, block)
        patch.setattr(chunking, "WINDOW_BYTES", 1)
        patch.setattr(pretoken_counts, "available_cpus", lambda: threads)
        assert equal(counted(tmp_path_factory.getbasetemp(), data, SPECIALS), expected(data, SPECIALS))


def random_words(seed: int, number: int) -> list[bytes]:
    """Words of 1 to 60 bytes, of which many begin alike and some hold zeros."""
    generator = np.random.default_rng(seed)
    sizes = generator.choice([1, 2, 3, 7, 8, 9, 14, 15, 16, 17, 23, 24, 25, 60], number)
    return [bytes(generator.choice([0, 1, 97, 98, 255], size, p=[0.2, 0.1, 0.5, 0.1, 0.1]).tolist()) for size in sizes]


def test_tables_grow_are_emptied_into_each_other_and_sort_by_bytes(monkeypatch):
    monkeypatch.setattr(pretoken_table, "INITIAL_ARENA", 64)
    words = [random_words(seed, 5000) for seed in range(3)]
    total, everything = PretokenTable(4), Counter()
    for shard in words:
        table = PretokenTable(4)
        for some in (shard[:50], shard[50:]):
            table.add_words(
                *(array if index else array.tobytes() for index, array in enumerate(words_of(Counter(some))))
            )
        assert equal(table.words(), words_of(Counter(shard)))
        total.add(table)
        everything.update(shard)
        table.clear()
        assert len(table.words()[2]) == 0
    assert equal(total.words(), words_of(everything))
    assert equal(words_of(sum_counts(map(Counter, words))), words_of(everything))


def test_full_tables_of_threads_are_emptied_into_the_shared_one(tmp_path, monkeypatch):
    monkeypatch.setattr(pretoken_counts, "THREAD_CAPACITY", 1 << 13)
    set_block_bytes(monkeypatch, 1 << 16)
    monkeypatch.setattr(PretokenTable.__init__, "__defaults__", (1 << 13,))
    data = " ".join(f"{number:x} {number * 12345678901234567:030x}" for number in range(20_000)).encode()
    assert equal(counted(tmp_path, data, []), counted_by_regex(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"\0",
        b" " * 10_000,
        b"a" * 60_000,
        b"a b " * 10_000 + b"c" * 60_000 + b" d",
        "漢字。".encode() * 10_000,
        b"line\r\n" * 10_000,
        b"\xff\xe2\x82" * 10_000,
        b"<|endoftext|>" * 3000,
        b"no newline at the end",
    ],
    ids=lambda data: f"{data[:8]!r} {len(data)}",
)
def test_long_and_strange_texts(tmp_path, monkeypatch, data):
    set_block_bytes(monkeypatch, 1 << 14)
    assert equal(counted(tmp_path, data, SPECIALS), counted_by_regex(data))


def test_file_truncated_while_read_is_an_input_error(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"a b c")
    with pytest.raises(InputError, match="is the end of a file"):
        count_pretokens(path, [], 0, 10)


def test_an_error_in_one_thread_ends_them_all(tmp_path, monkeypatch):
    set_block_bytes(monkeypatch, 10)
    monkeypatch.setattr(pretoken_counts, "available_cpus", lambda: 2)

    def fail(*_):
        raise OSError("disk")

    monkeypatch.setattr(pretoken_counts, "read_block", fail)
    with pytest.raises(OSError, match="disk"):
        counted(tmp_path, b"word " * 1000, [])


def test_memory_does_not_grow_with_the_text(tmp_path):
    code = "from lmpipe.tokenizer.pretoken_counts import count_pretokens\n"
    code += "from lmpipe.provenance.environment import peak_memory_bytes"
    for repeats in (50_000, 600_000):
        path = tmp_path / f"{repeats}.txt"
        path.write_text("One day a small cat saw a big dog. " * repeats)
        code += f"\ncount_pretokens({str(path)!r}, ['<|endoftext|>'])\nprint(peak_memory_bytes())"
    small, large = map(int, subprocess.check_output([sys.executable, "-c", code]).split())
    assert large - small < 8e6


def write(path, data: bytes):
    path.write_bytes(data)
    return path


@given(
    st.lists(st.sampled_from(["A story.\n", "é 漢 ", END_OF_TEXT, "\n", "<|endof"]), max_size=30).map("".join),
    st.integers(1, 6),
    st.integers(1, 20),
)
def test_shards_end_after_documents_and_count_what_the_whole_counts(tmp_path_factory, text, shards, block):
    path = write(tmp_path_factory.getbasetemp() / "shards.txt", text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunking, "BLOCK_BYTES", block)
        bounds = shard_bounds(path, shards)
    assert len(bounds) == shards
    assert [0, *(stop for _, stop in bounds)] == [*(start for start, _ in bounds), len(text.encode())]
    for _, stop in bounds[:-1]:
        assert stop in (0, len(text.encode())) or text.encode()[:stop].endswith(END_OF_TEXT.encode())
    counts = [count_pretokens(path, [END_OF_TEXT], *bound) for bound in bounds]
    assert sum_counts(counts) == count_pretokens(path, [END_OF_TEXT])


@given(st.dictionaries(st.binary(min_size=1, max_size=5), st.integers(1, 2**40), max_size=20))
def test_counts_round_trip_and_equal_counts_give_equal_bytes(tmp_path_factory, counts):
    folder = tmp_path_factory.getbasetemp()
    save_counts(folder / "a.npz", counts)
    save_counts(folder / "b.npz", dict(reversed(counts.items())))
    assert load_counts(folder / "a.npz") == counts
    assert (folder / "a.npz").read_bytes() == (folder / "b.npz").read_bytes()


def test_damaged_or_missing_counts_are_input_errors(tmp_path):
    save_counts(tmp_path / "good.npz", {b"a": 1, b"bc": 2})
    data = (tmp_path / "good.npz").read_bytes()
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    damaged = {
        "name.npz": data.replace(b"text.npy", b"ext.npy", 1),  # which zipfile shows with all that follows
        "cut.npz": data[: len(data) // 2],
        "empty.npz": b"",
        "text.npz": b"hello",
        "pickle.npz": pickled.getvalue(),
    }
    for name, content in damaged.items():
        with pytest.raises(InputError, match=f"{name}.*delete it and count again") as caught:
            load_counts(write(tmp_path / name, content))
        assert str(caught.value).isprintable() and len(str(caught.value)) < 500
    ones = np.ones(3, np.int64)
    np.savez(tmp_path / "short.npz", text=np.zeros(5, np.uint8), lengths=ones.astype(np.uint32), counts=ones)
    with pytest.raises(InputError, match="lengths"):
        load_counts(tmp_path / "short.npz")
    with pytest.raises(InputError, match="count-pretokens"):
        load_counts(tmp_path / "none.npz")


def test_count_shard_writes_counts_and_their_cost(tmp_path):
    text = ("One day, a cat ran." + END_OF_TEXT) * 10
    path = write(tmp_path / "train.txt", text.encode())
    infos = [count_shard(path, shard, 2, tmp_path / f"{shard}.npz", tmp_path / f"{shard}.json") for shard in range(2)]
    assert infos == [PretokenShard.read(tmp_path / f"{shard}.json") for shard in range(2)]
    total = sum_counts(load_counts(tmp_path / f"{shard}.npz") for shard in range(2))
    assert total == Counter(naive_bpe.pretokens(text, [END_OF_TEXT]))
    assert [info.bytes for info in infos] == [192, 128]
    assert sum(info.pretokens for info in infos) == sum(total.values())
    assert all(info.wall_seconds > 0 and info.peak_memory_bytes > 1e6 for info in infos)


def test_a_missing_text_is_an_input_error(tmp_path):
    for missing in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(InputError) as caught:
            count_pretokens(missing, [])
        assert caught.value.where == str(missing)
        with pytest.raises(InputError) as caught:
            count_shard(missing, 0, 1, tmp_path / "a.npz", tmp_path / "a.json")
        assert caught.value.where == str(missing)


@pytest.mark.parametrize(
    "text", ["a1" * 50, "ab!c" * 30, "'s1'" * 40, "it's!'s" * 30, "中文。中文，" * 20, "x'll" * 30]
)
def test_texts_without_white_space_are_cut_where_nothing_changes(tmp_path, monkeypatch, text):
    set_block_bytes(monkeypatch, 5)
    data = text.encode()
    path = write(tmp_path / "text.txt", data)
    with open(path, "rb") as file:
        assert len(list(chunking.blocks(file.fileno(), [], 0, len(data)))) > 10
    assert equal(counted(tmp_path, data, []), counted_by_regex(data))
