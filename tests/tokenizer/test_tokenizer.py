import errno
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
import tiktoken
import tokenizers
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tiktoken.load import load_tiktoken_bpe

from lmpipe.errors import InputError
from lmpipe.kernels.bpe import encoder
from lmpipe.kernels.bpe.structs import SLOT
from lmpipe.kernels.runtime.buffers import Buffer
from lmpipe.tokenizer import chunking, tokenizer
from lmpipe.tokenizer.bpe_training import merge_pretokens, train_bpe
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT, PATTERN, decode_utf8, encode_utf8
from lmpipe.tokenizer.tokenizer import Tokenizer
from lmpipe.tokenizer.vocabulary import BYTE_TO_CHARACTER, bytes_to_unicode, unicode_to_bytes
from tests.reference import naive_bpe

SPECIALS = [END_OF_TEXT, "<|a|>", "<|a|><|b|>", "two words", "<|é|>"]
SAMPLES = [
    "Once upon a time, there was a little dog. It's the dog's bone; they'll play, we've seen it!",
    "  Zwei  Räume:\tÄpfel, Straße\r\n\r\n\r\n  \u00a0x\u3000y \u3000z  ",
    "Ελληνικά и русский, עברית، العربية فارسی हिन्दी தமிழ் ไทย",
    "漢字かな交じり文。中文没有空格，也没关系。한국어 문장입니다.",
    "emoji 🙂👩‍👩‍👧‍👦🇫🇷 and math ∑∫≠ ½ ² ٣ Ⅷ 1234567890",
    "def f(x):\n    return x**2  # ------------------------\n\n\n\tpass\n",
    "a\x00b\x85c\u2028d\ufeffe\u200bf\u0301",
    f"end{END_OF_TEXT}\n{END_OF_TEXT}{END_OF_TEXT}start <|a|><|b|><|a|> two words <|é|><|endoftext",
    "",
]
TEXTS = st.lists(
    st.one_of(
        st.sampled_from([*SPECIALS, "<|", "|>", " the", "  ", "\n", "'ll", "aaaa", "\udcff"]),
        st.characters(codec="utf-8"),
    ),
    max_size=30,
).map("".join)


@cache
def trained():
    """Return a tokenizer of the samples, whose merges are the naive definition's."""
    text = decode_utf8(encode_utf8(" ".join(SAMPLES) * 2 + "aaaaaaaa the then there" * 3))
    vocab, merges = naive_bpe.train(text, 420, SPECIALS)
    return Tokenizer(vocab, merges, SPECIALS)


@given(TEXTS)
@example("aaaaaaaaaaaaa")
@example(f"the<|a|><|b|>the {END_OF_TEXT}")
def test_encoding_equals_applying_merges_one_by_one(text):
    tokenizer = trained()
    assert tokenizer.encode(text) == naive_bpe.encode(text, tokenizer.vocab, tokenizer.merges, SPECIALS)


def test_hugging_face_and_tiktoken_give_the_same_ids(tmp_path):
    trained().save(tmp_path)
    hugging_face = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert hugging_face.get_vocab_size() == trained().vocab_size
    specials = {token: trained().encode(token)[0] for token in SPECIALS}
    ranks = load_tiktoken_bpe(str(tmp_path / "ranks.tiktoken"))
    peer = tiktoken.Encoding("lmpipe", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=specials)
    for text in SAMPLES:
        assert hugging_face.encode(text, add_special_tokens=False).ids == trained().encode(text)
        if "<|é|>" not in text:  # their byte-level decoder takes the letters of special tokens for bytes
            assert hugging_face.decode(trained().encode(text), skip_special_tokens=False) == text
        # tiktoken does not promise the longest of overlapping special tokens.
        text = text.replace("<|a|><|b|>", "<|a|>")
        assert peer.encode(text, allowed_special="all") == trained().encode(text)


@given(st.one_of(st.binary(max_size=50), TEXTS.map(encode_utf8)))
@example(b"\xff\xc3(\xe2\x82 \xed\xa0\x80")
def test_any_bytes_survive_and_malformed_ones_decode_to_replacement_characters(data):
    ids = trained().encode(decode_utf8(data))
    assert trained().decode_bytes(ids) == data
    assert trained().decode(ids) == data.decode("utf-8", "replace")


