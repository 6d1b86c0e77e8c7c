"""Random texts through lmpipe's BPE and the naive definition: python -m benchmarks.fuzz_bpe --tries N --seed S.

Each training is followed by TEXTS_PER_TRAINING texts that its tokenizer encodes; each text is a try. Internal sizes of
lmpipe are random, too, so that blocks end anywhere and tables fill early. Prints each difference with the command that
repeats it; the exit code is 1 if there was any. If compiled code ends the process, the last text is in the folder that
the first line names.
"""

import argparse
import contextlib
import faulthandler
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
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
from tests.reference import naive_bpe

TEXTS_PER_TRAINING = 64
MAX_PRINTED = 300  # bytes of a value in a message
FILE_SHARE = 0.25  # of the texts that are also encoded from a file, which takes longer
LONG_SHARE = 0.03  # of the pieces of a text
FAILED = object()
MEMORY_FOLDER = "/dev/shm"

# Internal sizes of lmpipe: the modules that use them, and other values to try.
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
INVALID = [b"\x80", b"\xbf", b"\xc0\x80", b"\xc2", b"\xe0\x80\x80", b"\xe2\x80", b"\xe3\x80", b"\xed\xa0\x80"]
INVALID += [b"\xf0\x9f\x99", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xff", b"\xfe", b"\x85", b"\xa0"]
SPECIALS = ["<|endoftext|>", "<|a|>", "<|a|> <|b|>", "<|a|><|b|>", "|>\n<", " <", "two words", "  ", "\n\n", " \n"]
SPECIALS += ["ab", "aba", "bab", "aa", " a", "a ", "'s", "é", "漢字", "\u3000", "\u3000 ", "123", "x" * 40]
KINDS = ["dense", "any", "word", "word", "spaces", "spaces", "number", "other", "contraction", "invalid UTF-8"]
KINDS += ["cut character", "special", "special", "seen"]


@dataclass
class TextGenerator:
    """Random texts for one training; `specials` are its special tokens, `seen` the text it was trained on."""

    random: Random
    specials: list[str]
    seen: bytes = b""

    def some(self, choices: Sequence[str], most: int = 8) -> bytes:
        """One to `most` random choices."""
        return "".join(self.random.choices(choices, k=self.random.randint(1, most))).encode()

    def piece(self, kind: str) -> bytes:
        """Return a piece of a text, of a kind."""
        random = self.random
        space = random.choice([b"", b" "])
        match kind:
            case "dense":  # few letters, of which all pairs are frequent
                return self.some(random.choice(["ab", "ab ", "aab'", "a ", "abc\n", "a1", "éa"]), 24)
            case "any":
                return self.some(CHARACTERS, 4)
            case "word":
                return space + self.some([*LETTERS, *"abeinrst" * 3])
            case "spaces":
                return self.some([" ", "\n", "\r\n", *random.choices(SPACES, k=2), random.choice(NEAR_SPACES)], 5)
            case "number":
                return space + self.some(NUMBERS, 5)
            case "other":
                return space + self.some(OTHERS, 4)
            case "contraction":
                return random.choice([b"", b"it", b"we", b"1", b" "]) + self.some(CONTRACTIONS, 2)
            case "invalid UTF-8":
                return random.choice([random.choice(INVALID), random.randbytes(random.randint(1, 5))])
            case "cut character":
                data = self.some(random.choice([CHARACTERS, LETTERS, SPACES]), 2)
                index = random.randrange(len(data) + 1)
                return random.choice([data[:index], data[index:]])
            case "special":  # a special token or a part of it
                data = random.choice(self.specials or SPECIALS).encode()
                first, last = sorted(random.choices(range(len(data) + 1), k=2))
                return data if random.random() < 0.6 else data[first:last]
            case "seen":
                index = random.randrange(len(self.seen) + 1)
                return self.seen[index : index + random.randint(1, 30)]
            case _:  # "long": one character many times, or a long word
                size = random.choice([15, 16, 17, 31, 33, 63, 65, 127, 129, 255, 257, 300, 1025, 2100])
                if random.random() < 0.5:
                    return random.choice([*SPACES, "a", "é", "1", "!", "'", "漢", "<"]).encode() * size
                return "".join(random.choices("abcé" if size < 300 else "ab", k=size)).encode()

    def text(self, most: int) -> bytes:
        """Up to `most` pieces, of all kinds or of two."""
        kinds = KINDS if self.random.random() < 0.6 else self.random.sample(KINDS, 2)
        number = self.random.randint(0, most)
        selected = ["long" if self.random.random() < LONG_SHARE else self.random.choice(kinds) for _ in range(number)]
        return b"".join(map(self.piece, selected))


@dataclass
class Comparison:
    """Numbers of tries and differences; `inputs` are those of the current try, which messages contain."""

    tries: int = 0
    differences: int = 0
    inputs: dict[str, Any] = field(default_factory=dict)

    def attempt(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return lmpipe's result; FAILED if it raises, which is a difference."""
        try:
            return compute()
        except Exception:
            self.report(f"{name}: {traceback.format_exc()}")
            return FAILED

    def compare(self, name: str, expected: Any, compute: Callable[[], Any]) -> None:
        """Report a difference if lmpipe's result is not the expected one."""
        result = self.attempt(name, compute)
        if result is not FAILED and result != expected:
            self.report(f"{name}: expected {shortened(expected)}\n  result: {shortened(result)}")

    def report(self, difference: str) -> None:
        """Print and count a difference."""
        self.differences += 1
        lines = [f"{name}: {shortened(value)}" for name, value in self.inputs.items()]
        print(f"difference: {difference}", *lines, sep="\n  ", flush=True)


def shortened(value: Any) -> str:
    """Return repr(value); the beginning and the end of a long one."""
    text = repr(value)
    if (len(value) if isinstance(value, bytes | str) else len(text)) <= MAX_PRINTED:
        return text
    return f"{text[: MAX_PRINTED // 2]} ... {text[-MAX_PRINTED // 2 :]} ({len(text):,} characters)"


@contextlib.contextmanager
def patched(sizes: dict[str, Any]) -> Iterator[None]:
    """Set internal sizes of lmpipe."""
    with contextlib.ExitStack() as stack:
        for name, value in sizes.items():
            for module in SIZES[name][0]:
                stack.enter_context(patch.object(module, name, value))
        yield


def file_ids(path: Path, tokenizer: Tokenizer) -> list[int] | str:
    """Token ids of a text file after encode_file; "empty" or another message if it is refused."""
    output = path.with_suffix(".bin")
    try:
        info = encode_file(path, tokenizer, output, path.with_suffix(".json"), "fuzz")
    except InputError as error:
        return "empty" if "is empty" in str(error) else str(error)
    ids = np.fromfile(output, {"uint16": "<u2", "uint32": "<u4"}[info.dtype])
    return ids.tolist() if info.tokens == len(ids) else f"{info.tokens} tokens in the description"


def try_text(generator: TextGenerator, path: Path, tokenizer: Tokenizer, comparison: Comparison) -> None:
    """Encode and decode one text in every way."""
    data, random = generator.text(8), generator.random
    path.write_bytes(data)
    text = data.decode("utf-8", "surrogateescape")
    cuts = [0, *sorted(random.choices(range(len(text) + 1), k=random.randint(0, 6))), len(text)]
    pieces = [text[start:stop] for start, stop in pairwise(cuts)]  # some are empty
    comparison.inputs |= {"text": data, "parts": pieces}
    if random.random() < 0.1:
        comparison.compare("clear_cache", None, tokenizer.clear_cache)
    expected = naive_bpe.encode(text, tokenizer.vocab, tokenizer.merges, generator.specials)
    comparison.compare("encode", expected, lambda: tokenizer.encode(text))
    comparison.compare("encode_iterable", expected, lambda: list(tokenizer.encode_iterable(pieces)))
    if random.random() < FILE_SHARE:
        comparison.compare("encode_file", expected or "empty", lambda: file_ids(path, tokenizer))
    comparison.compare("decode_bytes", data, lambda: tokenizer.decode_bytes(expected))
    comparison.compare("decode", data.decode("utf-8", "replace"), lambda: tokenizer.decode(expected))
    comparison.tries += 1


def try_training(seed: int, path: Path, comparison: Comparison) -> None:
    """Train on a random text and encode others with the tokenizer; everything follows from the seed."""
    random = Random(seed)
    new = ["".join(random.choices("ab <", k=random.randint(2, 4))) for _ in range(2)]
    specials = list(dict.fromkeys(random.sample([*SPECIALS, *new], random.randint(0, 5))))
    share = random.choice([0, 0.3, 0.7])  # of internal sizes that have other values
    sizes = {name: random.choice(values) for name, (_, values) in SIZES.items() if random.random() < share}
    generator = TextGenerator(random, specials)
    generator.seen = data = generator.text(60)
    vocab_size = 256 + len(specials) + random.choice([0, 1, 5, 20, 40, random.randint(0, 80)])
    comparison.inputs = {
        "repeat": f"python -m benchmarks.fuzz_bpe --seed {seed} --tries {TEXTS_PER_TRAINING}",
        **{"sizes": sizes, "specials": specials, "vocab_size": vocab_size, "training text": data},
    }
    path.write_bytes(data)
    text = data.decode("utf-8", "surrogateescape")
    counts, expected = Counter(naive_bpe.pretokens(text, specials)), naive_bpe.train(text, vocab_size, specials)
    with patched(sizes):
        comparison.compare("count_pretokens", counts, lambda: Counter(count_pretokens(path, specials)))
        comparison.compare("train_bpe", expected, lambda: train_bpe(path, vocab_size, specials))
        tokenizer = comparison.attempt("Tokenizer", lambda: Tokenizer(*expected, specials))
        for _ in range(TEXTS_PER_TRAINING if tokenizer is not FAILED else 0):
            try_text(generator, path, tokenizer, comparison)


def main() -> None:
    """Run all tries and print their number; exit with 1 if there was a difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=10_000, help="texts to encode (default: 10,000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first training (default: 0)")
    args = parser.parse_args()
    faulthandler.enable()
    comparison, start = Comparison(), time.monotonic()
    memory_folder = MEMORY_FOLDER if Path(MEMORY_FOLDER).is_dir() else None
    with tempfile.TemporaryDirectory(prefix="fuzz-bpe-", dir=memory_folder) as folder:
        print(f"in {folder}", file=sys.stderr, flush=True)
        for seed in range(args.seed, args.seed + -(-args.tries // TEXTS_PER_TRAINING)):
            try_training(seed, Path(folder, "text.txt"), comparison)
            if seed % 100 == 99:
                print(f"{comparison.tries:,} tries", file=sys.stderr, flush=True)
    rate = comparison.tries / (time.monotonic() - start)
    print(f"{comparison.tries:,} tries, {rate:,.0f} a second, {comparison.differences:,} differences")
    sys.exit(1 if comparison.differences else 0)


if __name__ == "__main__":
    main()
