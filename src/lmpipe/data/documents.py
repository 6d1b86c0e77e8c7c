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

    @property
    def valid_share(self) -> float:
        """Fraction of all bytes that are for validation."""
        return self.valid.bytes / (self.train.bytes + self.valid.bytes)


class CorpusInfo(Document):
    """Origin and sizes of a corpus (corpora/CORPUS/corpus.json)."""

    corpus: str
    """Name of the corpus."""
    source: Literal["stories", "docstrings", "files", "dataset"]
    """Kind of source."""
    settings: dict[str, Any]
    """Settings of the study that decide its text."""
    splits: CorpusSplits
    """Sizes of train.txt and valid.txt."""
    versions: dict[str, str]
    """Versions of the packages that were read."""
    files: NonNegativeInt = 0
    """Files that were read."""
    equal_files: NonNegativeInt = 0
    """Files that were left out, since they equal one that was read."""
    blank_records: NonNegativeInt = 0
    """Records without text, which were left out."""
    ngram_overlap: NonNegativeFloat | None = None
    """Fraction of the validation text's 13-grams of words that are in the training text; of large texts by a sample."""


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


class NgramLoss(Document):
    """Loss of an interpolated n-gram table on the validation split."""

    order: PositiveInt
    """n: 1 is a unigram table."""
    loss: NonNegativeFloat
    """Cross-entropy in nats per token."""
    bits_per_byte: NonNegativeFloat
    """The same in bits per byte of text."""


class NgramBudget(Document):
    """Losses of n-gram tables counted on windows at equal strides over the training split."""

    train_tokens: PositiveInt
    """Number of training tokens counted."""
    ngrams: tuple[NgramLoss, ...]
    """Losses by order, from 1 on."""


class Yardsticks(Document):
    """Losses of simple models on a corpus, to read a transformer's by (yardsticks/CORPUS.json)."""

    corpus: str
    """Name of the corpus."""
    tokenizer: str
    """Name of the tokenizer."""
    vocab_size: PositiveInt
    """Token ids."""
    valid_tokens: PositiveInt
    """Targets in the validation split."""
    valid_bytes: PositiveInt
    """Bytes of the validation text."""
    uniform_loss: NonNegativeFloat
    """ln(vocab_size): loss of equal probabilities, in nats per token."""
    budgets: tuple[NgramBudget, ...]
    """N-gram losses by number of training tokens."""
    xz_bits_per_byte: NonNegativeFloat
    """Compressed size of the validation text after training text, in bits per byte."""
