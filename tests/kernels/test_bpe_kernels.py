import sys
from itertools import pairwise

import numpy as np
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lmpipe.kernels.bpe.block_scan import BlockScan, SpecialTokenTable, class_table
from lmpipe.kernels.bpe.structs import BLOCK, DIGIT, LETTER, SCAN, SCAN_SLACK, WHITE
from lmpipe.kernels.runtime.buffers import Buffer, buffer_of
from lmpipe.kernels.runtime.loader import load
from lmpipe.kernels.runtime.structs import PADDING
from tests.reference import naive_bpe

KERNELS = load("lmpipe.kernels.bpe.pretoken_table_kernels")
SPACES = "\x85\xa0\u1680\u2000\u2009\u2028\u202f\u3000"
PIECES = st.sampled_from(
    [
        *"'srtdmlveSLR 0½\n\t\r\x0b .-!éßЯ漢字あ한ทनع🙂𝒳\x00\x1c\u200b\ufffd",
        *SPACES,
        "'ll",
        "'re",
        "''s",
        "  ",
        " \n ",
        "a" * 70,
    ]
)
BROKEN = st.sampled_from(
    [b"\xff", b"\xc3", b"\xe2\x80", b"\xe3\x80", b"\xed\xa0\x80", b"\xf0\x9f\x99", b"\xf5", b"\x80", b"\xc0\xaf"]
)
ANY_BYTES = st.lists(
    st.one_of(
        PIECES.map(str.encode), st.characters(exclude_categories=["Cs"]).map(str.encode), BROKEN, st.binary(max_size=3)
    ),
    max_size=60,
).map(b"".join)


@pytest.fixture(scope="module")
def classes():
    with buffer_of(class_table()) as buffer:
        yield buffer.address


def scan_pretokens(classes, data: bytes, room: int = SCAN_SLACK) -> list[bytes]:
    """Return the pre-tokens of a text, found by calls that have room for `room` starts each."""
    pretokens = []
    with buffer_of(data) as text, Buffer(4 * room) as starts, Buffer(SCAN.nbytes) as state:
        while int(state.array("i8", 1)[0]) < len(data):
            count = KERNELS.scan(text.address, len(data), classes, state.address, starts.address, room)
            pretokens += starts.array("u4", room)[:count].tolist()
    return cut(data, pretokens)


def cut(data: bytes, starts: list[int]) -> list[bytes]:
    return [data[start:stop] for start, stop in pairwise([*starts, len(data)])]


def regex_pretokens(data: bytes) -> list[bytes]:
    text = data.decode("utf-8", "surrogateescape")
    return [match.encode("utf-8", "surrogateescape") for match in regex.findall(naive_bpe.GPT2, text)]


@settings(max_examples=4 * settings.default.max_examples)
@given(data=ANY_BYTES, offset=st.integers(0, 64), room=st.integers(SCAN_SLACK, 3 * SCAN_SLACK))
@example(data="a  b\n\n c\u3000 d \u3000e 's  'll\x85\x85".encode(), offset=0, room=64)
@example(data=b"a" * 4 + "\u3000".encode() * 20, offset=52, room=64)
def test_scan_equals_the_regex_on_any_bytes(classes, data, offset, room):
    data = b"x" * offset + data
    assert scan_pretokens(classes, data, room) == regex_pretokens(data)


def test_scan_of_characters_of_all_scripts_between_others(classes):
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    data = "".join(map("{0}a{0}1 {0}.{0}  ".format, characters[::11])).encode()
    assert scan_pretokens(classes, data, 1 << 12) == regex_pretokens(data)


@pytest.mark.parametrize("piece", ["'s", "'ll", "'re ", "  ", "\u3000", "\xa0 ", "\r\n", "é", "'", "字", "🙂 "])
def test_scan_at_every_offset_of_a_block(classes, piece):
    for offset in range(130):
        data = (("x" * offset) + piece * 3 + "s").encode()
        assert scan_pretokens(classes, data) == regex_pretokens(data)
        assert scan_pretokens(classes, data[:-2]) == regex_pretokens(data[:-2])


def test_scan_ignores_bytes_behind_the_text(classes):
    with Buffer(300 + PADDING) as text, Buffer(4 * 400) as starts, Buffer(64) as state:
        for stop in range(200):
            data = (b"it's  \xe3\x80\x80 so'l" * 20)[:stop]
            for behind in (b"l", b"\x80", b" ", b"'"):
                text.bytes_view()[:300] = data + behind * (300 - stop)
                state.array("i8", 8)[:] = 0
                count = KERNELS.scan(text.address, stop, classes, state.address, starts.address, 400)
                offsets = starts.array("u4", count).tolist()
                assert cut(data, offsets) == regex_pretokens(data)


@given(
    text=st.text(alphabet="<|ab>x \n", max_size=200),
    specials=st.lists(st.sampled_from(["<|a|>", "<|a|><|b|>", "|><", "a", "ab x", " <", "xx"]), unique=True),
)
def test_longest_special_token_wins(text, specials):
    data, matches = text.encode(), []
    table = SpecialTokenTable([special.encode() for special in specials])
    scan = BlockScan(buffer_of(class_table()), table)
    with buffer_of(data) as buffer:
        scan.start(buffer.address, len(data), 0)
        while KERNELS.next_segment(scan.state.address):
            if scan.state[BLOCK.special] >= 0:
                matches.append((scan.state[BLOCK.segment_stop], specials[scan.state[BLOCK.special]]))
    pieces, expected, offset = naive_bpe.cut(text, specials), [], 0
    for piece, is_special in pieces:
        expected += [(offset, piece)] if is_special else []
        offset += len(piece)
    assert matches == expected


def test_growth_keeps_the_content_of_a_buffer():
    with Buffer(100) as buffer:
        buffer.bytes_view()[:] = bytes(range(100))
        for size in (5000, 1 << 24):
            buffer.grow(size)
            view = buffer.bytes_view()
            assert (len(view), bytes(view[:100]), view[-1]) == (size, bytes(range(100)), 0)
            view.release()


def test_failed_growth_leaves_a_buffer_as_it_was():
    with Buffer(100) as buffer:
        buffer.bytes_view()[:] = bytes(range(100))
        with pytest.raises((OSError, MemoryError)):
            buffer.grow(1 << 60)
        assert (buffer.size, bytes(buffer.bytes_view())) == (100, bytes(range(100)))


def test_class_table_equals_the_regex_package():
    table = np.frombuffer(class_table(), np.uint8)
    characters = "".join(map(chr, range(sys.maxunicode + 1)))
    for kind, pattern in ((LETTER, r"\p{L}"), (DIGIT, r"\p{N}"), (WHITE, r"\s")):
        assert [match.start() for match in regex.finditer(pattern, characters)] == np.flatnonzero(
            table == kind
        ).tolist()
