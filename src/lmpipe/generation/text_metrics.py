"""Figures of fluency: how many words of a text are known, how varied they are, and how often phrases come again."""

from collections.abc import Iterable, Sequence
from heapq import nlargest
from itertools import islice
from pathlib import Path
from statistics import fmean, median
from typing import Any

import regex

from lmpipe.tokenizer.pretokenizer import documents

WORD = regex.compile(r"[\p{L}\p{M}']+")
# A vocabulary of words is complete long before that; reading all of a large corpus would take minutes.
TRAINING_BYTES = 200_000_000
REFERENCE_DOCUMENTS = 50
FIGURES = ("known_word_share", "distinct_1", "distinct_2", "distinct_3", "repeated_4gram_share")


def words_of(text: str) -> list[str]:
    """The words of a text in lower case: runs of letters and apostrophes.

    >>> words_of("Don't stop, Zoë!")
    ["don't", 'stop', 'zoë']
    """
    return WORD.findall(text.lower().replace("’", "'"))


def distinct_share(words: Sequence[str], length: int) -> float | None:
    """Different n-grams of a length among all of them (Li et al. 2016, section 5.2); None where there are none.

    >>> distinct_share(["a", "b", "a", "b"], 2)
    0.666...
    """
    grams = [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]
    return len(set(grams)) / len(grams) if grams else None


def figures_of(text: str, known: set[str]) -> dict[str, Any]:
    """The figures of one text; `known` are the words of the training text. A share of nothing is None.

    repeated_4gram_share is the share of 4-grams that were there before in the same text.
    """
    return word_figures(words_of(text), known)


def word_figures(words: Sequence[str], known: set[str]) -> dict[str, Any]:
    """As `figures_of`, for the words of a text."""
    distinct_4 = distinct_share(words, 4)
    return {
        "words": len(words),
        "known_word_share": sum(word in known for word in words) / len(words) if words else None,
        **{f"distinct_{length}": distinct_share(words, length) for length in (1, 2, 3)},
        "repeated_4gram_share": None if distinct_4 is None else 1 - distinct_4,
    }


def mean_figures(records: Iterable[dict[str, Any]]) -> dict[str, float | None]:
    """The mean of each figure over the records that have it."""
    records = list(records)
    values = {name: [record[name] for record in records if record[name] is not None] for name in FIGURES}
    return {name: fmean(found) if found else None for name, found in values.items()}


def known_words(path: str | Path, limit_bytes: int = TRAINING_BYTES) -> tuple[set[str], int]:
    """The words of a training text, and how many bytes of documents were read for them."""
    known: set[str] = set()
    read_bytes = 0
    for document in documents(path):
        known.update(words_of(document.decode("utf-8", "replace")))
        read_bytes += len(document)
        if read_bytes >= limit_bytes:
            break
    return known, read_bytes


def held_out_figures(path: str | Path, sample_words: Sequence[int], known: set[str]) -> dict[str, Any]:
    """The mean figures of held-out documents, cut to the samples' median length, because figures depend on length.

    Takes the first documents of at least that length; where there is none, the longest ones.
    """
    length = max(4, round(median(sample_words)))
    texts = (words_of(document.decode("utf-8", "replace")) for document in documents(path))
    chosen = list(islice((words[:length] for words in texts if len(words) >= length), REFERENCE_DOCUMENTS))
    if not chosen:
        texts = (words_of(document.decode("utf-8", "replace")) for document in documents(path))
        chosen = nlargest(REFERENCE_DOCUMENTS, texts, key=len)
    mean_words = fmean(len(words) for words in chosen) if chosen else 0
    figures = mean_figures(word_figures(words, known) for words in chosen)
    return {"documents": len(chosen), "words": round(mean_words), **figures}
