"""Text metrics: share of words known from the training text, variety of words, and repetition of phrases."""

from collections.abc import Sequence
from heapq import nlargest
from itertools import islice
from pathlib import Path
from statistics import fmean, median
from typing import Self

import regex
from pydantic import model_validator

from lmpipe.io.documents import Document
from lmpipe.tokenizer.pretokenizer import documents

WORD = regex.compile(r"[\p{L}\p{M}']+")
# The vocabulary of a text is complete long before that; reading all of a large corpus would take minutes.
MAX_TRAINING_BYTES = 200_000_000
MAX_HELD_OUT_DOCUMENTS = 50
METRICS = ("known_word_share", "distinct_1", "distinct_2", "distinct_3", "repeated_4gram_share")


class TextMetrics(Document):
    """Metrics of a text; a share of nothing is null."""

    words: int
    """Number of words."""
    known_word_share: float | None
    """Share of the words that occur in the training text."""
    distinct_1: float | None
    """Share of different words (Li et al. 2016, section 5.2)."""
    distinct_2: float | None
    """Share of different word pairs."""
    distinct_3: float | None
    """Share of different three-word phrases."""
    repeated_4gram_share: float | None
    """Share of the four-word phrases that occurred earlier in the same text."""

    @model_validator(mode="after")
    def check_shares(self) -> Self:
        """Refuse shares of no words."""
        if not self.words and any(getattr(self, name) is not None for name in METRICS):
            raise ValueError("words is 0, although there are shares of words; generate the samples again")
        return self


class HeldOutMetrics(TextMetrics):
    """Mean metrics of held-out documents, cut to the samples' median length; `words` is their mean length."""

    documents: int
    """Number of documents."""


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case: runs of letters and apostrophes.

    >>> split_words("Don't stop, Zoë!")
    ["don't", 'stop', 'zoë']
    """
    return WORD.findall(text.lower().replace("’", "'"))


def distinct_share(words: Sequence[str], n: int) -> float | None:
    """Return the share of different n-grams among all (Li et al. 2016, section 5.2); None if there are none.

    >>> distinct_share(["a", "b", "a", "b"], 2)
    0.666...
    """
    ngrams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
    return len(set(ngrams)) / len(ngrams) if ngrams else None


def text_metrics(words: Sequence[str], vocabulary: set[str]) -> TextMetrics:
    """Return the metrics of a text from its words; `vocabulary` is that of the training text."""
    distinct_4 = distinct_share(words, 4)
    return TextMetrics(
        words=len(words),
        known_word_share=sum(word in vocabulary for word in words) / len(words) if words else None,
        distinct_1=distinct_share(words, 1),
        distinct_2=distinct_share(words, 2),
        distinct_3=distinct_share(words, 3),
        repeated_4gram_share=None if distinct_4 is None else 1 - distinct_4,
    )


def unknown_words(text: str, vocabulary: set[str]) -> tuple[str, ...]:
    """Return the words of a text that are not in a vocabulary, each once, in the order of the text.

    >>> unknown_words("The fox saw a zorp, a Zorp!", {"the", "fox", "saw", "a"})
    ('zorp',)
    """
    return tuple(dict.fromkeys(word for word in split_words(text) if word not in vocabulary))


def training_vocabulary(path: str | Path, max_bytes: int = MAX_TRAINING_BYTES) -> set[str]:
    """Return the words of the documents in the first `max_bytes` of a training text."""
    vocabulary: set[str] = set()
    read_bytes = 0
    for document in documents(path):
        vocabulary.update(split_words(document.decode("utf-8", "replace")))
        read_bytes += len(document)
        if read_bytes >= max_bytes:
            break
    return vocabulary


def held_out_metrics(path: str | Path, sample_words: Sequence[int], vocabulary: set[str]) -> HeldOutMetrics:
    """Return the mean metrics of held-out documents, cut to the median of `sample_words`, because length matters.

    Takes the first documents that are long enough; if there are none, the longest ones.
    """
    length = max(4, round(median(sample_words)))
    texts = (split_words(document.decode("utf-8", "replace")) for document in documents(path))
    selected = list(islice((words[:length] for words in texts if len(words) >= length), MAX_HELD_OUT_DOCUMENTS))
    if not selected:
        texts = (split_words(document.decode("utf-8", "replace")) for document in documents(path))
        selected = nlargest(MAX_HELD_OUT_DOCUMENTS, texts, key=len)
    metrics = [text_metrics(words, vocabulary) for words in selected]
    values = {name: [value for m in metrics if (value := getattr(m, name)) is not None] for name in METRICS}
    return HeldOutMetrics(
        documents=len(selected),
        words=round(fmean(map(len, selected))) if selected else 0,
        **{name: fmean(shares) if shares else None for name, shares in values.items()},
    )
