"""Existing tokenizers in place of trained ones: byte-level BPE with GPT-2's pattern."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from lmpipe.errors import InputError
from lmpipe.io.documents import Document
from lmpipe.io.validation import short_repr
from lmpipe.provenance.environment import peak_memory_bytes
from lmpipe.tokenizer.documents import StageCost, TokenizerTraining, TrainingStages
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT, encode_utf8
from lmpipe.tokenizer.vocabulary import AddedToken, Vocabulary, unicode_to_bytes

UNLIKE = "use a byte-level BPE tokenizer with GPT-2's pattern, or train one"


class PlainAddedToken(AddedToken):
    """A special token that takes no white space or word boundaries around it."""

    lstrip: Literal[False] = False
    """No white space before it belongs to it."""
    rstrip: Literal[False] = False
    """No white space after it belongs to it."""
    single_word: Literal[False] = False
    """It is found inside words, too."""


class BPEModel(Document, extra="ignore"):
    """Vocabulary and merges of a BPE tokenizer."""

    type: Literal["BPE"] = "BPE"
    """Kind of model; older files, such as that of GPT-2, leave it out."""
    vocab: dict[str, int]
    """Ids of tokens in GPT-2's byte-to-unicode format."""
    merges: tuple[tuple[str, str] | str, ...]
    """Pairs of tokens, or texts of two tokens with a space between them."""
    dropout: None = None
    """Merges are never left out."""
    continuing_subword_prefix: Literal[None, ""] = None
    """Tokens inside a word have no mark."""
    end_of_word_suffix: Literal[None, ""] = None
    """Tokens at the end of a word have no mark."""
    byte_fallback: Literal[False] = False
    """All bytes are tokens."""
    ignore_merges: Literal[False] = False
    """Words are merged even if they are tokens."""


class ByteLevel(Document, extra="ignore"):
    """GPT-2's pre-tokenizer."""

    type: Literal["ByteLevel"]
    """Kind of pre-tokenizer."""
    add_prefix_space: Literal[False]
    """No space is added before the text."""
    use_regex: Literal[True] = True
    """GPT-2's pattern splits the text."""


class ExistingTokenizer(Document, extra="ignore"):
    """A Hugging Face tokenizer file with byte-level BPE."""

    normalizer: None = None
    """The text is not changed before it is split."""
    pre_tokenizer: ByteLevel
    """Split into pre-tokens."""
    model: BPEModel
    """Vocabulary and merges."""
    added_tokens: Annotated[tuple[PlainAddedToken, ...], Field(default_factory=tuple)]
    """Special tokens."""


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
    started = time.perf_counter()
    vocabulary = read_tokenizer(files)
    check_vocab_size(vocabulary, files[0], vocab_size)
    vocabulary.save(folder)
    seconds, memory = time.perf_counter() - started, peak_memory_bytes()
    nothing = StageCost(wall_seconds=0.0, peak_memory_bytes=0)
    save = StageCost(wall_seconds=seconds, peak_memory_bytes=memory)
    training = TokenizerTraining(
        tokenizer=name,
        corpus=corpus,
        vocab_size=vocabulary.vocab_size,
        merges=len(vocabulary.merges),
        special_tokens=tuple(vocabulary.special_tokens),
        sha256=vocabulary.sha256,
        stages=TrainingStages(count=nothing, merge=nothing, save=save),
        wall_seconds=seconds,
        compile_seconds=0.0,
        peak_memory_bytes=memory,
        bytes=0,
        pretokens=0,
        unique_pretokens=0,
        existing=str(files[0]),
    )
    training.write(Path(folder) / "training.json")
    return training
