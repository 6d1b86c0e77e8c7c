"""The vocabulary of a byte-level BPE tokenizer: ids and their bytes, merges, decoding, and the files of other tools."""

import hashlib
import json
from base64 import b64encode
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Self

from lmpipe.errors import InputError
from lmpipe.io.files import atomic_write_all, json_bytes, read_json
from lmpipe.io.validation import short_repr
from lmpipe.study.documents import EXPORTED_TOKENIZER, read_shape
from lmpipe.tokenizer.pretokenizer import encode_utf8, special_bytes

MERGES_HEADER = "#version: 0.2"
# The encoder packs a merge, two ids and a number, into 64 bits.
MAX_VOCAB_SIZE = 1 << 20


class Vocabulary:
    """Token ids and the merges that make them (handout, section 2.6); `Tokenizer` encodes with it.

    `vocab` maps ids to byte strings and must hold the 256 bytes and the result of every merge; special tokens that it
    lacks are appended. Raises InputError where the vocabulary has gaps.
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
        for token in special_bytes(self.special_tokens):
            if token not in self._ids:
                self._ids[token] = max(self.vocab, default=-1) + 1
                self.vocab[self._ids[token]] = token
        if odd := [token_id for token_id in self.vocab if not 0 <= token_id < MAX_VOCAB_SIZE]:
            raise InputError(
                f"vocabulary: expected ids from 0 to {MAX_VOCAB_SIZE - 1}, found {odd[0]}; number them anew"
            )
        self._special_ids = {token: self._ids[encode_utf8(token)] for token in self.special_tokens}
        self._byte_ids = [self._id(bytes([byte])) for byte in range(256)]
        # Left, right and merged id of each merge.
        self._merge_ids = [(self._id(left), self._id(right), self._id(left + right)) for left, right in self.merges]

    def _id(self, token: bytes) -> int:
        """The id of a byte or of a part of a merge."""
        if token not in self._ids:
            raise InputError(
                f"vocabulary: expected the token {short_repr(token)} (a byte, or part of a merge), found none; "
                "use the vocabulary and the merges of one training"
            )
        return self._ids[token]

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
    ) -> Self:
        """Read vocab.json and merges.txt in GPT-2's form; raises InputError where they are missing or damaged."""
        vocab = read_vocab(vocab_path, special_tokens or ())
        try:
            return cls(vocab, read_merges(merges_path), special_tokens)
        except InputError as error:
            raise InputError(f"{vocab_path} and {merges_path}: {error}") from None

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self:
        """Read what `save` wrote, with its special tokens.

        Raises InputError where a file is missing or damaged, or the three are not those of one training.
        """
        folder = Path(folder)
        exported = read_shape(folder / "tokenizer.json", EXPORTED_TOKENIZER)
        special_ids = {token["content"]: token["id"] for token in exported["added_tokens"]}
        tokenizer = cls.from_files(folder / "vocab.json", folder / "merges.txt", list(special_ids))
        made = {bytes([byte]) for byte in range(256)} | set(map(encode_utf8, special_ids))
        made |= {left + right for left, right in tokenizer.merges}
        odd = [token for token in tokenizer.vocab.values() if token not in made]
        odd += [token for token, token_id in special_ids.items() if tokenizer._special_ids[token] != token_id]
        if odd:
            raise InputError(
                f"{folder}: expected vocab.json, merges.txt and tokenizer.json of one training, found the token "
                f"{short_repr(odd[0])} in one without the others; train the tokenizer again"
            )
        return tokenizer

    def save(self, folder: str | Path) -> None:
        """Write vocab.json, merges.txt (GPT-2's form), tokenizer.json (Hugging Face) and ranks.tiktoken into a folder.

        The last one goes to tiktoken.Encoding with PATTERN; the special tokens and their ids are given there apart.
        """
        folder = Path(folder)
        lines = [MERGES_HEADER, *(f"{left} {right}" for left, right in self._merge_names())]
        atomic_write_all(
            {
                folder / "vocab.json": json_bytes(self._names()),
                folder / "merges.txt": "".join(f"{line}\n" for line in lines).encode(),
                folder / "tokenizer.json": json_bytes(self.to_huggingface()),
                folder / "ranks.tiktoken": self._tiktoken(),
            }
        )

    def _names(self) -> dict[str, int]:
        """The ids of tokens in GPT-2's form."""
        return {bytes_to_unicode(token): token_id for token_id, token in sorted(self.vocab.items())}

    def _merge_names(self) -> list[tuple[str, str]]:
        """The merges in GPT-2's form."""
        return [(bytes_to_unicode(left), bytes_to_unicode(right)) for left, right in self.merges]

    def _tiktoken(self) -> bytes:
        """The file that `tiktoken.load.load_tiktoken_bpe` reads: a line for each token, in base64, and its rank."""
        specials = set(self._special_ids.values())
        ranks = [(token_id, token) for token_id, token in sorted(self.vocab.items()) if token_id not in specials]
        return b"".join(b"%s %d\n" % (b64encode(token), token_id) for token_id, token in ranks)

    def to_huggingface(self) -> dict[str, Any]:
        """The tokenizer as the JSON that `tokenizers.Tokenizer.from_file` reads; it gives the same ids."""
        names, merges = self._names(), self._merge_names()
        special_names = {bytes_to_unicode(encode_utf8(token)): token for token in self.special_tokens}
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
def byte_to_character() -> dict[int, str]:
    """GPT-2's printable character for each byte: itself where Latin-1 prints it, else one from U+0100 upwards."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + place) for place, byte in enumerate(rest)}


class CharacterBytes(dict[int, str]):
    """For str.translate: a character of `byte_to_character` becomes the Latin-1 one of its byte, any other NO_BYTE."""

    NO_BYTE = "\uffff"

    def __init__(self):
        super().__init__({ord(character): chr(byte) for byte, character in byte_to_character().items()})

    def __missing__(self, code: int) -> str:
        return self.NO_BYTE


@cache
def character_to_byte() -> CharacterBytes:
    """The one table of its kind."""
    return CharacterBytes()


def bytes_to_unicode(token: bytes) -> str:
    r"""A token in GPT-2's byte-to-unicode form, which has neither spaces nor line ends.

    >>> bytes_to_unicode(b" a\n")
    'ĠaĊ'
    """
    return token.decode("latin-1").translate(byte_to_character())


def unicode_to_bytes(name: str) -> bytes:
    """The token of a name in GPT-2's form; raises KeyError for a character that stands for no byte."""
    try:
        return name.translate(character_to_byte()).encode("latin-1")
    except UnicodeEncodeError as error:
        raise KeyError(name[error.start]) from None


