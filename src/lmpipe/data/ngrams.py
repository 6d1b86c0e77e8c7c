"""Interpolated Witten-Bell n-gram tables of token ids, counted with sorted arrays instead of dictionaries.

With c(h, w) occurrences of token w after the context h, c(h) of any token and T(h) different tokens after h,

    p(w | h) = (c(h, w) + T(h) p(w | h')) / (c(h) + T(h))

where h' is h without its first token, p after no context at all is 1 / vocab_size, and p(w | h) = p(w | h') if nothing
follows h (Witten and Bell 1991, method C; Chen and Goodman 1998, section 2.4).
"""

from collections.abc import Iterator

import numpy as np

MAX_ORDER = 5
UNSEEN = -1


class NgramTable:
    """Counts of the n-grams of one order, which continue those of the order below.

    An n-gram is a number: the index of its key, (number of its context) * vocab_size + last token, among all keys.
    """

    def __init__(self, contexts: np.ndarray, tokens: np.ndarray, num_contexts: int, vocab_size: int):
        """Count tokens (windows, n) after contexts (windows, n), given by their numbers below `num_contexts`."""
        self.vocab_size = vocab_size
        keys, ids, counts = np.unique(contexts * vocab_size + tokens, return_inverse=True, return_counts=True)
        self.keys, self.counts, self.ids = keys, counts, ids.reshape(tokens.shape)
        self.totals = np.bincount(keys // vocab_size, counts, num_contexts)
        self.types = np.bincount(keys // vocab_size, minlength=num_contexts)

    def find(self, contexts: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Return the numbers (n,) of the n-grams of contexts and tokens, both (n,); UNSEEN for those not counted."""
        keys = np.where(contexts == UNSEEN, UNSEEN, contexts * self.vocab_size + tokens)
        index = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return np.where(self.keys[index] == keys, index, UNSEEN)

    def probs(self, contexts: np.ndarray, ngrams: np.ndarray, lower_probs: np.ndarray) -> np.ndarray:
        """Interpolate the probabilities of the order below (n,) with the counts of n-grams in their contexts."""
        is_known = contexts != UNSEEN
        counts = np.where(ngrams == UNSEEN, 0, self.counts[ngrams])
        totals, types = (np.where(is_known, array[contexts], 0) for array in (self.totals, self.types))
        mixed = (counts + types * lower_probs) / np.maximum(totals + types, 1)
        return np.where(totals > 0, mixed, lower_probs)


def count_ngrams(windows: np.ndarray, vocab_size: int, max_order: int = MAX_ORDER) -> list[NgramTable]:
    """Count the n-grams of orders 1 to `max_order` inside windows of token ids (windows, length)."""
    tokens = windows.astype(np.int64)
    tables = [NgramTable(np.zeros_like(tokens), tokens, 1, vocab_size)]
    for _ in range(2, min(max_order, tokens.shape[1]) + 1):
        tokens, below = tokens[:, 1:], tables[-1]
        tables.append(NgramTable(below.ids[:, :-1], tokens, len(below.keys), vocab_size))
        del below.ids
    return tables


def ngram_probs(tables: list[NgramTable], tokens: np.ndarray) -> Iterator[np.ndarray]:
    """Yield, for each order, the probabilities (n - 1,) of all token ids (n,) of a text but the first."""
    ids = tokens.astype(np.int64)
    contexts, probs = np.zeros(len(ids), np.int64), np.full(len(ids), 1 / tables[0].vocab_size)
    for table in tables:
        ngrams = table.find(contexts, ids)
        probs = table.probs(contexts, ngrams, probs)
        yield probs[1:]
        contexts = np.concatenate(([UNSEEN], ngrams[:-1]))
