import lzma
import math

import numpy as np
import pytest

from lmpipe.data import yardsticks
from lmpipe.data.token_dataset import TokenDataset
from lmpipe.data.yardsticks import measure_ngrams, measure_xz, measure_yardsticks, strided_windows
from lmpipe.study.paths import StudyPaths
from lmpipe.tokenizer.vocabulary import Vocabulary
from tests.support.tiny_study import make_tiny_study

END = "<|endoftext|>"
WORDS = " ".join(f"word{number}" for number in range(20))


@pytest.fixture
def texts(tmp_path):
    """Return a function that writes train.txt and valid.txt, and returns their paths."""

    def write(train, valid):
        paths = [tmp_path / "train.txt", tmp_path / "valid.txt"]
        for path, documents in zip(paths, (train, valid), strict=True):
            path.write_text("".join(document + END for document in documents), encoding="utf-8")
        return paths

    return write


def test_yardsticks_of_a_study(tmp_path):
    paths = StudyPaths(make_tiny_study(tmp_path))
    measured = measure_yardsticks(tmp_path, "tiny", "tiny", [400, 1000, 10**9])
    train, valid = (TokenDataset.open(paths.tokens("tiny", split)) for split in ("train", "valid"))
    assert [budget.train_tokens for budget in measured.budgets] == [400, 1000, pytest.approx(len(train.tokens), abs=8)]
    assert measured.valid_tokens == len(valid.tokens) - 1
    text = paths.text("tiny", "valid").read_text()
    first = Vocabulary.from_folder(paths.tokenizer("tiny")).decode([int(valid.tokens[:1][0])])
    assert measured.valid_bytes == len(text.replace(END, "").encode()) - len(first)
    assert measured.uniform_loss == pytest.approx(math.log(measured.vocab_size))
    for budget in measured.budgets:
        assert [ngram.order for ngram in budget.ngrams] == [1, 2, 3, 4, 5]
        assert budget.ngrams[1].loss < budget.ngrams[0].loss < measured.uniform_loss
    assert measured.budgets[2].ngrams[4].loss < measured.budgets[0].ngrams[4].loss


def test_unigram_loss_of_the_training_tokens_is_near_their_entropy():
    ids = np.random.default_rng(0).zipf(1.5, 50_000) % 100
    counts = np.bincount(ids, minlength=100)
    entropy = -(counts / len(ids)) @ np.log(np.maximum(counts, 1) / len(ids))
    budget = measure_ngrams(ids[None], ids, np.ones(100, np.int64))
    assert budget.ngrams[0].loss == pytest.approx(entropy, abs=0.01)
    assert budget.ngrams[0].bits_per_byte == pytest.approx(budget.ngrams[0].loss / math.log(2))


def test_bits_per_byte_leave_out_end_of_text():
    ids = np.array([0, 1, 2, 1, 0, 2, 1, 1, 2, 0] * 5)
    lengths = np.array([0, 3, 4])
    budget = measure_ngrams(ids[None], ids, lengths)
    probs = np.bincount(ids)[1:3] + 3 / 3
    nats = -np.log(probs / (len(ids) + 3))
    counts = np.bincount(ids[1:])[1:3]
    expected = counts @ nats / math.log(2) / (counts @ lengths[1:])
    assert budget.ngrams[0].bits_per_byte == pytest.approx(expected)


@pytest.mark.parametrize(("count", "size"), [(400, 1000), (1000, 1000), (5000, 100_000), (5000, 5000), (1, 10)])
def test_windows_are_strided_over_the_split(count, size):
    windows = strided_windows(np.arange(size), count)
    assert count - len(windows) < windows.size <= count
    assert windows.shape[1] <= yardsticks.BLOCK_TOKENS
    if count == size:
        np.testing.assert_array_equal(windows.ravel()[: windows.shape[1]], np.arange(windows.shape[1]))
    if len(windows) > 1:
        assert windows[0, 0] == 0 and windows[-1, -1] == size - 1
        strides = np.diff(windows[:, 0])
        assert strides.max() - strides.min() <= 1
    assert (np.diff(windows, axis=1) == 1).all()


def test_xz_reads_the_training_text_first(texts):
    train, valid = texts([WORDS * 3] * 50, [WORDS])
    alone = lzma.compress(WORDS.encode(), preset=9, check=lzma.CHECK_NONE)
    bits = measure_xz(train, valid, 10**9)
    assert bits < 4 * len(alone) / len(WORDS), "less than half of what it needs without the training text"


@pytest.mark.parametrize("chunk_tokens", [1, 3, 100])
def test_losses_do_not_depend_on_chunks_of_the_validation_split(monkeypatch, chunk_tokens):
    ids = np.random.default_rng(0).zipf(1.5, 150) % 20
    lengths = np.arange(20)
    whole = measure_ngrams(ids[None], ids, lengths)
    monkeypatch.setattr(yardsticks, "CHUNK_TOKENS", chunk_tokens)
    for ngram, other in zip(whole.ngrams, measure_ngrams(ids[None], ids, lengths).ngrams, strict=True):
        assert ngram.model_dump() == pytest.approx(other.model_dump(), rel=1e-9)