def read_vocab(path: str | Path, special_tokens: Sequence[str]) -> dict[int, bytes]:
    """Read vocab.json, names to ids; the names of special tokens may also stand there as plain text."""
    remedy = "delete it and train the tokenizer again"
    names = read_json(path)
    if not isinstance(names, dict):
        raise InputError(f"{path}: expected a JSON object of tokens and ids, found another value; {remedy}")
    vocab: dict[int, bytes] = {}
    for name, token_id in names.items():
        if type(token_id) is not int or not 0 <= token_id < MAX_VOCAB_SIZE or token_id in vocab:
            raise InputError(
                f"{path}: {short_repr(name)}: expected an id from 0 to {MAX_VOCAB_SIZE - 1} that is used once, found "
                f"{short_repr(token_id)}; {remedy}"
            )
        try:
            vocab[token_id] = unicode_to_bytes(name)
        except KeyError as error:
            if name not in special_tokens:
                found = error.args[0]
                raise InputError(
                    f"{path}: {short_repr(name)}: expected GPT-2's byte-to-unicode characters, found "
                    f"{found!r}; {remedy}"
                ) from None
            vocab[token_id] = encode_utf8(name)
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
            merge = parse_merge(line, path, number)
            if merge in merges:
                raise InputError(
                    f"{path}: line {number}: expected each merge once, found {line!r} again; train it anew"
                )
            merges[merge] = None
    return list(merges)


def parse_merge(line: str, path: str | Path, number: int) -> tuple[bytes, bytes]:
    """The two tokens of one line of merges.txt."""
    left, _, right = line.partition(" ")
    if not left or not right or " " in right:
        raise InputError(
            f"{path}: line {number}: expected two tokens and a space, found {short_repr(line)}; "
            "train the tokenizer again"
        )
    try:
        return unicode_to_bytes(left), unicode_to_bytes(right)
    except KeyError as error:
        raise InputError(
            f"{path}: line {number}: expected GPT-2's byte-to-unicode characters, found {error.args[0]!r}; "
            "train the tokenizer again"
        ) from None
