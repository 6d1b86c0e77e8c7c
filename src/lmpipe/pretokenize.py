"""GPT-2's pre-tokens: cutting text at special tokens and by pattern, and counting unique pre-tokens of long files.

Any bytes are text here, by one rule: they are read as UTF-8, and each byte that is no part of well-formed UTF-8 becomes
one character of its own (Python's `surrogateescape`), which the pattern counts among the punctuation. `to_bytes`
gives the same bytes back.
"""

import codecs
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
import regex

from lmpipe import InputError
from lmpipe.complaints import shown
from lmpipe.files import atomic_write, open_text, refuse_overwriting, write_json
from lmpipe.progress import progress
from lmpipe.provenance import peak_memory_bytes

END_OF_TEXT = "<|endoftext|>"
# GPT-2 (Radford et al. 2019, encoder.py of the release): contractions, words, numbers, other characters, white space.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PRETOKEN = regex.compile(PATTERN)
# What `\s` of the regex package matches; `\s` of the re module, which is three times faster, also has U+001C to U+001F.
SPACES = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
STRETCH = re.compile(f"[{SPACES}]*[^{SPACES}]+|[{SPACES}]+")

BLOCK_BYTES = 1 << 20
WINDOW_CHARACTERS = 1 << 14
UNIQUE_STRETCHES = 1 << 18
WAITING_CHARACTERS = 1 << 25
LONGEST_DOCUMENT = 1 << 22


def to_bytes(text: str) -> bytes:
    r"""The bytes of a text: UTF-8, characters U+DC80 to U+DCFF as the single bytes that they stand for.

    Other lone surrogates, which no decoded file holds, get the three bytes that UTF-8 would give them.

    >>> to_bytes("é\udcff")
    b'\xc3\xa9\xff'
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        rules = ("surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass" for character in text)
        return b"".join(character.encode("utf-8", rule) for character, rule in zip(text, rules, strict=True))


def to_text(data: bytes) -> str:
    r"""The text of any bytes, by this module's rule.

    >>> to_text(bytes([0x61, 0xFF]))
    'a\udcff'
    """
    return data.decode("utf-8", "surrogateescape")


def pretokens(text: str) -> list[str]:
    """Cut a text without special tokens into pre-tokens, which joined give the text again.

    >>> pretokens("It's  25 °C!")
    ['It', "'s", ' ', ' 25', ' °', 'C', '!']
    """
    return PRETOKEN.findall(text)


def stretches(text: str) -> list[str]:
    r"""Cut a text into stretches: a run of white space and the run of other characters after it.

    Between two of them always lies a boundary of pre-tokens that neither side can see across: no pre-token has white
    space after another character, and none looks back. So the pre-tokens of a text are those of its stretches, which
    repeat often enough to be worth remembering.

    >>> stretches("It's  25 °C!\n")
    ["It's", '  25', ' °C!', '\n']
    """
    return STRETCH.findall(text)


@lru_cache(maxsize=16)
def special_pattern(special_tokens: tuple[str, ...]) -> re.Pattern[str] | None:
    """A pattern that finds special tokens, the longest where several start at one place; None if there are none."""
    if "" in special_tokens:
        raise InputError("special_tokens: expected texts of at least one character, found an empty one; remove it")
    longest_first = sorted(special_tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def split_on_special(text: str, special_tokens: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Cut a text at its special tokens: pairs of ordinary text and the special token after it (None after the last).

    >>> list(split_on_special("a<|x|>b", ["<|x|>"]))
    [('a', '<|x|>'), ('b', None)]
    """
    pattern = special_pattern(tuple(special_tokens))
    position = 0
    for match in pattern.finditer(text) if pattern else ():
        yield text[position : match.start()], match.group()
        position = match.end()
    yield text[position:], None


def stream_stretches(pieces: Iterable[str], special_tokens: Sequence[str]) -> Iterator[tuple[list[str], str | None]]:
    """Cut a text that comes in pieces, ending anywhere, as if it came whole.

    Yields some stretches and the special token after them, or None where it is not known or there is none. Holds back
    what later pieces can change: memory is bounded by the pieces and by the longest pre-token.
    """
    special_tokens = tuple(special_tokens)
    held, held_characters, enough = [], 0, WINDOW_CHARACTERS
    for piece in pieces:
        held.append(piece)
        held_characters += len(piece)
        if held_characters >= enough:
            rest = yield from settled_stretches("".join(held), special_tokens)
            held, held_characters = [rest], len(rest)
            # Looking again at a long stretch only when its text has doubled keeps the work linear.
            enough = max(WINDOW_CHARACTERS, 2 * len(rest))
    for text, special in split_on_special("".join(held), special_tokens):
        yield stretches(text), special


