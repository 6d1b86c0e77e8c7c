from typing import get_args

import pytest
import torch

from lmpipe.model.activation_memory import computed_itemsize
from lmpipe.model.architecture import derive_seed, has_gate, has_rope, norm_placement, rope_cos_sin
from lmpipe.model.functional import reduced_dtype
from lmpipe.study.settings import ModelConfig, TrainingSettings
from tests.support.variants import WORDS

CONFIG = ModelConfig(context_length=24, d_model=32, d_ff=48, num_layers=1, num_heads=4, vocab_size=61)
READERS = {"norm": norm_placement, "position_embedding": has_rope, "feed_forward": has_gate}


@pytest.mark.parametrize("key", WORDS)
def test_words_are_distinguished_and_unknown_ones_refused(key):
    read = READERS[key]
    meanings = [read(CONFIG.model_copy(update={key: word})) for word in WORDS[key]]
    assert len(set(meanings)) == len(WORDS[key])
    with pytest.raises(AssertionError, match="unheard-of"):
        read(CONFIG.model_copy(update={key: "unheard-of"}))


def test_precisions_are_known_and_unknown_ones_refused():
    for precision in get_args(TrainingSettings.model_fields["precision"].annotation):
        dtype = reduced_dtype(precision) or torch.float32
        assert str(dtype) == f"torch.{precision}"
        assert computed_itemsize(precision) == dtype.itemsize
    for read in (reduced_dtype, computed_itemsize):
        with pytest.raises(AssertionError, match="float8"):
            read("float8")


def test_seeds_of_named_streams_differ():
    seeds = {derive_seed(seed, name) for seed in range(20) for name in ("a", "b", "0:a")}
    assert len(seeds) == 60
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_rope_table_has_the_angles_of_the_paper():
    table = rope_cos_sin(CONFIG)
    assert table.shape == (24, 4, 2)
    assert table[0].tolist() == [[1, 0]] * 4
    angle = 7 / CONFIG.rope_theta ** (2 * 3 / 8)
    assert table[7, 3] == pytest.approx([torch.tensor(angle).cos().item(), torch.tensor(angle).sin().item()], abs=1e-6)
