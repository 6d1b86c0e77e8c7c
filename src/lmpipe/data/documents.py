"""JSON documents of the data package, not beside their writers, so that reading one loads no compiled code."""

from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from lmpipe.io.documents import Document


class SplitInfo(Document):
    """Size of one split of a corpus."""

    bytes: PositiveInt
    """Bytes of text, with delimiters."""
    documents: PositiveInt
    """Number of delimiters."""
    sha256: str
    """SHA-256 of the file."""


class CorpusSplits(Document):
    """The splits of a corpus."""

    train: SplitInfo
    """train.txt."""
    valid: SplitInfo
    """valid.txt."""


class CorpusInfo(Document):
    """Origin and sizes of a corpus (corpora/CORPUS/corpus.json)."""

    corpus: str
    """Name of the corpus."""
    source: Literal["stories", "docstrings", "url"]
    """Kind of source."""
    settings: dict[str, Any]
    """Settings of the study that decide its text."""
    splits: CorpusSplits
    """Sizes of train.txt and valid.txt."""
    versions: dict[str, str]
    """Versions of the packages that were read."""


class TokenizerReference(Document):
    """The tokenizer of a token file."""

    name: str
    """Name of the tokenizer."""
    sha256: str
    """SHA-256 of vocabulary, merges and special tokens."""


class TokenFileInfo(Document):
    """Description of a token file (tokens/TOKENIZER/SPLIT.json).

    A whole text is shard 0 of 1. Only a shard can be empty.
    """

    tokens: NonNegativeInt
    """Number of ids."""
    dtype: Literal["uint16", "uint32"]
    """Type of the ids, little endian."""
    max_id: NonNegativeInt | None
    """Largest id; null if there is none."""
    sha256: str
    """SHA-256 of the ids."""
    text_bytes: NonNegativeInt
    """Bytes of text that were encoded."""
    vocab_size: PositiveInt
    """Number of ids of the tokenizer."""
    tokenizer: TokenizerReference
    """The tokenizer."""
    unigram_entropy: NonNegativeFloat
    """Entropy of the ids in nats per token."""
    shard: NonNegativeInt = 0
    """Number of the shard, from 0."""
    num_shards: PositiveInt = 1
    """Number of shards of the text."""
