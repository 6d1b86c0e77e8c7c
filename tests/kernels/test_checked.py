"""BPE kernels never access memory outside their buffers: they run as Python functions, which takes no compilation."""

import signal
from collections import Counter

import numpy as np
import pytest

from lmpipe.kernels.bpe import encoder, merge_loop, pretoken_table
from lmpipe.kernels.bpe.block_scan import BlockScan
from lmpipe.kernels.bpe.structs import NARROW_IDS
from lmpipe.kernels.runtime.buffers import Buffer, buffer_of
from lmpipe.kernels.runtime.loader import load
from lmpipe.tokenizer.bpe_training import merge_pretokens
from lmpipe.tokenizer.pretoken_counts import count_pretokens, sum_counts
from lmpipe.tokenizer.pretokenizer import decode_utf8, encode_utf8
from lmpipe.tokenizer.tokenizer import Tokenizer
from tests.reference import naive_bpe
from tests.support.fenced_memory import FencedAtStart, FencedBuffer
from tests.support.forked import ForkedProcess
from tests.support.interpreted_kernels import borrow, interpreted, registered

SPECIALS = ["<|a|>", "<|a|> <|b|>"]
MALFORMED = decode_utf8(b"\xff\xc3 \xe3\x80 \xf0\x9f\x99\x82\xe3\x80\x80")
PROSE = "the cat's  12 \n\n" + "abab" * 30 + MALFORMED + "x" * 20 + "<|a|> <|b|>"
TEXTS = {
    "prose": PROSE * 2 + "".join(f" w{number * 7919}" for number in range(60)),
    "one word": "ab" * 200 + "b" * 200,
    "ends in a character": "漢字。 " * 20 + "<|a|>" + "'ll\u3000" * 20 + "漢",
}
# Tables and buffers that soon grow.
SMALL = {
    encoder: {"INITIAL_CAPACITY": 16, "ARENA_BYTES": 256, "MIN_ARENA_LEFT": 50, "INITIAL_TEXT": 256},
    merge_loop: {"INITIAL_COUNTERS": 4, "HEADROOM": 1, "BYTES_PER_TOKEN": 1},
    pretoken_table: {"INITIAL_ARENA": 64},
    BlockScan: {"STARTS": 80},
    pretoken_table.PretokenTable.__init__: {"__defaults__": (16,)},
}


@pytest.fixture(autouse=True)
def _registered_buffers(monkeypatch):
    with registered(monkeypatch):
        yield


@pytest.mark.parametrize("is_wide", [False, True], ids=["narrow", "wide"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_bpe_kernels_stay_inside_their_buffers(tmp_path, monkeypatch, text, is_wide):
    values = {"load": lambda module, wide=False: interpreted(module, is_wide), "INITIAL_SCRATCH": 256, "WINDOW": 64}
    values["addresses_of"] = borrow
    values |= {"NARROW_IDS": 0 if is_wide else NARROW_IDS, "MARGIN": 8}
    for module, small in SMALL.items():
        own = {name: value for name, value in values.items() if hasattr(module, name)}
        for name, value in (own | small).items():
            monkeypatch.setattr(module, name, value)
    (tmp_path / "text.txt").write_bytes(encode_utf8(text))
    vocab, merges = naive_bpe.train(text, 300, SPECIALS)
    with np.errstate(over="ignore"):  # as in compiled code
        counts = count_pretokens(tmp_path / "text.txt", SPECIALS)
        assert counts == Counter(naive_bpe.pretokens(text, SPECIALS))
        assert sum_counts([counts, counts]) == {word: 2 * count for word, count in counts.items()}
        assert merge_pretokens(counts, 300, SPECIALS) == (vocab, merges)
        tokenizer = Tokenizer(vocab, merges, SPECIALS)
        assert tokenizer.encode(text) == naive_bpe.encode(text, vocab, merges, SPECIALS)
        tokenizer.encoder.count_ids(tokenizer.encode_to_numpy(text), np.zeros(300, np.int64))


def test_interpreted_kernels_report_accesses_outside_their_buffers():
    kernels = interpreted(pretoken_table.KERNEL_MODULE)
    with buffer_of(b"word" * 100) as text, Buffer(4 * 200) as starts, Buffer(64) as state, np.errstate(over="ignore"):
        with pytest.raises(MemoryError, match=r"^64 bytes at"):
            kernels.scan(text.address, 600, 0, state.address, starts.address, 200)
        state.array("i8", 8)[:] = 0
        with pytest.raises(MemoryError, match=r"^4 bytes at"):
            kernels.scan(text.address, 400, 0, state.address, starts.address + 800, 200)


def double_fenced(buffer, offset):
    """Double the number in a buffer, or eight bytes beside it, by a compiled kernel."""
    number = buffer(8)
    assert load("tests.support.tiny_kernels").double(number.address + offset) == 0


@pytest.mark.parametrize(("buffer", "outside"), [(FencedBuffer, 1), (FencedAtStart, -1)])
def test_compiled_kernels_end_at_the_fences(buffer, outside):
    """So those of the transformer are tested (test_transformer_train.py, tests/generation/test_inference.py)."""
    assert ForkedProcess(double_fenced, buffer, 0).wait(30) == 0
    assert ForkedProcess(double_fenced, buffer, outside).wait(30) == -signal.SIGSEGV