@given(st.lists(TEXTS, max_size=6), st.integers(1, 40))
def test_encode_iterable_equals_encode_wherever_pieces_end(pieces, window):
    assert list(trained().encode_iterable(pieces)) == trained().encode("".join(pieces))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "STREAM_BYTES", window)
        patch.setattr(chunking, "WINDOW_BYTES", window)
        characters = "".join(pieces)
        assert list(trained().encode_iterable(characters)) == trained().encode(characters)


def test_encode_iterable_is_lazy():
    stream = trained().encode_iterable(f"story {number}{END_OF_TEXT}" for number in count())
    assert list(islice(stream, 3)) == trained().encode(f"story 0{END_OF_TEXT}")[:3]
    assert list(trained().encode_iterable(iter(()))) == []


@pytest.mark.parametrize("largest", [16, 64])
def test_the_cache_grows_stays_bounded_and_changes_nothing(monkeypatch, largest):
    monkeypatch.setattr(encoder, "INITIAL_CAPACITY", 16)
    monkeypatch.setattr(encoder, "MAX_CAPACITY", largest)
    monkeypatch.setattr(encoder, "ARENA_BYTES", 512)
    monkeypatch.setattr(encoder, "MIN_ARENA_LEFT", 100)
    monkeypatch.setattr(encoder, "MAX_ARENAS", 2)
    bounded = Tokenizer(trained().vocab, trained().merges, SPECIALS)
    text = " ".join(SAMPLES)
    expected = trained().encode(text)
    for _ in range(10):
        assert bounded.encode(text) == expected
        assert 0 < bounded.encoder.used <= 3 * largest // 4
    assert bounded.encoder.capacity == largest
    bounded.clear_cache()
    assert (bounded.encoder.used, bounded.encoder.capacity) == (0, 16)
    assert bounded.encode(text) == expected


def test_cache_that_cannot_grow_stays_and_changes_nothing(monkeypatch):
    monkeypatch.setattr(encoder, "INITIAL_CAPACITY", 16)
    tokenizer = Tokenizer(trained().vocab, trained().merges, SPECIALS)
    text = " ".join(SAMPLES)
    assert tokenizer.encode(text) == trained().encode(text)

    def out_of_memory(size: int, huge: bool = False) -> Buffer:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(encoder, "Buffer", out_of_memory)
    for _ in range(3):
        assert tokenizer.encode(text) == trained().encode(text)
    assert tokenizer.encoder.capacity == tokenizer.encoder.slots.size // SLOT.nbytes == 16
    with pytest.raises(OSError, match=os.strerror(errno.ENOMEM)):
        tokenizer.encode("ab " * 100_000)
    assert tokenizer.encode(text) == trained().encode(text)


def test_many_threads_encode_with_one_tokenizer(monkeypatch):
    monkeypatch.setattr(encoder, "INITIAL_CAPACITY", 16)
    shared = Tokenizer(trained().vocab, trained().merges, SPECIALS)
    words = [f"word{number} {number * number} {'x' * (number % 40)}é " for number in range(4000)]
    texts = ["".join(words[start::7]) for start in range(7)] * 4
    expected = [trained().encode(text) for text in texts[:7]] * 4
    with ThreadPoolExecutor(7) as pool:
        assert list(pool.map(shared.encode, texts)) == expected


@pytest.mark.parametrize("blocks_at_once", [1, 2, 7, 40])
def test_concurrent_blocks_never_fill_the_cache(monkeypatch, blocks_at_once):
    # A look-up in a full cache would not end.
    monkeypatch.setattr(encoder, "INITIAL_CAPACITY", 16)
    monkeypatch.setattr(encoder, "MAX_CAPACITY", 16)
    shared = Tokenizer(trained().vocab, trained().merges).encoder
    spaces = [shared.acquire() for _ in range(blocks_at_once)]
    assert sum(space.share for space in spaces) <= 12
    for number, space in enumerate(spaces):
        text = " ".join(f"{number}x{word}" for word in range(20)).encode()
        space.write(text)
        space.encode(len(text))
    for space in spaces:
        shared.release(space)
    assert (0 < shared.used <= 12, shared.reserved) == (True, 0)


