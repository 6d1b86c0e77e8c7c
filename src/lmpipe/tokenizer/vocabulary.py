"""Vocabulary of a byte-level BPE tokenizer: ids and their bytes, merges, decoding, and the files of other tools."""

import hashlib
import json
import time
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from numbers import Integral
from operator import index
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, NonNegativeInt

from lmpipe.errors import InputError
from lmpipe.io.documents import Document
from lmpipe.io.files import atomic_write_all, json_bytes, read_json
from lmpipe.io.validation import require_type, short_repr
from lmpipe.provenance.environment import peak_memory_bytes
from lmpipe.tokenizer.documents import StageCost, TokenizerTraining, TrainingStages
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT, encode_utf8, special_bytes

MERGES_HEADER = "#version: 0.2"
MAX_VOCAB_SIZE = 1 << 20  # the encoder packs two ids and the number of their merge into 64 bits
RETRAIN = "delete it and train the tokenizer again"
# GPT-2's printable character of each byte: itself if Latin-1 prints it, else one from U+0100 upwards.
PLAIN_BYTES = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
OTHER_BYTES = [byte for byte in range(256) if byte not in PLAIN_BYTES]
BYTE_TO_CHARACTER = {byte: chr(byte) for byte in PLAIN_BYTES} | {
    byte: chr(256 + n) for n, byte in enumerate(OTHER_BYTES)
}
CHARACTER_TO_BYTE = {character: byte for byte, character in BYTE_TO_CHARACTER.items()}


class AddedToken(Document, extra="ignore"):
    """A special token of a Hugging Face tokenizer file."""

    content: Annotated[str, Field(min_length=1)]
    """Its text."""
    id: NonNegativeInt
    """Its token id."""


class HuggingFaceTokenizer(Document, extra="ignore"):
    """The special tokens of a Hugging Face tokenizer file, which GPT-2's files do not mark."""

    added_tokens: tuple[AddedToken, ...]
    """The special tokens."""


