"""JSON documents of the tokenizer package, not beside their writers, so that reading one loads no compiled code."""

from itertools import product
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from lmpipe.io.documents import Document

TokenKind = Literal[
    "word",
    "joined words",
    "number",
    "punctuation",
    "repetition",
    "white space",
    "mixed",
    "mojibake",
    "not valid UTF-8",
]


class PretokenShard(Document):
    """Size and cost of the pre-token counts of one shard (pretokens/CORPUS/SHARD.json)."""

    bytes: NonNegativeInt
    """Bytes of text in the shard."""
    pretokens: NonNegativeInt
    """Pre-tokens, repetitions included."""
    unique_pretokens: NonNegativeInt
    """Different pre-tokens."""
    wall_seconds: NonNegativeFloat
    """Duration of counting."""
    compile_seconds: NonNegativeFloat
    """Time to compile or load kernels before that."""
    peak_memory_bytes: NonNegativeInt
    """Peak memory of the process."""


class StageCost(Document):
    """Cost of one stage of a tokenizer's training."""

    wall_seconds: NonNegativeFloat
    """Duration; of counting, the sum over all shards."""
    peak_memory_bytes: NonNegativeInt
    """Peak memory of a process."""


class TrainingStages(Document):
    """Costs of a tokenizer's training by stage."""

    count: StageCost
    """Counting the pre-tokens."""
    merge: StageCost
    """Merging pairs."""
    save: StageCost
    """Writing the vocabulary."""


class TokenizerTraining(Document):
    """Sizes and costs of a tokenizer's training (tokenizers/TOKENIZER/training.json)."""

    tokenizer: str
    """Name of the tokenizer."""
    corpus: str
    """Corpus that it was trained on."""
    vocab_size: PositiveInt
    """Number of ids."""
    merges: NonNegativeInt
    """Number of merges."""
    special_tokens: tuple[str, ...]
    """Special tokens."""
    sha256: str
    """SHA-256 of vocabulary, merges and special tokens."""
    stages: TrainingStages
    """Costs by stage."""
    wall_seconds: PositiveFloat
    """Duration of all stages."""
    compile_seconds: NonNegativeFloat
    """Time to compile or load kernels, which no stage includes."""
    peak_memory_bytes: NonNegativeInt
    """Largest peak memory of a stage."""
    bytes: NonNegativeInt
    """Bytes of training text."""
    pretokens: NonNegativeInt
    """Pre-tokens, repetitions included."""
    unique_pretokens: NonNegativeInt
    """Different pre-tokens."""
    existing: str | None = None
    """File of the tokenizer if it was imported; null if it was trained."""


# --- evaluation


class DocumentSample(Document):
    """Documents drawn from the validation text of a corpus."""

    documents: PositiveInt
    """Number of documents."""
    bytes: PositiveInt
    """Bytes of all of them, without delimiters."""


class Compression(Document):
    """Compression of one corpus by one tokenizer."""

    tokenizer: str
    """Name of the tokenizer."""
    corpus: str
    """Name of the corpus."""
    in_domain: bool
    """True if the tokenizer was trained on this corpus."""
    sample_tokens: PositiveInt
    """Tokens of the sampled documents."""
    sample_bytes_per_token: PositiveFloat
    """Bytes of the sampled documents for each token."""
    valid_tokens: PositiveInt
    """Tokens of the validation text."""
    valid_bytes_per_token: PositiveFloat
    """Bytes of the validation text, with delimiters, for each token."""
    largest_id: NonNegativeInt
    """Largest id in the validation text."""
    frequencies: dict[str, PositiveInt]
    """Occurrences in the validation text of the tokens at ranks 1, 2, 3, 4, 6, 8, ..., the most frequent first."""
    round_trip: bool
    """True if decoding gives the sampled documents back."""


class Throughput(Document):
    """Encoding speed on one core."""

    bytes: PositiveInt
    """Bytes of text that were encoded."""
    seconds: tuple[PositiveFloat, ...]
    """Duration of each pass, with an empty cache."""
    bytes_per_second: PositiveFloat
    """Speed of the median pass."""


class LongToken(Document):
    """One of the longest tokens."""

    text: str
    """Token as printable text."""
    bytes: PositiveInt
    """Length in bytes."""
    id: NonNegativeInt
    """Token id."""
    parts: tuple[str, str]
    """The two tokens that were merged."""
    kind: TokenKind
    """Kind of token."""
    occurrences: NonNegativeInt
    """Occurrences of its bytes in the training text."""
    excerpt: str
    """Surroundings of the first occurrence."""