def settled_stretches(text: str, special_tokens: tuple[str, ...]) -> Iterator[tuple[list[str], str | None]]:
    """Yield the stretches and special tokens of a text that no continuation can change; return the rest of the text."""
    pattern = special_pattern(special_tokens)
    # Before this place it is known whether a special token starts, and which is the longest.
    certain = len(text) - max(map(len, special_tokens), default=1) + 1
    position = 0
    for match in pattern.finditer(text) if pattern else ():
        if match.start() >= certain:
            break
        yield stretches(text[position : match.start()]), match.group()
        position = match.end()
    *settled, last = stretches(text[position : max(certain, position)]) or [""]
    if part := settled_part(last):
        settled.append(part)
    yield settled, None
    return text[position + sum(map(len, settled)) :]


def settled_part(stretch: str) -> str:
    """Of a long stretch with more text to come, the pre-tokens that this cannot change; nothing of a stretch of words.

    Cut there, both parts have the pre-tokens that they have together.
    """
    end = 0
    if len(stretch) > WINDOW_CHARACTERS:
        for match in PRETOKEN.finditer(stretch):
            # An apostrophe may still become a contraction, which has two letters at most.
            if match.end() > len(stretch) - 2:
                break
            # White space looks at what follows it, so nothing is cut there.
            if not match.group().isspace():
                end = match.end()
    return stretch[:end]