class Vocabulary:
    """Token ids and the merges that make them (handout, section 2.6); `Tokenizer` adds encoding.

    `vocab` maps ids to byte strings and must contain the 256 bytes and the result of every merge; missing special
    tokens are appended. Raises InputError if the vocabulary has gaps, and for values of other types.
    """

    def __init__(
        self,
        vocab: dict[int, bytes],
        merges: Sequence[tuple[bytes, bytes]],
        special_tokens: Sequence[str] | None = None,
    ):
        self.vocab, self.merges = check_vocab(vocab), check_merges(merges)
        self._ids = {token: token_id for token_id, token in reversed(self.vocab.items())}
        for token in special_bytes(special_tokens or ()):
            if token not in self._ids:
                self._ids[token] = max(self.vocab, default=-1) + 1
                self.vocab[self._ids[token]] = token
        if too_large := [token_id for token_id in self.vocab if not 0 <= token_id < MAX_VOCAB_SIZE]:
            problem = f"contains the id {too_large[0]}, but ids are 0 to {MAX_VOCAB_SIZE - 1}"
            raise InputError("vocabulary", problem, "renumber its tokens")
        self.special_tokens = list(dict.fromkeys(special_tokens or ()))
        self._special_ids = {token: self._ids[encode_utf8(token)] for token in self.special_tokens}
        self._byte_ids = [self._id(bytes([byte])) for byte in range(256)]
        # (left, right, merged) of each merge
        self._merge_ids = [(self._id(left), self._id(right), self._id(left + right)) for left, right in self.merges]

    def _id(self, token: bytes) -> int:
        """Return the id of a byte or of a part of a merge."""
        if token not in self._ids:
            problem = f"lacks the token {short_repr(token)}, a byte or part of a merge"
            raise InputError("vocabulary", problem, "use the vocabulary and the merges of one training")
        return self._ids[token]

    @property
    def vocab_size(self) -> int:
        """Number of ids: one more than the largest."""
        return max(self.vocab) + 1

    @property
    def byte_lengths(self) -> np.ndarray:
        """Text bytes of each token id, int64 (vocab,); 0 for end of text."""
        lengths = np.zeros(self.vocab_size, np.int64)
        for token_id, token in self.vocab.items():
            lengths[token_id] = 0 if token == END_OF_TEXT.encode() else len(token)
        return lengths

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of a token; raise InputError for an id that is not in the vocabulary."""
        try:
            return self.vocab[token_id]
        except KeyError:
            problem = f"contain {token_id}, which the vocabulary of {self.vocab_size} ids lacks"
            raise InputError("token ids", problem, "decode with the tokenizer that encoded them") from None

    def show_token(self, token_id: int) -> str:
        """Return a token as Python writes it: a str, or bytes if it is no whole characters in UTF-8."""
        token = self.token_bytes(token_id)
        try:
            return repr(token.decode())
        except UnicodeDecodeError:
            return repr(token)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids: a list, an array or a tensor, (tokens,); malformed UTF-8 becomes U+FFFD.

        Raises InputError for unknown ids, and for anything but whole numbers.
        """
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of token ids, exactly as they were encoded. Raises InputError as `decode` does."""
        try:
            # Arrays and tensors give Python's numbers at once, 50 times as fast as one by one.
            numbers = list(map(index, ids.tolist() if hasattr(ids, "tolist") else ids))
        except TypeError:
            problem, remedy = f"are {short_repr(ids)}", "pass a list, array or tensor of whole numbers, (tokens,)"
            raise InputError("token ids", problem, remedy) from None
        return b"".join(map(self.token_bytes, numbers))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of vocabulary, merges and special tokens as canonical JSON, independent of any file's layout."""
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
        """Read vocab.json and merges.txt in GPT-2's format; raise InputError if they are missing or damaged."""
        vocab = read_vocab(vocab_path, special_tokens or ())
        merges = read_merges(merges_path)
        try:
            return cls(vocab, merges, special_tokens)
        except InputError as error:
            where = f"{vocab_path} and {merges_path}"
            raise InputError(where, f"the {error.where} {error.problem}", error.remedy) from None

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self:
        """Read the files of `save`, with the special tokens.

        Raises InputError if a file is missing or damaged, or the three are not from one training.
        """
        folder = Path(folder)
        exported = HuggingFaceTokenizer.read(folder / "tokenizer.json")
        special_ids = {token.content: token.id for token in exported.added_tokens}
        tokenizer = cls.from_files(folder / "vocab.json", folder / "merges.txt", list(special_ids))
        strays: list[bytes | str] = [*tokenizer.unmerged_tokens()]
        strays += [token for token, token_id in special_ids.items() if tokenizer._special_ids[token] != token_id]
        if strays:
            problem = "holds vocab.json, merges.txt and tokenizer.json of different trainings"
            problem += f" (the token {short_repr(strays[0])} is not in all of them)"
            raise InputError(folder, problem, "train the tokenizer again")
        return tokenizer

    @property
    def merged_tokens(self) -> list[bytes]:
        """Results of all merges, in order."""
        return [left + right for left, right in self.merges]

    def unmerged_tokens(self) -> list[bytes]:
        """Return the tokens that are neither bytes, special tokens nor results of a merge."""
        tokens = {bytes([byte]) for byte in range(256)} | set(map(encode_utf8, self.special_tokens))
        tokens.update(self.merged_tokens)
        return [token for token in self.vocab.values() if token not in tokens]

    def save(self, folder: str | Path) -> None:
        """Write vocab.json, merges.txt (GPT-2's format), tokenizer.json (Hugging Face) and ranks.tiktoken to a folder.

        tiktoken.Encoding takes the last one with PATTERN, and the special tokens with their ids separately.
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
        """Map the tokens in GPT-2's format to their ids."""
        return {bytes_to_unicode(token): token_id for token_id, token in sorted(self.vocab.items())}

    def _merge_names(self) -> list[tuple[str, str]]:
        """List the merges in GPT-2's format."""
        return [(bytes_to_unicode(left), bytes_to_unicode(right)) for left, right in self.merges]

    def _tiktoken(self) -> bytes:
        """Return the file for `tiktoken.load.load_tiktoken_bpe`: each token in base64 and its rank, one a line."""
        specials = set(self._special_ids.values())
        ranks = [(token_id, token) for token_id, token in sorted(self.vocab.items()) if token_id not in specials]
        return b"".join(b"%s %d\n" % (b64encode(token), token_id) for token_id, token in ranks)

    def to_huggingface(self) -> dict[str, Any]:
        """Return the JSON value that `tokenizers.Tokenizer.from_file` reads; that tokenizer gives the same ids."""
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


