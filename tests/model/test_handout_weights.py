"""Weights with the handout's names, exchanged with a plain implementation of the handout."""

import pytest
import torch

from lmpipe.errors import InputError
from lmpipe.model.handout_weights import from_handout, to_handout
from lmpipe.model.transformer import TransformerLM
from tests.reference import handout_transformer

# The arguments of the handout's TransformerLM, by their names there.
SETTINGS = {
    "vocab_size": 61,
    "context_length": 16,
    "d_model": 24,
    "num_layers": 2,
    "num_heads": 3,
    "d_ff": 40,
    "rope_theta": 500.0,
}


@pytest.fixture
def student():
    torch.manual_seed(0)
    return handout_transformer.TransformerLM(**SETTINGS)


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_converted_weights_give_the_students_logits(student, prefix):
    weights = {prefix + name: weight for name, weight in student.state_dict().items()}
    model = TransformerLM(**SETTINGS)
    model.load_state_dict(from_handout(weights))
    ids = torch.randint(61, (3, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), student(ids), atol=1e-5, rtol=1e-4)


def test_converted_back_the_weights_are_the_students(student):
    weights = student.state_dict()
    back = to_handout(from_handout(weights))
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weight) for name, weight in weights.items())
    student.load_state_dict(to_handout(TransformerLM(**SETTINGS, seed=0).state_dict()))


def test_arrays_and_models_without_a_gate_are_converted():
    model = TransformerLM(**SETTINGS, feed_forward="silu", seed=0)
    arrays = {name: weight.numpy() for name, weight in to_handout(model.state_dict()).items()}
    assert "layers.0.ffn.w1.weight" in arrays and "layers.0.ffn.w3.weight" not in arrays
    other = TransformerLM(**SETTINGS, feed_forward="silu")
    other.load_state_dict(from_handout(arrays))
    assert torch.equal(other.layers[1].ffn.w1.weight, model.layers[1].ffn.w1.weight)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda weights: weights | {"layers.0.attn.rope.cos": torch.zeros(1)}, "rope.cos"),
        (lambda weights: weights | {"lm_head.weight": "text"}, "tensor"),
        (lambda weights: {name: weights[name] for name in weights if "layers.1.attn.k" not in name}, "layers.1.attn.k"),
        (lambda weights: {name: weights[name] for name in weights if "layers.1.ffn.w1" not in name}, "layers.1.ffn.w1"),
        (lambda weights: list(weights.values()), "state dict"),
    ],
)
def test_other_weights_are_refused_by_name(student, change, name):
    with pytest.raises(InputError, match=name) as caught:
        from_handout(change(student.state_dict()))
    assert str(caught.value).isprintable()
