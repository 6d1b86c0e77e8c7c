"""A byte-level BPE tokenizer: text to token ids and back, and the files that GPT-2's and Hugging Face's tools read."""

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from heapq import heapify, heappop, heappush
from itertools import chain
from operator import add
from pathlib import Path
from typing import Any

from lmpipe import InputError
from lmpipe.complaints import shown
from lmpipe.files import json_bytes, read_json, write_together
from lmpipe.pretokenize import PRETOKEN, pretokens, split_on_special, stream_stretches, stretches, to_bytes
from lmpipe.shapes import EXPORTED_TOKENIZER, read_shape

CACHE_ENTRIES = 1 << 18
CACHED_CHARACTERS = 64
# Longer pre-tokens are merged in windows, since the time of merging one at once grows with its length times the merges.
LONG_CHARACTERS = 1024
WINDOW_BYTES = 512
MARGIN_BYTES = 64
MERGES_HEADER = "#version: 0.2"
# While it is merged, a token is one character.
MOST_IDS = sys.maxunicode + 1


class Tokenizer:
    """Encodes text by applying merges, the earliest first, inside GPT-2's pre-tokens (handout, section 2.6).

    `vocab` maps ids to byte strings and must hold the 256 bytes and the result of every merge; special tokens that it
    lacks are appended. They cut the text, the longest first where several start at one place, and never merge.
    Raises InputError where the vocabulary has gaps.
    """

    def __init__(
        self,
        vocab: dict[int, bytes],
        merges: Sequence[tuple[bytes, bytes]],
        special_tokens: Sequence[str] | None = None,
    ):
        self.vocab = dict(vocab)
        self.merges = [(bytes(left), bytes(right)) for left, right in merges]
        self.special_tokens = list(dict.fromkeys(special_tokens or ()))
        self._ids = {token: token_id for token_id, token in reversed(self.vocab.items())}
        for token in map(to_bytes, self.special_tokens):
            if token not in self._ids:
                self._ids[token] = max(self.vocab, default=-1) + 1
                self.vocab[self._ids[token]] = token
        self._special_ids = {token: self._ids[to_bytes(token)] for token in self.special_tokens}
        # A pre-token being merged is a str with one character for each token, chr(id), as in lmpipe.bpe.
        self._byte_symbols = {byte: self._symbol(bytes([byte])) for byte in range(256)}
        self._rules = [self._rule(left, right) for left, right in self.merges]
        self._ranks = {pair: rank for rank, (pair, _) in enumerate(self._rules)}
        self._cache: dict[str, list[int]] = {}

    def _symbol(self, token: bytes) -> str:
        """The character that stands for a token while merging."""
        if token not in self._ids:
            raise InputError(
                f"vocabulary: expected the token {shown(token)} (a byte, or part of a merge), found none; "
                "use the vocabulary and the merges of one training"
            )
        return chr(self._ids[token])

    def _rule(self, left: bytes, right: bytes) -> tuple[str, str]:
        """A merge as two symbols and the symbol that replaces them."""
        return self._symbol(left) + self._symbol(right), self._symbol(left + right)

    @property
    def vocab_size(self) -> int:
        """The number of ids: one more than the largest."""
        return max(self.vocab) + 1

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token; raises InputError for an id that is not in the vocabulary."""
        try:
            return self.vocab[token_id]
        except KeyError:
            raise InputError(
                f"token ids: expected ids from 0 to {self.vocab_size - 1}, found {token_id}; "
                "decode with the tokenizer that encoded them"
            ) from None

    def encode(self, text: str) -> list[int]:
        """The token ids of a text. Special tokens in it become their ids."""
        parts = ((stretches(ordinary), special) for ordinary, special in split_on_special(text, self.special_tokens))
        return list(chain.from_iterable(self._encode_parts(parts)))

    def encode_iterable(self, pieces: Iterable[str]) -> Iterator[int]:
        """The token ids of a text that comes in pieces, lazily and in constant memory.

        They are what `encode` gives for the joined text, wherever the pieces end.
        """
        return chain.from_iterable(self.encode_batches(pieces))

    def encode_batches(self, pieces: Iterable[str]) -> Iterator[list[int]]:
        """As encode_iterable, but the ids in lists of some thousands, which is faster."""
        return self._encode_parts(stream_stretches(pieces, self.special_tokens))

    def _encode_parts(self, parts: Iterable[tuple[list[str], str | None]]) -> Iterator[list[int]]:
        known = self._cache
        for found, special in parts:
            ids: list[int] = []
            for stretch in found:
                if remembered := known.get(stretch):
                    ids += remembered
                elif len(stretch) <= LONG_CHARACTERS:
                    ids += self._encode_stretch(stretch)
                else:
                    yield ids
                    ids = []
                    yield from self._encode_long(stretch)
            if special is not None:
                ids.append(self._special_ids[special])
            yield ids

    def _encode_stretch(self, stretch: str) -> list[int]:
        """Encode a stretch that is not in the cache, pre-token by pre-token."""
        ids: list[int] = []
        for pretoken in pretokens(stretch):
            ids += self._cache.get(pretoken) or self._remember(pretoken, self._merge(pretoken))
        return self._remember(stretch, ids)

    def _encode_long(self, stretch: str) -> Iterator[list[int]]:
        """Encode a stretch of any length; the ids come in short lists."""
        for match in PRETOKEN.finditer(stretch):
            pretoken = match.group()
            if len(pretoken) <= LONG_CHARACTERS:
                yield self._cache.get(pretoken) or self._remember(pretoken, self._merge(pretoken))
            else:
                yield from ([*map(ord, part)] for part in self._merge_in_windows(to_bytes(pretoken)))

    def _remember(self, text: str, ids: list[int]) -> list[int]:
        """Put the ids of a stretch or pre-token into the cache, which stays bounded, and return them."""
        if len(text) <= CACHED_CHARACTERS:
            if len(self._cache) >= CACHE_ENTRIES:
                self._cache.clear()
            self._cache[text] = ids
        return ids

    def forget(self) -> None:
        """Empty the cache of encoded text, as before the first call."""
        self._cache.clear()

    def _merge(self, pretoken: str) -> list[int]:
        """The ids of a pre-token that is not long."""
        return [*map(ord, self._merge_bytes(to_bytes(pretoken)))]

    def _merge_in_windows(self, data: bytes) -> list[str]:
        """Merge a pre-token of any length in linear time: its tokens, each as one character, in parts.

        Where each two neighbouring tokens would stay apart if they stood alone, no merge ever joins any of them. So
        the tokens of a window and those of the next one are the tokens of both, once the two at the cut stay apart;
        where they do not, the part before the cut is merged anew, in a window twice as wide.
        """
        parts: list[tuple[str, int, int]] = []
        place, window = 0, WINDOW_BYTES
        while True:
            tokens = self._merge_bytes(data[place : place + window])
            if parts and not self._stay_apart(parts[-1][0][-1], tokens[0]):
                _, size, narrower = parts.pop()
                place, window = place - size, 2 * narrower
            elif place + window >= len(data):
                return [part for part, _, _ in parts] + [tokens]
            elif kept := self._before_margin(tokens):
                size = sum(len(self.vocab[ord(token)]) for token in kept)
                parts.append((kept, size, window))
                place, window = place + size, WINDOW_BYTES
            else:
                window *= 2

    def _stay_apart(self, left: str, right: str) -> bool:
        """Whether two tokens are what their joined bytes are merged to."""
        return self._merge_bytes(self.vocab[ord(left)] + self.vocab[ord(right)]) == left + right

    def _before_margin(self, tokens: str) -> str:
        """The tokens of a window but for those at its end, which the text behind it may well change."""
        margin = 0
        while tokens and margin < MARGIN_BYTES:
            margin += len(self.vocab[ord(tokens[-1])])
            tokens = tokens[:-1]
        return tokens

    def _merge_bytes(self, data: bytes) -> str:
        """Apply the earliest merge that fits, everywhere at once, until none fits: the tokens, one character each."""
        ranks = self._ranks
        symbols = data.decode("latin-1").translate(self._byte_symbols)
        waiting = [ranks[pair] for pair in map(add, symbols, symbols[1:]) if pair in ranks]
        heapify(waiting)
        done = -1
        while waiting:
            if (rank := heappop(waiting)) == done:
                continue
            done = rank
            pair, merged = self._rules[rank]
            parts = symbols.split(pair)
            if len(parts) > 1:
                symbols = merged.join(parts)
                # Some of these pairs are not there; looking for them later costs less than checking here.
                for part in filter(None, parts):
                    for new in (merged + part[0], part[-1] + merged):
                        if new in ranks:
                            heappush(waiting, ranks[new])
                if merged + merged in ranks:
                    heappush(waiting, ranks[merged + merged])
        return symbols

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; malformed UTF-8 becomes U+FFFD. Raises InputError for unknown ids."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of token ids, exactly as they were encoded. Raises InputError for unknown ids."""
        return b"".join(map(self.token_bytes, ids))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the vocabulary, merges and special tokens as canonical JSON; no file's layout changes it."""
        canonical = {
            "vocab": [[token_id, token.hex()] for token_id, token in sorted(self.vocab.items())],
            "merges": [[left.hex(), right.hex()] for left, right in self.merges],
            "special_tokens": sorted(self.special_tokens),
        }
        return hashlib.sha256(json.dumps(canonical, separators=(",", ":")).encode()).hexdigest()

    @classmethod
    def from_files(
        cls, vocab_path: str | Path, merges_path: str | Path, special_tokens: Sequence[str] | None = None
    ) -> "Tokenizer":
        """Read vocab.json and merges.txt in GPT-2's form; raises InputError where they are missing or damaged."""
        vocab = read_vocab(vocab_path, special_tokens or ())
        try:
            return cls(vocab, read_merges(merges_path), special_tokens)
        except InputError as error:
            raise InputError(f"{vocab_path} and {merges_path}: {error}") from None

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Tokenizer":
        """Read what `save` wrote, with its special tokens.

        Raises InputError where a file is missing or damaged, or the three are not those of one training.
        """
        folder = Path(folder)
        exported = read_shape(folder / "tokenizer.json", EXPORTED_TOKENIZER)
        special_ids = {token["content"]: token["id"] for token in exported["added_tokens"]}
        tokenizer = cls.from_files(folder / "vocab.json", folder / "merges.txt", list(special_ids))
        made = {bytes([byte]) for byte in range(256)} | set(map(to_bytes, special_ids))
        made |= {left + right for left, right in tokenizer.merges}
        odd = [token for token in tokenizer.vocab.values() if token not in made]
        odd += [token for token, token_id in special_ids.items() if tokenizer._special_ids[token] != token_id]
        if odd:
            raise InputError(
                f"{folder}: expected vocab.json, merges.txt and tokenizer.json of one training, found the token "
                f"{shown(odd[0])} in one without the others; train the tokenizer again"
            )
        return tokenizer

    def save(self, folder: str | Path) -> None:
        """Write vocab.json, merges.txt (GPT-2's form) and tokenizer.json (Hugging Face tokenizers) into a folder."""
        folder = Path(folder)
        names = {printable(token): token_id for token_id, token in sorted(self.vocab.items())}
        merges = [(printable(left), printable(right)) for left, right in self.merges]
        lines = [MERGES_HEADER, *(f"{left} {right}" for left, right in merges)]
        write_together(
            {
                folder / "vocab.json": json_bytes(names),
                folder / "merges.txt": "".join(f"{line}\n" for line in lines).encode(),
                folder / "tokenizer.json": json_bytes(self._hugging_face(names, merges)),
            }
        )

    def _hugging_face(self, names: dict[str, int], merges: list[tuple[str, str]]) -> dict[str, Any]:
        """The tokenizer as the JSON that `tokenizers.Tokenizer.from_file` reads; it gives the same ids."""
        special_names = {printable(to_bytes(token)): token for token in self.special_tokens}
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        by_id = sorted(self._special_ids.items(), key=lambda item: item[1])
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": token_id, "content": token, **plain} for token, token_id in by_id],
            "normalizer": None,
            "pre_tokenizer": byte_level,
            "post_processor": None,
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                # Special tokens are looked up there by their plain text.
                "vocab": {special_names.get(name, name): token_id for name, token_id in names.items()},
                "merges": [list(merge) for merge in merges],
            },
        }