def save_tokenizer(
    vocabulary: Vocabulary, folder: str | Path, count: StageCost, merge: StageCost, **facts: Any
) -> TokenizerTraining:
    """Save a vocabulary in a folder, with a training.json of its costs and of further `facts`; return the latter."""
    started = time.perf_counter()
    vocabulary.save(folder)
    costs = {"count": count, "merge": merge, "save": cost_since(started)}
    training = TokenizerTraining(
        vocab_size=vocabulary.vocab_size,
        merges=len(vocabulary.merges),
        special_tokens=tuple(vocabulary.special_tokens),
        sha256=vocabulary.sha256,
        stages=TrainingStages(**costs),
        wall_seconds=sum(cost.wall_seconds for cost in costs.values()),
        peak_memory_bytes=max(cost.peak_memory_bytes for cost in costs.values()),
        **facts,
    )
    training.write(Path(folder) / "training.json")
    return training


def cost_since(started: float) -> StageCost:
    """Return the cost of a stage that began at `started`, in seconds of time.perf_counter."""
    return StageCost(wall_seconds=time.perf_counter() - started, peak_memory_bytes=peak_memory_bytes())


def check_vocab(vocab: Mapping[int, bytes]) -> dict[int, bytes]:
    """Return a copy of a vocabulary; raise InputError if it is anything but ids and bytes."""
    require_type("vocab", vocab, Mapping, "a dict of ids and bytes; from_files reads files")
    for token_id, token in vocab.items():
        if not isinstance(token_id, Integral) or not isinstance(token, bytes):
            problem = f"contains {short_repr(token_id)}: {short_repr(token)}"
            raise InputError("vocab", problem, "pass a dict of ids and bytes, such as {0: b'a'}")
    return {int(token_id): token for token_id, token in vocab.items()}


def check_merges(merges: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return merges as a list; raise InputError if they are anything but pairs of bytes."""
    require_type("merges", merges, Iterable, "a list of pairs of bytes")
    pairs = []
    for merge in merges:
        if not isinstance(merge, Sequence) or len(merge) != 2 or not all(isinstance(part, bytes) for part in merge):
            raise InputError("merges", f"contain {short_repr(merge)}", "pass pairs of bytes, such as (b'a', b'b')")
        pairs.append((merge[0], merge[1]))
    return pairs


def bytes_to_unicode(token: bytes) -> str:
    r"""Write a token in GPT-2's byte-to-unicode format, which has neither spaces nor line ends.

    >>> bytes_to_unicode(b" a\n")
    'ĠaĊ'
    """
    return token.decode("latin-1").translate(BYTE_TO_CHARACTER)


def unicode_to_bytes(name: str, where: str | Path) -> bytes:
    """Read a token in GPT-2's byte-to-unicode format; `where` names its place in an InputError."""
    try:
        return bytes(map(CHARACTER_TO_BYTE.__getitem__, name))
    except KeyError as error:
        problem = f"{short_repr(name)} contains {error.args[0]!r}, which is not a character of GPT-2's format"
        raise InputError(where, problem, RETRAIN) from None


# --- reading


def read_vocab(path: str | Path, special_tokens: Sequence[str]) -> dict[int, bytes]:
    """Read vocab.json, a map of tokens to ids; the names of special tokens may be plain text."""
    names = read_json(path)
    if not isinstance(names, dict):
        raise InputError(path, "is not a JSON object of tokens and ids", RETRAIN)
    vocab: dict[int, bytes] = {}
    for name, token_id in names.items():
        if type(token_id) is not int or not 0 <= token_id < MAX_VOCAB_SIZE or token_id in vocab:
            problem = f"{short_repr(name)} has the id {short_repr(token_id)}"
            raise InputError(path, f"{problem}, which is not a unique number below {MAX_VOCAB_SIZE}", RETRAIN)
        try:
            vocab[token_id] = unicode_to_bytes(name, path)
        except InputError:
            if name not in special_tokens:
                raise
            vocab[token_id] = encode_utf8(name)
    return vocab


def read_merges(path: str | Path) -> list[tuple[bytes, bytes]]:
    """Read merges.txt, one merge a line: two tokens in GPT-2's format, separated by a space."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(path, "is missing", "train the tokenizer first") from None
    except UnicodeDecodeError as error:
        raise InputError(path, f"is not UTF-8 ({error})", RETRAIN) from None
    merges: dict[tuple[bytes, bytes], None] = {}
    for number, line in enumerate(lines, start=1):
        where = f"{path}: line {number}"
        if line.strip() and not (number == 1 and line.startswith("#version")):
            names = line.split(" ")
            if len(names) != 2 or not all(names):
                raise InputError(where, f"is not two tokens and a space: {short_repr(line)}", RETRAIN)
            left, right = (unicode_to_bytes(name, where) for name in names)
            if (left, right) in merges:
                raise InputError(where, f"repeats the merge {line!r}", RETRAIN)
            merges[left, right] = None
    return list(merges)