def test_more_than_65536_ids_take_the_kernels_with_ids_of_32_bits():
    tokenizer = trained()
    high = {token_id + 100_000: token for token_id, token in tokenizer.vocab.items() if token_id >= 300}
    vocab = {token_id: token for token_id, token in tokenizer.vocab.items() if token_id < 300} | high
    wide = Tokenizer(vocab, tokenizer.merges, SPECIALS)
    text = " ".join(SAMPLES) * 3
    ids = wide.encode_to_numpy(text)
    assert (ids.dtype, wide.decode_bytes(ids.tolist())) == ("uint32", text.encode())
    assert [token_id - 100_000 if token_id >= 300 else token_id for token_id in ids.tolist()] == tokenizer.encode(text)


def test_ids_beyond_what_the_encoder_packs_are_refused():
    with pytest.raises(InputError, match="1048576"):
        Tokenizer({**trained().vocab, 1 << 20: b"x|"}, [])


def test_encoding_needs_no_main_guard_and_works_from_standard_input():
    code = (
        "from lmpipe.tokenizer.tokenizer import Tokenizer\n"
        "vocab = {byte: bytes([byte]) for byte in range(256)} | {256: b'th', 257: b'the'}\n"
        "print(Tokenizer(vocab, [(b't', b'h'), (b'th', b'e')]).encode('the th'))\n"
    )
    done = subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True)
    assert done.stdout == "[257, 32, 256]\n"


LETTERS = st.text(alphabet="abc", min_size=1, max_size=5)


