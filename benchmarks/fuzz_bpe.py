"""Random texts through lmpipe's BPE and the naive definition: python -m benchmarks.fuzz_bpe --tries N --seed S.

A training comes with TEXTS_PER_TRAINING texts that are encoded with what it made; each of these is a try. Sizes inside
lmpipe are drawn, too, so that blocks end anywhere and tables are soon full. Prints each difference and the call that
makes it again, and the numbers of tries and differences; exit code 1 says that there was one. Where compiled code ends
the process itself, its last text lies in the folder that the first line names.
"""

import argparse
import contextlib
import faulthandler
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import regex

from lmpipe.data.encode import encode_file
from lmpipe.errors import InputError
from lmpipe.kernels.bpe import encoder, merge_loop, pretoken_table
from lmpipe.tokenizer import chunking, parallel_encoding, pretoken_counts, tokenizer
from lmpipe.tokenizer.bpe_training import train_bpe
from lmpipe.tokenizer.pretoken_counts import count_pretokens
from lmpipe.tokenizer.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from tests.reference import naive_bpe

TEXTS_PER_TRAINING = 64
SHOWN_BYTES = 300
SHOWN_EVERY_SECONDS = 10.0
FILE_SHARE = 0.25  # of the texts that are encoded from a file, which takes longer
LONG_SHARE = 0.03  # of the pieces
FAILED = object()
FASTER = "/dev/shm"  # a folder in memory, where the system has one

