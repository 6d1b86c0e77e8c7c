"""Every way through the tokenizer equals the naive definition, whatever text, special tokens and internal sizes are.

For hours: pytest tests/tokenizer tests/kernels --hypothesis-profile=long
"""

from collections import Counter
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from lmpipe.data.encode import encode_file
from lmpipe.errors import InputError
from lmpipe.kernels.bpe import encoder, merge_loop, pretoken_table
from lmpipe.tokenizer import chunking, parallel_encoding, pretoken_counts, tokenizer
from lmpipe.tokenizer.bpe_training import train_bpe
from lmpipe.tokenizer.pretoken_counts import count_pretokens
from lmpipe.tokenizer.pretokenizer import decode_utf8
from lmpipe.tokenizer.tokenizer import Tokenizer
from tests.reference import naive_bpe

# Sizes inside lmpipe: the modules that use them, and values with which blocks end anywhere and tables fill early.
SIZES = {
    "BLOCK_BYTES": ([chunking, pretoken_counts, tokenizer, parallel_encoding], [1, 2, 3, 5, 17, 64, 300]),
    "WINDOW_BYTES": ([chunking], [1, 2, 7, 30]),
    "available_cpus": ([chunking, pretoken_counts, parallel_encoding], [partial(int, number) for number in (1, 2, 3)]),
    "STREAM_BYTES": ([tokenizer], [1, 3, 20]),
    "THREAD_CAPACITY": ([pretoken_counts], [1 << 9, 1 << 10]),
    "INITIAL_CAPACITY": ([encoder], [1 << 8, 1 << 9]),
    "MAX_CAPACITY": ([encoder], [1 << 8, 1 << 10]),
    "MAX_ARENAS": ([encoder], [0, 1]),
    "INITIAL_SCRATCH": ([encoder], [256]),
    "INITIAL_TEXT": ([encoder], [256]),
    "INITIAL_ARENA": ([pretoken_table], [64]),
    "NARROW_IDS": ([encoder, merge_loop], [0]),
    "MIN_COUNT_FACTOR": ([merge_loop], [1e-9, 1e9]),
    "PAIRS_PER_MERGE": ([merge_loop], [1]),
    "EXTRA_PAIRS": ([merge_loop], [0, 3]),
    "MERGES_PER_CALL": ([merge_loop], [1, 3]),
    "INITIAL_COUNTERS": ([merge_loop], [4, 64]),
}
SPECIALS = ["<|endoftext|>", "<|a|>", "<|a|> <|b|>", "<|a|><|b|>", "|>\n<", " <", "two words", "  ", "\n\n", " \n"]
SPECIALS += ["ab", "aba", "bab", "aa", " a", "a ", "'s", "é", "漢字", "\u3000", "\u3000 ", "123", "x" * 40]
SPACES = regex.findall(r"\s", "".join(map(chr, range(0x3001)))) + list("\u200b\u180e\ufeff\x1b\x1c\x1f\x7f\x84\x86")
LETTERS = list("éßŁжЖαΩאبहతதไ漢字かナ한ǅʰͅ\u0301\u093e\U00010400\U0001d400abeinrst")
NUMBERS = list("0123456789²½٣९Ⅷ①〇\U0001d7ce\U00010107")
OTHERS = list("!'’-_.,;:|<>$€+~^`\"\\/\0🙂👩\u200d\ufffd\ue000\U0010ffff。，")
CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "'l", "'", "''s", "’s", " 's", "it's"]
INVALID = [b"\x80", b"\xc0\x80", b"\xc2", b"\xe0\x80\x80", b"\xe2\x80", b"\xe3\x80", b"\xed\xa0\x80", b"\xff", b"\x85"]
INVALID += [b"\xf0\x9f\x99", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80"]
RUNS = st.tuples(st.sampled_from([*"aé1!'漢< \u3000"]), st.sampled_from([15, 17, 31, 65, 129, 257, 1025]))
PIECES = (
    st.one_of(
        *(
            st.text(alphabet, max_size=24) for alphabet in ("ab", "ab ", "aab'", "abc\n")
        ),  # all of whose pairs are frequent
        *(st.text(st.sampled_from(choices), max_size=6) for choices in (SPACES, LETTERS, NUMBERS, OTHERS)),
        st.sampled_from(CONTRACTIONS + SPECIALS + [special[1:] for special in SPECIALS]),
        st.text(st.characters(codec="utf-8"), max_size=4),
        RUNS.map(lambda run: run[0] * run[1]),
    ).map(str.encode)
    | st.one_of(st.sampled_from(INVALID), st.binary(max_size=5))
)
DATA = st.lists(PIECES, max_size=40).map(b"".join)


def file_ids(folder, tokenizer: Tokenizer) -> list[int]:
    """Return the ids that encode_file writes for text.txt."""
    ids = folder / "ids.bin"
    try:
        info = encode_file(folder / "text.txt", tokenizer, ids, folder / "ids.json", "random")
    except InputError as error:
        assert "is empty" in str(error)
        return []
    return np.fromfile(ids, {"uint16": "<u2", "uint32": "<u4"}[info.dtype]).tolist()


@settings(max_examples=settings.default.max_examples // 4)
@given(
    training=DATA,
    specials=st.lists(st.sampled_from(SPECIALS), max_size=4, unique=True),
    merges=st.integers(0, 60),
    sizes=st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, (_, values) in SIZES.items()}),
    texts=st.lists(st.tuples(DATA, st.lists(st.integers(0, 200), max_size=6)), max_size=2),
)
def test_all_ways_equal_the_naive_definition(tmp_path_factory, training, specials, merges, sizes, texts):
    folder, vocab_size = tmp_path_factory.getbasetemp(), 256 + len(specials) + merges
    path, text = folder / "text.txt", decode_utf8(training)
    path.write_bytes(training)
    vocab, merged = naive_bpe.train(text, vocab_size, specials)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sizes.items():
            for module in SIZES[name][0]:
                patch.setattr(module, name, value)
        assert count_pretokens(path, specials) == Counter(naive_bpe.pretokens(text, specials))
        assert train_bpe(path, vocab_size, specials) == (vocab, merged)
        trained = Tokenizer(vocab, merged, specials)
        for data, cuts in [(training, [5]), *texts]:
            path.write_bytes(data)
            text = decode_utf8(data)
            ids = naive_bpe.encode(text, vocab, merged, specials)
            pieces = [text[start:stop] for start, stop in pairwise([0, *sorted(cuts), None])]
            assert trained.encode(text) == list(trained.encode_iterable(pieces)) == file_ids(folder, trained) == ids
            assert trained.decode_bytes(ids) == data
            assert trained.decode(ids) == data.decode("utf-8", "replace")