class VocabularyProfile(Document):
    """Speed and vocabulary of one tokenizer."""

    corpus: str
    """Corpus that it was trained on."""
    vocab_size: PositiveInt
    """Number of ids."""
    sha256: str
    """SHA-256 of vocabulary, merges and special tokens."""
    throughput: Throughput
    """Encoding speed."""
    pile_seconds: PositiveFloat
    """Estimated duration of encoding The Pile on one core."""
    largest_id: NonNegativeInt
    """Largest id in the validation texts and, if it is encoded, the training text."""
    merges: NonNegativeInt
    """Number of merged tokens."""
    mean_length: PositiveFloat | None
    """Mean length of the merged tokens in bytes; null without merges."""
    lengths: dict[str, PositiveInt]
    """Number of merged tokens by their length in bytes."""
    compression_by_merges: dict[str, PositiveFloat]
    """Bytes per token of the validation text (its first documents) after the first 16, 32, 64, ..., and all merges."""
    kinds: dict[TokenKind, PositiveInt]
    """Number of merged tokens by kind."""
    longest_tokens: tuple[LongToken, ...]
    """The longest merged tokens."""


class VocabularyOverlap(Document):
    """Merged tokens that two tokenizers share."""

    first: str
    """Name of the first tokenizer."""
    second: str
    """Name of the second tokenizer."""
    shared: NonNegativeInt
    """Number of shared tokens."""


class TokenizerEvaluation(Document):
    """Measurements of every tokenizer on every corpus (tokenizer_experiments.json)."""

    seed: int
    """Seed of the document samples."""
    pile_bytes: PositiveInt
    """Bytes of The Pile (Gao et al. 2020)."""
    corpora: dict[str, DocumentSample]
    """Sampled documents by corpus."""
    compression: tuple[Compression, ...]
    """One row for each tokenizer and corpus."""
    tokenizers: dict[str, VocabularyProfile]
    """Speed and vocabulary by tokenizer."""
    overlaps: tuple[VocabularyOverlap, ...]
    """One row for each pair of tokenizers."""

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        pairs = [(row.tokenizer, row.corpus) for row in self.compression]
        if not pairs or sorted(pairs) != sorted(product(self.tokenizers, self.corpora)):
            raise ValueError("compression does not have one row for each tokenizer and corpus")
        return self


# --- Unicode


class Statement(Document):
    """One statement of an interactive session."""

    code: str
    """Source code."""
    output: str
    """Printed text, value or exception."""


class NullCharacter(Document):
    """Behaviour of chr(0)."""

    session: tuple[Statement, ...]
    """Statements and their output."""
    representation: str
    """Its repr."""
    printed: str
    """Output of print."""
    joined_representation: str
    """Repr of a text that contains it."""
    joined_printed: str
    """Output of print for that text."""
    joined_length: NonNegativeInt
    """Length of that text in characters."""
    category: str
    """Unicode category."""
    unicode_name_is_null: bool
    """True if Unicode's name for it is NULL."""


Encoding = Literal["UTF-8", "UTF-16", "UTF-32"]


class EncodedSize(Document):
    """Size of a sample in one encoding."""

    bytes: PositiveInt
    """Number of bytes."""
    bytes_per_character: PositiveFloat
    """Bytes divided by characters."""
    zero_share: NonNegativeFloat
    """Fraction of zero bytes."""


class EncodedSample(Document):
    """A sentence in several encodings."""

    script: str
    """Language or script."""
    text: str
    """The sentence."""
    characters: PositiveInt
    """Number of characters."""
    encodings: Annotated[dict[Encoding, EncodedSize], Field(min_length=len(get_args(Encoding)))]
    """Sizes by encoding; each encoding has one."""


class EncodingComparison(Document):
    """Sizes of texts in UTF-8, UTF-16 and UTF-32."""

    code: str
    """Function that measures them."""
    samples: tuple[EncodedSample, ...]
    """Sentences in several scripts."""


class BytewiseDecoder(Document):
    """Failure of a decoder that decodes each byte alone."""

    session: tuple[Statement, ...]
    """Statements and their output."""
    input: str
    """First word that fails."""
    characters_failing: NonNegativeInt
    """Unicode characters that fail."""
    first_failing_code_point: NonNegativeInt
    """Code point of the first one."""


class DecoderVerdict(Document):
    """Two-byte sequences that fail for one reason."""

    reason: str
    """Reason of the UnicodeDecodeError."""
    sequences: PositiveInt
    """Number of sequences."""
    example: str
    """First of them, in hexadecimal."""


class TwoByteSequences(Document):
    """Decoding of every sequence of two bytes as UTF-8."""

    session: tuple[Statement, ...]
    """Statements and their output."""
    example: str
    """A sequence that is not valid, in hexadecimal."""
    example_reason: str
    """Reason of its UnicodeDecodeError."""
    sequences: PositiveInt
    """Number of sequences."""
    valid: NonNegativeInt
    """Number that decode."""
    invalid: NonNegativeInt
    """Number that do not."""
    reasons: tuple[DecoderVerdict, ...]
    """The invalid ones by reason."""


class UnicodeDemo(Document):
    """Demonstrations of Unicode and its encodings (unicode.json)."""

    python: str
    """Version of Python."""
    null: NullCharacter
    """The null character."""
    encodings: EncodingComparison
    """UTF-8, UTF-16 and UTF-32 compared."""
    bytewise_decoder: BytewiseDecoder
    """Failure of a decoder that decodes each byte alone."""
    two_byte_sequences: TwoByteSequences
    """All sequences of two bytes."""
