"""Existing tokenizers in place of trained ones: byte-level BPE with GPT-2's pattern."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from lmpipe.errors import InputError
from lmpipe.io.documents import Document
from lmpipe.io.files import read_json
from lmpipe.io.validation import short_repr, show
from lmpipe.tokenizer.documents import StageCost, TokenizerTraining
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT, encode_utf8
from lmpipe.tokenizer.vocabulary import AddedToken, Vocabulary, save_tokenizer, unicode_to_bytes

UNLIKE = "use a byte-level BPE tokenizer with GPT-2's pattern, or train one"


# Values, of settings on which ids depend, in byte-level BPE with GPT-2's pattern; None stands for a missing one.
SETTINGS = {
    ("normalizer",): (None,),
    ("pre_tokenizer", "type"): ("ByteLevel",),
    ("pre_tokenizer", "add_prefix_space"): (False,),
    ("pre_tokenizer", "use_regex"): (True, None),
    ("model", "type"): ("BPE", None),
    ("model", "dropout"): (None,),
    ("model", "continuing_subword_prefix"): (None, ""),
    ("model", "end_of_word_suffix"): (None, ""),
    ("model", "byte_fallback"): (False, None),
    ("model", "ignore_merges"): (False, None),
}
TOKEN_SETTINGS = ("lstrip", "rstrip", "single_word")  # false for each special token


class BPEModel(Document, extra="ignore"):
    """Vocabulary and merges of a BPE tokenizer."""

    vocab: dict[str, int]
    """Ids of tokens in GPT-2's byte-to-unicode format."""
    merges: tuple[tuple[str, str] | str, ...]
    """Pairs of tokens, or texts of two tokens with a space between them."""


class ExistingTokenizer(Document, extra="ignore"):
    """Tokens and merges of a Hugging Face tokenizer file."""

    model: BPEModel
    """Vocabulary and merges."""
    added_tokens: Annotated[tuple[AddedToken, ...], Field(default_factory=tuple)]
    """Special tokens."""


def check_settings(content: dict[str, Any], where: Path) -> None:
    """Raise InputError unless a Hugging Face tokenizer file is for byte-level BPE with GPT-2's pattern."""
    for path, values in SETTINGS.items():
        value: Any = content
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value not in values:
            raise InputError(where, f"{'.'.join(path)} is {show(value)}", UNLIKE)
    for token in content.get("added_tokens", ()):
        if key := next(filter(token.get, TOKEN_SETTINGS), None):
            raise InputError(where, f"{key} of the token {short_repr(token['content'])} is true", UNLIKE)


def tokenizer_files(path: str | Path) -> list[Path]:
    """Return the files of a tokenizer: a tokenizer.json, or that of a folder, or its vocab.json and merges.txt.

    Raises InputError if there are none.
    """
    path = Path(path)
    in_folder = [[path / "tokenizer.json"], [path / "vocab.json", path / "merges.txt"]]
    for files in [[path]] if path.suffix == ".json" else in_folder:
        if all(map(os.path.isfile, files)):
            return files
    remedy = "name a tokenizer.json, or a folder with it or with vocab.json and merges.txt"
    raise InputError(path, "is no tokenizer" if path.exists() else "is missing", remedy)


def read_tokenizer(files: Sequence[str | Path]) -> Vocabulary:
    """Read one tokenizer.json, or vocab.json and merges.txt; a missing end of text is added as the last id.

    Raises InputError if the files are damaged, or if the tokenizer is not byte-level BPE with GPT-2's pattern.
    """
    where = Path(files[0])
    if len(files) == 2:
        vocabulary = Vocabulary.from_files(*files, [END_OF_TEXT])
    else:
        existing = ExistingTokenizer.read(where, UNLIKE)
        check_settings(read_json(where), where)
        specials = {token.content: token.id for token in existing.added_tokens}
        names = existing.model.vocab.items()
        vocab = {token_id: unicode_to_bytes(name, where) for name, token_id in names if name not in specials}
        vocab |= {token_id: encode_utf8(token) for token, token_id in specials.items()}
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in existing.model.merges]
        if any(len(merge) != 2 for merge in merges):
            raise InputError(where, "has a merge that is not two tokens", UNLIKE)
        pairs = [(unicode_to_bytes(left, where), unicode_to_bytes(right, where)) for left, right in merges]
        try:
            vocabulary = Vocabulary(vocab, pairs, list(dict.fromkeys([*specials, END_OF_TEXT])))
        except InputError as error:
            raise InputError(where, f"the {error.where} {error.problem}", UNLIKE) from None
    if strays := vocabulary.unmerged_tokens():
        raise InputError(where, f"has the token {short_repr(strays[0])}, which no merge makes", UNLIKE)
    return vocabulary


def check_vocab_size(vocabulary: Vocabulary, path: str | Path, vocab_size: int) -> None:
    """Raise InputError unless a vocabulary has `vocab_size` ids."""
    if vocabulary.vocab_size != vocab_size:
        problem = f"has {vocabulary.vocab_size:,} ids with {END_OF_TEXT}, but vocab_size is {vocab_size:,}"
        raise InputError(path, problem, f"use vocab_size: {vocabulary.vocab_size}")


def import_tokenizer(
    files: Sequence[str | Path], folder: str | Path, name: str, corpus: str, vocab_size: int
) -> TokenizerTraining:
    """Save an existing tokenizer in a folder, with a training.json; raise InputError if it has not `vocab_size` ids."""
    vocabulary = read_tokenizer(files)
    check_vocab_size(vocabulary, files[0], vocab_size)
    nothing = StageCost(wall_seconds=0.0, peak_memory_bytes=0)
    return save_tokenizer(
        vocabulary,
        folder,
        count=nothing,
        merge=nothing,
        tokenizer=name,
        corpus=corpus,
        compile_seconds=0.0,
        bytes=0,
        pretokens=0,
        unique_pretokens=0,
        existing=str(files[0]),
    )