@cache
def byte_characters() -> dict[int, str]:
    """GPT-2's printable character for each byte: itself where Latin-1 prints it, else one from U+0100 upwards."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + place) for place, byte in enumerate(rest)}


@cache
def character_bytes() -> dict[str, int]:
    """The byte of each character of `byte_characters`."""
    return {character: byte for byte, character in byte_characters().items()}


def printable(token: bytes) -> str:
    r"""A token in GPT-2's byte-to-unicode form, which has neither spaces nor line ends.

    >>> printable(b" a\n")
    'ĠaĊ'
    """
    return token.decode("latin-1").translate(byte_characters())


def from_printable(name: str) -> bytes:
    """The token of a name in GPT-2's form; raises KeyError for a character that stands for no byte."""
    return bytes(map(character_bytes().__getitem__, name))


def read_vocab(path: str | Path, special_tokens: Sequence[str]) -> dict[int, bytes]:
    """Read vocab.json, names to ids; the names of special tokens may also stand there as plain text."""
    remedy = "delete it and train the tokenizer again"
    names = read_json(path)
    if not isinstance(names, dict):
        raise InputError(f"{path}: expected a JSON object of tokens and ids, found another value; {remedy}")
    vocab: dict[int, bytes] = {}
    for name, token_id in names.items():
        if type(token_id) is not int or not 0 <= token_id < MOST_IDS or token_id in vocab:
            raise InputError(
                f"{path}: {shown(name)}: expected an id from 0 to {MOST_IDS - 1} that is used once, found "
                f"{shown(token_id)}; {remedy}"
            )
        try:
            vocab[token_id] = from_printable(name)
        except KeyError as error:
            if name not in special_tokens:
                found = error.args[0]
                raise InputError(
                    f"{path}: {shown(name)}: expected GPT-2's byte-to-unicode characters, found {found!r}; {remedy}"
                ) from None
            vocab[token_id] = to_bytes(name)
    return vocab


def read_merges(path: str | Path) -> list[tuple[bytes, bytes]]:
    """Read merges.txt, one merge a line: two tokens in GPT-2's form with a space between."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: expected a list of merges, found no file; train the tokenizer first") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8, found {error}; train the tokenizer again") from None
    merges: dict[tuple[bytes, bytes], None] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip() and not (number == 1 and line.startswith("#version")):
            merge = parse_merge(line, f"{path}: line {number}")
            if merge in merges:
                raise InputError(
                    f"{path}: line {number}: expected each merge once, found {line!r} again; train it anew"
                )
            merges[merge] = None
    return list(merges)


def parse_merge(line: str, place: str) -> tuple[bytes, bytes]:
    """The two tokens of one line of merges.txt."""
    if not re.fullmatch(r"[^ ]+ [^ ]+", line):
        raise InputError(f"{place}: expected two tokens and a space, found {shown(line)}; train the tokenizer again")
    left, right = line.split(" ")
    try:
        return from_printable(left), from_printable(right)
    except KeyError as error:
        raise InputError(
            f"{place}: expected GPT-2's byte-to-unicode characters, found {error.args[0]!r}; train the tokenizer again"
        ) from None
