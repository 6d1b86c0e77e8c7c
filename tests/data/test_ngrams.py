from collections import Counter, defaultdict
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmpipe.data.ngrams import MAX_ORDER, count_ngrams, ngram_probs


def dict_probs(windows, vocab_size, text, max_order):
    """Return Witten-Bell probabilities by order of the tokens of a text but the first, from dictionaries."""
    followers = defaultdict(Counter)
    for window, order in product(windows.tolist(), range(1, max_order + 1)):
        for start in range(len(window) - order + 1):
            *context, token = window[start : start + order]
            followers[tuple(context)][token] += 1

    def prob(context, token):
        lower = prob(context[1:], token) if context else 1 / vocab_size
        counts = followers.get(context)
        if not counts:
            return lower
        return (counts[token] + len(counts) * lower) / (counts.total() + len(counts))

    tokens = text.tolist()
    return [
        [prob(tuple(tokens[max(0, i - order + 1) : i]), tokens[i]) for i in range(1, len(tokens))]
        for order in range(1, max_order + 1)
    ]


def zipf_tokens(count, vocab_size, seed):
    """Draw token ids of which few are frequent, so that long n-grams repeat."""
    return np.random.default_rng(seed).zipf(1.4, count) % vocab_size


def test_losses_are_those_of_dictionaries():
    windows, text = zipf_tokens(5000, 300, seed=0).reshape(20, 250), zipf_tokens(3000, 300, seed=1)
    fast = list(ngram_probs(count_ngrams(windows, 300), text.astype(np.uint16)))
    expected = dict_probs(windows, 300, text, MAX_ORDER)
    assert len(fast) == MAX_ORDER
    for probs, others in zip(fast, expected, strict=True):
        assert -np.log(probs).mean() == pytest.approx(-np.log(others).mean(), abs=1e-9)
        np.testing.assert_allclose(probs, others, rtol=1e-12)


@given(
    st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=1, max_size=5),
    st.lists(st.integers(0, 4), min_size=1, max_size=7),
)
def test_probabilities_sum_to_one_after_any_context(windows, context):
    tables = count_ngrams(np.array(windows), 5)
    last = [[probs[-1] for probs in ngram_probs(tables, np.array([*context, token]))] for token in range(5)]
    np.testing.assert_allclose(np.sum(last, axis=0), 1, rtol=1e-12)


@given(st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=5))
def test_windows_shorter_than_the_order_have_fewer_tables(windows):
    text = np.array([0, 1, 2, 3, 4])
    fast = list(ngram_probs(count_ngrams(np.array(windows), 5), text))
    np.testing.assert_allclose(fast, dict_probs(np.array(windows), 5, text, 3), rtol=1e-12)