def read_pieces(path: str | Path, label: str, start: int = 0, stop: int | None = None) -> Iterator[str]:
    """Read a file's bytes from `start` to `stop` (its end) as pieces of text, showing the progress under a label."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    with open_text(path) as file:
        file.seek(start)
        left = max(0, (os.fstat(file.fileno()).st_size if stop is None else stop) - start)
        with progress(label, left, "B") as shown:
            while left and (block := file.read(min(BLOCK_BYTES, left))):
                left -= len(block)
                yield decoder.decode(block)
                shown.advance(len(block))
    yield decoder.decode(b"", final=True)


def documents(path: str | Path) -> Iterator[bytes]:
    """The documents of a corpus file in order: the bytes between its delimiters, blank ones left out.

    A document of more than LONGEST_DOCUMENT bytes, such as a file without delimiters, comes in parts that end before
    white space, as several documents would: so memory is constant.
    """
    delimiter = END_OF_TEXT.encode()
    rest = b""
    with open_text(path) as file:
        while block := file.read(BLOCK_BYTES):
            *complete, rest = (rest + block).split(delimiter)
            if len(rest) > LONGEST_DOCUMENT:
                part, rest = cut_before_space(rest)
                complete.append(part)
            yield from (document for document in complete if document.strip())
    if rest.strip():
        yield rest


def cut_before_space(text: bytes) -> tuple[bytes, bytes]:
    """Cut a text before its last spaces or line ends; one without any, in its middle.

    >>> cut_before_space(b"one two  three")
    (b'one two', b'  three')
    """
    space = max(text.rfind(b" "), text.rfind(b"\n"), 0)
    place = len(text[:space].rstrip()) or len(text) // 2
    return text[:place], text[place:]


def count_pretokens(
    path: str | Path, special_tokens: Sequence[str], start: int = 0, stop: int | None = None
) -> Counter[bytes]:
    """Count the unique pre-tokens of a file, or of its bytes from `start` to `stop`.

    The counts do not depend on how the file is read in blocks; beside them and the longest of them, memory is constant.
    """
    counts: Counter[bytes] = Counter()
    waiting: Counter[str] = Counter()
    characters = 0

    def pieces() -> Iterator[str]:
        nonlocal characters
        for piece in read_pieces(path, f"counting pre-tokens of {path}", start, stop):
            characters += len(piece)
            yield piece

    for found, _ in stream_stretches(pieces(), special_tokens):
        waiting.update(found)
        # Stretches may be few and long: what is remembered is bounded by the text that was read, too.
        if len(waiting) > UNIQUE_STRETCHES or characters > WAITING_CHARACTERS:
            count_stretches(waiting, counts)
            waiting.clear()
            characters = 0
    count_stretches(waiting, counts)
    return counts


def count_stretches(found: Mapping[str, int], counts: Counter[bytes]) -> None:
    """Add the pre-tokens of counted stretches to `counts`."""
    for stretch, count in found.items():
        for pretoken in pretokens(stretch):
            counts[to_bytes(pretoken)] += count


def shard_bounds(path: str | Path, shards: int) -> list[tuple[int, int]]:
    """Cut a file into byte ranges (start, stop) of about equal size, each ending after a document.

    There are always `shards` ranges; where documents are few and long, some are empty.
    """
    with open_text(path) as file:
        size = os.fstat(file.fileno()).st_size
        cuts = [next_document(file, size * shard // shards, size) for shard in range(1, shards)]
    return list(pairwise([0, *accumulate(cuts, max), size]))


def next_document(file: BinaryIO, place: int, size: int) -> int:
    """The first byte after the first delimiter at or after a place; the size of the file where none follows."""
    delimiter = END_OF_TEXT.encode()
    file.seek(place)
    tail, offset = b"", place
    while block := file.read(BLOCK_BYTES):
        window = tail + block
        if (found := window.find(delimiter)) >= 0:
            return offset + found + len(delimiter)
        tail = window[-len(delimiter) + 1 :]
        offset += len(window) - len(tail)
    return size


def save_counts(path: str | Path, counts: Mapping[bytes, int]) -> None:
    """Write counts as an .npz: `text` (all pre-tokens joined, ordered by bytes), `lengths`, `counts`.

    Equal counts give equal bytes.
    """
    with atomic_write(path, "wb") as file:
        write_counts(file, counts)


def write_counts(file: BinaryIO, counts: Mapping[bytes, int]) -> None:
    """Write counts into an open file, as `save_counts` says."""
    ordered = sorted(counts)
    text = bytearray()
    # `join` would take 80 bytes for each of them.
    for pretoken in ordered:
        text += pretoken
    arrays = {
        "text": np.frombuffer(text, np.uint8),
        "lengths": np.fromiter(map(len, ordered), np.uint32, len(ordered)),
        "counts": np.fromiter((counts[pretoken] for pretoken in ordered), np.int64, len(ordered)),
    }
    np.savez(file, **arrays)
    file.flush()


def load_counts(path: str | Path) -> dict[bytes, int]:
    """Read what `save_counts` wrote; raises InputError where the file is missing or damaged."""
    remedy = "delete it and count again"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            text, lengths, counts = arrays["text"].tobytes(), arrays["lengths"], arrays["counts"]
    except FileNotFoundError:
        raise InputError(f"{path}: expected counted pre-tokens, found no file; run count-pretokens first") from None
    except (PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds for damaged files
        raise InputError(
            f"{path}: expected counted pre-tokens, found a damaged file ({shown(str(error))}); {remedy}"
        ) from None
    for name, array, kind in (("lengths", lengths, np.uint32), ("counts", counts, np.int64)):
        if array.ndim != 1 or array.dtype != kind or not array.all() or (array < 0).any():
            raise InputError(f"{path}: {name}: expected numbers from 1 in one row, found others; {remedy}")
    ends = np.cumsum(lengths, dtype=np.int64)
    if len(lengths) != len(counts) or (ends[-1] if len(ends) else 0) != len(text):
        raise InputError(
            f"{path}: lengths: expected their sum to be {len(text)} bytes of text, found another; {remedy}"
        )
    bounds = pairwise([0, *ends.tolist()])
    return {text[start:stop]: count for (start, stop), count in zip(bounds, counts.tolist(), strict=True)}


def merge_counts(parts: Iterable[Mapping[bytes, int]]) -> Counter[bytes]:
    """The sums of several counts.

    >>> merge_counts([{b"a": 1}, {b"a": 2, b"b": 1}])
    Counter({b'a': 3, b'b': 1})
    """
    total: Counter[bytes] = Counter()
    for part in parts:
        total.update(part)
    return total


def count_shard(text_path: str | Path, shard: int, shards: int, npz_path: str | Path, json_path: str | Path) -> None:
    """Count the pre-tokens of one of `shards` shards, numbered from 0, into an .npz; its size and cost into a .json."""
    started = time.perf_counter()
    refuse_overwriting([text_path], [npz_path, json_path])
    if not 0 <= shard < shards:
        raise InputError(f"--shard: expected a number from 0 to {shards - 1}, found {shard}; correct it")
    start, stop = shard_bounds(text_path, shards)[shard]
    counts = count_pretokens(text_path, (END_OF_TEXT,), start, stop)
    with atomic_write(npz_path, "wb") as file:
        write_counts(file, counts)
        record = {
            "bytes": stop - start,
            "pretokens": sum(counts.values()),
            "unique_pretokens": len(counts),
            "wall_seconds": time.perf_counter() - started,
            "peak_memory_bytes": peak_memory_bytes(),
        }
        # Before the counts get their name: where it cannot be written, an earlier pair stays whole.
        write_json(json_path, record)