@given(st.lists(LETTERS, max_size=12), st.lists(LETTERS, min_size=1, max_size=30), st.integers(1, 9))
@example(words=["aaaa", "aa"], parts=["a" * 5] * 30, margin=1)
def test_merging_in_windows_equals_merging_at_once(words, parts, margin):
    vocab, merges = merge_pretokens({word.encode() * 3: index + 1 for index, word in enumerate(words)}, 280, [])
    text = "".join(parts) * 3
    whole = naive_bpe.encode(text, vocab, merges, [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "WINDOW", 2 * margin)
        patch.setattr(encoder, "MARGIN", margin)
        patch.setattr(encoder, "INITIAL_SCRATCH", 256)
        assert Tokenizer(vocab, merges).encode(text) == whole


def test_a_cut_that_merges_reach_across_is_taken_back(monkeypatch):
    # Each merge waits for the one to its right: the last letter decides what becomes of the first.
    vocab = {byte: bytes([byte]) for byte in range(256)}
    merges = [(b"x", b"y")] + [(bytes([97 + index]), bytes([98 + index])) for index in reversed(range(20))]
    vocab |= {256 + rank: left + right for rank, (left, right) in enumerate(merges)}
    text = bytes(range(97, 118)).decode() * 5
    monkeypatch.setattr(encoder, "WINDOW", 4)
    monkeypatch.setattr(encoder, "MARGIN", 1)
    assert Tokenizer(vocab, merges).encode(text) == naive_bpe.encode(text, vocab, merges, [])


@pytest.mark.parametrize("size", [1, 15, 16, 17, 255, 256, 257, 300, 4095, 4097, 5000])
def test_word_of_equal_characters_with_tokens_as_long(size):
    vocab, merges = merge_pretokens({b"a" * 5000: 1}, 290, [])
    assert Tokenizer(vocab, merges).encode("a" * size) == naive_bpe.encode("a" * size, vocab, merges, [])


def test_word_of_millions_of_equal_characters_takes_linear_time():
    vocab, merges = merge_pretokens({b"a" * 1_000_000: 1}, 296, [])
    assert max(map(len, vocab.values())) == 1_000_000
    word = "a" * 999_999
    tokenizer = Tokenizer(vocab, merges)
    tokenizer.encode("a")
    started = time.process_time()
    ids = tokenizer.encode(word)
    assert time.process_time() - started < 2.5  # 0.3 s here; quadratic time would be 6 s
    ranks = {token: token_id for token_id, token in vocab.items()}
    peer = tiktoken.Encoding("peer", pat_str="a+", mergeable_ranks=ranks, special_tokens={})
    assert ids == peer.encode(word, disallowed_special=())


def test_missing_special_tokens_are_appended_and_others_keep_their_ids():
    vocab, merges = merge_pretokens({b"the": 3}, 260, ["<|old|>"])
    tokenizer = Tokenizer(vocab, merges, ["<|new|>", "<|old|>", "the", "<|new|>"])
    assert tokenizer.vocab_size == 260
    assert tokenizer.token_bytes(259) == b"<|new|>"
    assert tokenizer.encode("<|new|><|old|>the") == [259, 256, 258]
    assert Tokenizer(vocab, merges).encode("<|old|>") != [256]
    assert vocab.keys() == set(range(259))


def test_saved_files_are_read_back_and_are_the_same_bytes_each_time(tmp_path):
    trained().save(tmp_path / "a")
    copy = Tokenizer.from_folder(tmp_path / "a")
    assert (copy.vocab, copy.merges, copy.special_tokens) == (trained().vocab, trained().merges, SPECIALS)
    assert copy.sha256 == trained().sha256
    copy.save(tmp_path / "b")
    for name in ("vocab.json", "merges.txt", "tokenizer.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    plain = Tokenizer.from_files(tmp_path / "a" / "vocab.json", tmp_path / "a" / "merges.txt")
    assert plain.special_tokens == []
    assert plain.vocab == trained().vocab


def test_tokens_with_spaces_line_ends_and_hashes_survive_the_files(tmp_path):
    vocab, merges = merge_pretokens({b"  \n": 5, b"\r\n\r\n": 4, b"#version": 3, b"\x85\x00\xff": 2}, 272, [" \n|"])
    Tokenizer(vocab, merges, [" \n|"]).save(tmp_path)
    copy = Tokenizer.from_folder(tmp_path)
    assert (copy.vocab, copy.merges) == (vocab, merges)
    lines = (tmp_path / "merges.txt").read_text(encoding="utf-8").split("\n")
    assert len(lines) == len(merges) + 2


def test_vocab_json_may_have_special_tokens_as_plain_text(tmp_path):
    trained().save(tmp_path)
    exported = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    (tmp_path / "vocab.json").write_text(json.dumps(exported["model"]["vocab"]), encoding="utf-8")
    copy = Tokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt", ["two words"])
    assert copy.encode("two words") == trained().encode("two words")


def test_printable_names_are_those_of_gpt2():
    assert bytes_to_unicode(b" the\n\t\x00\xad") == "ĠtheĊĉĀŃ"
    assert bytes_to_unicode("é".encode()) == "Ã©"
    assert len(set(BYTE_TO_CHARACTER.values())) == 256
    assert all(unicode_to_bytes(bytes_to_unicode(bytes([byte])), "") == bytes([byte]) for byte in range(256))


def test_sha256_covers_vocabulary_merges_and_special_tokens():
    vocab, merges = merge_pretokens({b"abc": 3, b"ab": 1}, 258, [])
    sums = {
        Tokenizer(vocab, merges).sha256,
        Tokenizer(vocab, merges[:1]).sha256,
        Tokenizer(vocab, merges, ["ab"]).sha256,
        Tokenizer({**vocab, 258: b"x|"}, merges).sha256,
    }
    assert len(sums) == 4
    assert Tokenizer(dict(reversed(vocab.items())), merges).sha256 in sums


def test_a_vocabulary_with_gaps_is_refused():
    vocab, merges = merge_pretokens({b"abc": 3}, 258, [])
    with pytest.raises(InputError, match="lacks the token b'b'"):
        Tokenizer({token_id: token for token_id, token in vocab.items() if token != b"b"}, [])
    with pytest.raises(InputError, match="lacks the token b'abc'"):
        Tokenizer({token_id: token for token_id, token in vocab.items() if token_id < 257}, merges)
    with pytest.raises(InputError, match="contain 300"):
        Tokenizer(vocab, merges).decode([97, 300])


DAMAGE = [
    ("vocab.json", '{"a": 1', "vocab.json: "),
    ("vocab.json", "[1]", "is not a JSON object"),
    ("vocab.json", '{"a": "1"}', "'a' has the id"),
    ("vocab.json", '{"a": 1, "b": 1}', "'b' has the id"),
    ("vocab.json", '{"a b": 1}', "contains ' '"),
    ("vocab.json", json.dumps({"a" * 5000: [0] * 5000}), "has the id [0, 0, 0, 0, 0, 0, ...]"),
    ("merges.txt", "#version: 0.2\n" + "a" * 5000, "line 2: is not two tokens and a space: 'a"),
    ("vocab.json", '{"a": 0}', "lacks the token"),
    ("merges.txt", "#version: 0.2\nabc\n", "line 2: is not two tokens"),
    ("merges.txt", "#version: 0.2\na b c\n", "line 2: is not two tokens"),
    ("merges.txt", "#version: 0.2\na\u4e00 b\n", "line 2: 'a一' contains"),
    ("merges.txt", "#version: 0.2\nq z\n", "lacks the token b'qz'"),
    ("tokenizer.json", "{}", "added_tokens"),
    ("tokenizer.json", '{"added_tokens": 3}', "added_tokens"),
]


@pytest.mark.parametrize(("name", "content", "message"), DAMAGE)
def test_damaged_tokenizer_files_are_input_errors(tmp_path, name, content, message):
    trained().save(tmp_path)
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=name) as caught:
        Tokenizer.from_folder(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer.json"])
def test_missing_or_binary_tokenizer_files_are_input_errors(tmp_path, name):
    trained().save(tmp_path)
    for damage in (lambda path: path.write_bytes(b"\xff\xfe"), Path.unlink):
        damage(tmp_path / name)
        with pytest.raises(InputError, match=name):
            Tokenizer.from_folder(tmp_path)


def test_arrays_and_tensors_are_decoded():
    ids = trained().encode(SAMPLES[0])
    for same in (np.array(ids), np.array(ids, np.uint16), torch.tensor(ids), iter(ids), list(torch.tensor(ids))):
        assert trained().decode(same) == SAMPLES[0]


def test_special_tokens_may_be_none_and_paths_str(tmp_path):
    Tokenizer(trained().vocab, trained().merges, None).save(str(tmp_path))
    read = Tokenizer.from_files(str(tmp_path / "vocab.json"), tmp_path / "merges.txt", None)
    assert read.special_tokens == [] and read.encode("the dog") == trained().encode("the dog")
    (tmp_path / "text.txt").write_text("low low lower")
    assert train_bpe(str(tmp_path / "text.txt"), 258, None)[1] == [(b"o", b"w"), (b"l", b"ow")]


BYTES = {byte: bytes([byte]) for byte in range(256)}


@pytest.mark.parametrize(
    "call",
    [
        lambda: Tokenizer("vocab.json", "merges.txt"),
        lambda: Tokenizer({"a": 0}, []),
        lambda: Tokenizer({0: "a"}, []),
        lambda: Tokenizer(BYTES, ["ab"]),
        lambda: Tokenizer(BYTES, [("a", "b")]),
        lambda: Tokenizer(BYTES, 5),
        lambda: Tokenizer(BYTES, [], 5),
        lambda: Tokenizer(BYTES, [], [5]),
        *(lambda text=text: trained().encode(text) for text in (5, None, b"bytes", ["a list"])),
        *(lambda ids=ids: trained().decode(ids) for ids in (5, None, "text", [1.0], [[1]], torch.ones(9, 9))),
        lambda: list(trained().encode_iterable([b"bytes"])),
        lambda: train_bpe(5, 300, []),
        lambda: train_bpe("text.txt", "300", []),
        lambda: train_bpe("text.txt", 300.0, []),
        lambda: train_bpe("text.txt", 300, 5),
    ],
)
def test_wrong_types_are_one_clear_line(call):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).isprintable() and "; pass " in str(caught.value)