# Sizes of lmpipe: where they are looked up, and what else they may be.
SIZES: dict[str, tuple[list[Any], list[Any]]] = {
    "BLOCK_BYTES": ([chunking, pretoken_counts, tokenizer, parallel_encoding], [1, 1, 2, 3, 5, 17, 64, 300]),
    "WINDOW_BYTES": ([chunking], [1, 2, 7, 30]),
    "available_cpus": ([chunking, pretoken_counts, parallel_encoding], [partial(int, number) for number in (1, 2, 3)]),
    "STREAM_BYTES": ([tokenizer], [1, 1, 3, 20]),
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

CHARACTERS = [*map(chr, range(0xD800)), *map(chr, range(0xE000, 0x32000)), "\U000e0001", "\U000f0000", "\U0010ffff"]
SPACES = regex.findall(r"\s", "".join(CHARACTERS))
NEAR_SPACES = list("\u200b\u180e\ufeff\u2060\x1b\x1c\x1d\x1e\x1f\x7f\x84\x86\u2000\u200c\u202a")
LETTERS = list("éßŁжЖαΩאبहতதไ漢字かナ한ǅʰͅ\u0301\u093e\U00010400\U0001d400\U00020000")
NUMBERS = list("0123456789²½٣९Ⅷ①〇\U0001d7ce\U00010107")
OTHERS = list("!'’-_.,;:|<>$€+~^`\"\\/\0🙂👩\u200d\ufffd\ue000\U0010ffff。，")
CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "'l", "'r", "'v", "'", "''s", "’s", " 's"]
BROKEN = [b"\x80", b"\xbf", b"\xc0\x80", b"\xc2", b"\xe0\x80\x80", b"\xe2\x80", b"\xe3\x80", b"\xed\xa0\x80"]
BROKEN += [b"\xf0\x9f\x99", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xff", b"\xfe", b"\x85", b"\xa0"]
SPECIALS = ["<|endoftext|>", "<|a|>", "<|a|> <|b|>", "<|a|><|b|>", "|>\n<", " <", "two words", "  ", "\n\n", " \n"]
SPECIALS += ["ab", "aba", "bab", "aa", " a", "a ", "'s", "é", "漢字", "\u3000", "\u3000 ", "123", "x" * 40]


@dataclass
class Chance:
    """Draws texts for one training; `specials` are its special tokens, `seen` what it was trained on."""

    random: Random
    specials: list[str]
    seen: bytes = b""

    def some(self, choices: list[str], most: int = 8) -> bytes:
        """Return a few characters of a list."""
        return "".join(self.random.choices(choices, k=self.random.randint(1, most))).encode()

    def dense(self) -> bytes:
        """Few letters, of which all pairs are frequent."""
        return self.some(list(self.random.choice(["ab", "ab ", "aab'", "a ", "abc\n", "a1", "éa"])), 24)

    def character(self) -> bytes:
        """Any characters."""
        return self.some(CHARACTERS, 4)

    def word(self) -> bytes:
        """Letters of many scripts, maybe after a space."""
        return self.random.choice([b"", b" "]) + self.some([*LETTERS, *"abeinrst" * 3])

    def spaces(self) -> bytes:
        """White space of all kinds, and what looks like it."""
        return self.some([" ", "\n", "\r\n", *self.random.choices(SPACES, k=2), self.random.choice(NEAR_SPACES)], 5)

    def number(self) -> bytes:
        """Digits and other numbers."""
        return self.random.choice([b"", b" "]) + self.some(NUMBERS, 5)

    def other(self) -> bytes:
        """Punctuation and symbols."""
        return self.random.choice([b"", b" "]) + self.some(OTHERS, 4)

    def contraction(self) -> bytes:
        """Return the end of a contraction, or nearly."""
        return self.random.choice([b"", b"it", b"we", b"1", b" "]) + self.some(CONTRACTIONS, 2)

    def broken(self) -> bytes:
        """Return bytes that are not UTF-8, alone or between valid text."""
        if self.random.random() < 0.5:
            return self.random.choice(BROKEN)
        return self.random.randbytes(self.random.randint(1, 5))

    def cut_character(self) -> bytes:
        """Characters of which the last lacks an end, or the first a beginning."""
        data = self.some(self.random.choice([CHARACTERS, LETTERS, SPACES]), 2)
        place = self.random.randrange(len(data) + 1)
        return self.random.choice([data[:place], data[place:]])

    def special(self) -> bytes:
        """Return a special token, or a part of one."""
        data = self.random.choice(self.specials or SPECIALS).encode()
        if self.random.random() < 0.6:
            return data
        first, last = sorted(self.random.choices(range(len(data) + 1), k=2))
        return data[first:last]

    def long(self) -> bytes:
        """One character many times, or a long word."""
        size = self.random.choice([15, 16, 17, 31, 33, 63, 65, 127, 129, 255, 257, 300, 1025, 2100])
        if self.random.random() < 0.5:
            return self.random.choice([*SPACES, "a", "é", "1", "!", "'", "漢", "<"]).encode() * size
        return "".join(self.random.choices("abcé" if size < 300 else "ab", k=size)).encode()

    def again(self) -> bytes:
        """Return a part of what the training saw, cut anywhere."""
        place = self.random.randrange(len(self.seen) + 1)
        return self.seen[place : place + self.random.randint(1, 30)]

    def text(self, most: int) -> bytes:
        """Up to so many pieces, of all kinds or of two."""
        kinds = [self.dense, self.character, self.word, self.word, self.spaces, self.spaces, self.number, self.other]
        kinds += [self.contraction, self.broken, self.cut_character, self.special, self.special, self.again]
        if self.random.random() < 0.4:
            kinds = self.random.sample(kinds, 2)
        number = self.random.randint(0, most)
        drawn = [self.long if self.random.random() < LONG_SHARE else self.random.choice(kinds) for _ in range(number)]
        return b"".join(kind() for kind in drawn)


@dataclass
class Findings:
    """What was tried and what differed."""

    tries: int = 0
    differences: int = 0
    shown: float = field(default_factory=time.monotonic)

    def attempt(self, what: str, make: Callable[[], Any], inputs: dict[str, Any]) -> Any:
        """Return the result of lmpipe, or FAILED if it raises, which counts as a difference."""
        try:
            return make()
        except Exception:
            self.tell(f"{what}: {traceback.format_exc()}", inputs)
            return FAILED

    def compare(self, what: str, expected: Any, make: Callable[[], Any], inputs: dict[str, Any]) -> None:
        """Tell where what lmpipe makes is not what is expected."""
        found = self.attempt(what, make, inputs)
        if found is not FAILED and found != expected:
            self.tell(f"{what}: expected {shortened(expected)}\n  found: {shortened(found)}", inputs)

    def tell(self, difference: str, inputs: dict[str, Any]) -> None:
        """Print and count a difference."""
        self.differences += 1
        lines = [f"{name}: {shortened(value)}" for name, value in inputs.items()]
        print(f"difference: {difference}", *lines, sep="\n  ", flush=True)

    def tick(self) -> None:
        """Write a line every few seconds."""
        if time.monotonic() - self.shown >= SHOWN_EVERY_SECONDS:
            self.shown = time.monotonic()
            print(f"{self.tries:,} tries, {self.differences:,} differences", file=sys.stderr, flush=True)


def shortened(value: Any) -> str:
    """Return the repr of a value; of a long one the beginning and the end."""
    shown = repr(value)
    if (len(value) if isinstance(value, bytes | str) else len(shown)) <= SHOWN_BYTES:
        return shown
    return f"{shown[: SHOWN_BYTES // 2]} ... {shown[-SHOWN_BYTES // 2 :]} ({len(shown):,} characters)"


def draw_sizes(random: Random) -> dict[str, Any]:
    """Sizes that are not lmpipe's own, for some trainings none."""
    share = random.choice([0, 0.3, 0.7])
    return {name: random.choice(values) for name, (_, values) in SIZES.items() if random.random() < share}


@contextlib.contextmanager
def patched(sizes: dict[str, Any]) -> Iterator[None]:
    """Set sizes of lmpipe."""
    with contextlib.ExitStack() as stack:
        for name, value in sizes.items():
            for module in SIZES[name][0]:
                stack.enter_context(patch.object(module, name, value))
        yield


def draw_specials(random: Random) -> list[str]:
    """Up to five special tokens; none is a single byte, which is a token already."""
    made = ["".join(random.choices("ab <", k=random.randint(2, 4))) for _ in range(2)]
    return list(dict.fromkeys(random.sample([*SPECIALS, *made], random.randint(0, 5))))


def cut_anywhere(random: Random, text: str) -> list[str]:
    """Return a text in pieces, also empty ones."""
    places = sorted(random.choices(range(len(text) + 1), k=random.randint(0, 6)))
    return [text[start:stop] for start, stop in zip([0, *places], [*places, len(text)], strict=True)]


def differing(expected: Mapping[bytes, int], found: Mapping[bytes, int]) -> dict[bytes, tuple[int, int]]:
    """Words whose expected and found counts are not the same."""
    both = {word: (expected.get(word, 0), found.get(word, 0)) for word in {*expected, *found}}
    return {word: counts for word, counts in sorted(both.items()) if counts[0] != counts[1]}


def file_ids(path: Path, ours: Tokenizer) -> list[int] | str:
    """Return the ids of a text file, encoded into a file of ids, or a message."""
    output = path.with_suffix(".bin")
    try:
        info = encode_file(path, ours, output, path.with_suffix(".json"), "fuzz")
    except InputError as error:
        return "empty" if "is empty" in str(error) else str(error)
    ids = np.fromfile(output, {"uint16": "<u2", "uint32": "<u4"}[info.dtype])
    return ids.tolist() if info.tokens == len(ids) else f"{info.tokens} tokens in the description"


def try_text(chance: Chance, path: Path, ours: Tokenizer, findings: Findings, inputs: dict[str, Any]) -> None:
    """Encode and decode one text in all ways."""
    data = chance.text(8)
    path.write_bytes(data)
    text = data.decode("utf-8", "surrogateescape")
    expected = naive_bpe.encode(text, ours.vocab, ours.merges, chance.specials)
    pieces = cut_anywhere(chance.random, text)
    inputs = {**inputs, "text": data, "pieces": pieces}
    if chance.random.random() < 0.1:
        findings.compare("clear_cache", None, ours.clear_cache, inputs)
    findings.compare("encode", expected, lambda: ours.encode(text), inputs)
    findings.compare("encode_iterable", expected, lambda: list(ours.encode_iterable(pieces)), inputs)
    if chance.random.random() < FILE_SHARE:
        findings.compare("encode_file", expected or "empty", lambda: file_ids(path, ours), inputs)
    findings.compare("decode_bytes", data, lambda: ours.decode_bytes(expected), inputs)
    findings.compare("decode", data.decode("utf-8", "replace"), lambda: ours.decode(expected), inputs)
    findings.tries += 1


def try_training(number: int, path: Path, findings: Findings) -> None:
    """Train on a text, and encode others with the result; all that is drawn depends on the number."""
    random = Random(number)
    specials, sizes = draw_specials(random), draw_sizes(random)
    chance = Chance(random, specials)
    chance.seen = data = chance.text(60)
    vocab_size = 256 + len(specials) + random.choice([0, 1, 5, 20, 40, random.randint(0, 80)])
    again = f"python -m benchmarks.fuzz_bpe --seed {number} --tries {TEXTS_PER_TRAINING}"
    inputs = {"again": again, "sizes": sizes, "specials": specials, "vocab_size": vocab_size, "trained on": data}
    path.write_bytes(data)
    text = data.decode("utf-8", "surrogateescape")
    counts, expected = Counter(naive_bpe.pretokens(text, specials)), naive_bpe.train(text, vocab_size, specials)
    with patched(sizes):
        findings.compare("count_pretokens", {}, lambda: differing(counts, count_pretokens(path, specials)), inputs)
        findings.compare("train_bpe", expected, lambda: train_bpe(path, vocab_size, specials), inputs)
        ours = findings.attempt("Tokenizer", lambda: Tokenizer(*expected, specials), inputs)
        for _ in range(TEXTS_PER_TRAINING if ours is not FAILED else 0):
            try_text(chance, path, ours, findings, inputs)


def main() -> None:
    """Make all tries; exit code 1 where there was a difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=10_000, help="texts to encode (default: 10,000)")
    parser.add_argument("--seed", type=int, default=0, help="the number of the first training (default: 0)")
    given = parser.parse_args()
    faulthandler.enable()
    findings, started = Findings(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-bpe-", dir=FASTER if Path(FASTER).is_dir() else None) as folder:
        print(f"in {folder}", file=sys.stderr, flush=True)
        for number in range(given.seed, given.seed + -(-given.tries // TEXTS_PER_TRAINING)):
            try_training(number, Path(folder, "text.txt"), findings)
            findings.tick()
    rate = findings.tries / (time.monotonic() - started)
    print(f"{findings.tries:,} tries, {rate:,.0f} a second, {findings.differences:,} differences")
    sys.exit(1 if findings.differences else 0)


if __name__ == "__main__":
    main()
