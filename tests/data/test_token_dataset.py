import json
import os
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmpipe.data.token_dataset import TokenDataset, get_batch, validation_windows
from lmpipe.errors import InputError
from tests.data.test_encode import encode


def test_token_dataset_reads_slices(tmp_path, text_path, tokenizer):
    info, path = encode(text_path, tokenizer, tmp_path)
    opened, ids = TokenDataset.open(path, vocab_size=264), np.array(tokenizer.encode(text_path.read_bytes().decode()))
    assert opened.info == info
    assert len(opened.tokens) == len(ids)
    for window in (slice(None), slice(7, 30), slice(len(ids) - 3, len(ids) + 9), slice(9, 2), slice(-4, None)):
        np.testing.assert_array_equal(opened.tokens[window], ids[window])
    for read, expected in zip(get_batch(opened.tokens, 5, 3, 8, 16), get_batch(ids, 5, 3, 8, 16), strict=True):
        np.testing.assert_array_equal(read, expected)
    for read, expected in zip(validation_windows(opened.tokens, 16), validation_windows(ids, 16), strict=True):
        np.testing.assert_array_equal(read, expected)


def test_truncated_open_token_file_is_an_input_error(tmp_path, text_path, tokenizer):
    _, path = encode(text_path, tokenizer, tmp_path)
    opened = TokenDataset.open(path)
    os.truncate(path, 20)
    assert len(opened.tokens[:10]) == 10
    with pytest.raises(InputError, match=r"train\.bin: ends after 10 tokens"):
        opened.tokens[5:12]


def test_damaged_token_file_is_an_input_error(tmp_path, text_path, tokenizer):
    info, path = encode(text_path, tokenizer, tmp_path)
    data = path.read_bytes()

    def fails(message, content=data, **changed):
        path.write_bytes(content)
        path.with_suffix(".json").write_text(json.dumps({**info.model_dump(mode="json"), **changed}), encoding="utf-8")
        with pytest.raises(InputError, match=message) as caught:
            TokenDataset.open(path)
        assert "\n" not in str(caught.value)
        assert str(path.with_suffix("")) in str(caught.value)

    fails("train.bin: has .* bytes", data[:-1])
    fails("train.bin: has .* bytes", data + b"\0\0")
    fails("train.bin: has the largest id 999, but 263", (999).to_bytes(2, "little") + data[2:])
    fails("train.bin: contains the id 263, .* 260", vocab_size=260)
    fails("train.json: tokens", tokens="many")
    fails("train.json: tokens", tokens=-1)
    fails("train.json: dtype", dtype="int8")
    fails("train.bin: has 0 bytes, but 0 tokens", b"", tokens=0)
    encode(text_path, tokenizer, tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=r"train\.bin: is missing"):
        TokenDataset.open(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(InputError, match=r"train\.json: "):
        TokenDataset.open(path)


def test_a_vocabulary_of_another_tokenizer_is_refused(tmp_path, text_path, tokenizer):
    _, path = encode(text_path, tokenizer, tmp_path)
    assert TokenDataset.open(path, vocab_size=10_000)
    with pytest.raises(InputError, match=r"contains the id 263, .* 200"):
        TokenDataset.open(path, vocab_size=200)


def test_a_batch_is_a_pure_function_of_seed_and_step():
    split = np.arange(1000, dtype=np.uint16)
    first = get_batch(split, 0, 3, 8, 16)
    np.random.default_rng(1).random(5)
    for tokens, repeated in zip(first, get_batch(split, 0, 3, 8, 16), strict=True):
        assert tokens.dtype == np.int64
        assert tokens.shape == (8, 16)
        np.testing.assert_array_equal(tokens, repeated)
    assert not np.array_equal(first[0], get_batch(split, 0, 4, 8, 16)[0])
    assert not np.array_equal(first[0], get_batch(split, 1, 3, 8, 16)[0])
    assert not np.array_equal(first[0], get_batch(split, 1, 2, 8, 16)[0]), "seeds do not share batches at shifted steps"


def test_targets_are_shifted_and_all_starts_are_drawn():
    split = np.arange(100, 120, dtype=np.uint16)
    inputs, targets = get_batch(split, 0, 0, 2000, 16)
    np.testing.assert_array_equal(targets, inputs + 1)
    np.testing.assert_array_equal(inputs - inputs[:, :1], np.broadcast_to(np.arange(16), inputs.shape))
    starts = Counter((inputs[:, 0] - 100).tolist())
    assert sorted(starts) == [0, 1, 2, 3]
    assert min(starts.values()) > 420  # 500 expected, standard deviation 19


def test_split_shorter_than_a_window_is_refused():
    inputs, targets = get_batch(np.arange(5), 0, 0, 2, 4)
    assert (inputs == [0, 1, 2, 3]).all()
    assert (targets == [1, 2, 3, 4]).all()
    with pytest.raises(InputError, match="context_length: is 4"):
        get_batch(np.arange(4), 0, 0, 2, 4)


@given(st.integers(2, 60), st.integers(1, 20))
def test_validation_windows_make_every_token_a_target_once(length, context_length):
    split = np.arange(length, dtype=np.uint16)
    windows = list(validation_windows(split, context_length))
    targets_in_order = np.concatenate([targets for _, targets in windows])
    np.testing.assert_array_equal(targets_in_order, np.arange(1, length))
    for inputs, targets in windows:
        np.testing.assert_array_equal(targets, inputs + 1)
        assert inputs.dtype == targets.dtype == np.int64
    assert [len(inputs) for inputs, _ in windows[:-1]] == [context_length] * (len(windows) - 1)
    assert 1 <= len(windows[-1][0]) <= context_length


@given(st.integers(2, 200), st.integers(1, 20), st.integers(1, 250))
def test_limited_validation_windows_are_strided_over_the_split(length, context_length, limit):
    split = np.arange(length, dtype=np.uint16)
    every = [inputs[0] for inputs, _ in validation_windows(split, context_length)]
    starts = [inputs[0] for inputs, _ in validation_windows(split, context_length, limit)]
    assert set(starts) <= set(every)
    assert len(starts) == min(len(every), max(1, limit // context_length))
    gaps = np.diff([-every[-1] / len(starts) / 2 if len(starts) > 1 else 0, *starts])[1:]
    assert gaps.size == 0 or gaps.max() - gaps.min() <= context_length


def test_a_validation_split_needs_two_tokens():
    with pytest.raises(InputError, match="has 1 tokens"):
        list(validation_windows(np.arange(1), 4))
