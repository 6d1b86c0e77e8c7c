import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lmpipe.errors import InputError
from lmpipe.io.tensor_files import read_weights
from lmpipe.model.architecture import weight_shapes
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import ModelConfig
from lmpipe.training.checkpoint import save_weights

CONFIG = ModelConfig(context_length=8, d_model=16, d_ff=24, num_layers=1, num_heads=2, vocab_size=30)


@pytest.fixture
def saved(tmp_path):
    save_weights(tmp_path / "model.safetensors", TransformerLM(CONFIG, seed=0))
    return tmp_path / "model.safetensors"


def test_weights_come_back(saved):
    weights = read_weights(saved, weight_shapes(CONFIG))
    expected = TransformerLM(CONFIG, seed=0).state_dict()
    assert weights.keys() == expected.keys()
    assert all(np.array_equal(weight, expected[name]) for name, weight in weights.items())


def test_weights_of_another_model_and_damaged_ones_are_refused(saved, tmp_path):
    other = weight_shapes(CONFIG.model_copy(update={"d_ff": 32}))
    with pytest.raises(InputError, match=r"shape \(48, 16\) of F32 for layers.0.ffn.w13.weight, not shape \(64, 16\)"):
        read_weights(saved, other)
    deeper = weight_shapes(CONFIG.model_copy(update={"num_layers": 2}))
    with pytest.raises(InputError, match="no tensor for layers"):
        read_weights(saved, deeper)
    saved.write_bytes(saved.read_bytes()[:-1])
    with pytest.raises(InputError, match="not a complete"):
        read_weights(saved, weight_shapes(CONFIG))
    with pytest.raises(InputError, match="is missing"):
        read_weights(tmp_path / "nothing.safetensors", weight_shapes(CONFIG))


def test_weights_of_another_precision_are_refused(tmp_path):
    save_file({"a": torch.zeros(2, dtype=torch.bfloat16)}, tmp_path / "half.safetensors")
    with pytest.raises(InputError, match=r"shape \(2,\) of BF16 for a, not shape \(2,\) of F32"):
        read_weights(tmp_path / "half.safetensors", {"a": (2,)})
