import numpy as np
import pytest
import torch

from lmpipe.generation import inference
from lmpipe.generation.inference import ROWS, CompiledLM
from lmpipe.model.architecture import weight_shapes
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import ModelConfig
from tests.support.fenced_memory import FencedAtStart, FencedBuffer
from tests.support.variants import MODEL_VARIANTS, model_variant, variant_ids

# Whole panels and vectors, and shapes that fill neither.
SHAPES = {
    "even": {"context_length": 80, "d_model": 64, "d_ff": 192, "num_heads": 4, "vocab_size": 128},
    "odd": {"context_length": 70, "d_model": 42, "d_ff": 49, "num_heads": 3, "vocab_size": 65},
    "wide heads": {"context_length": 5, "d_model": 72, "d_ff": 7, "num_heads": 1, "vocab_size": 2},
}


def models(shape: str, **changes) -> tuple[TransformerLM, CompiledLM]:
    """Return a model with weights of every size, norms included, and the same compiled."""
    torch.manual_seed(0)
    reference = TransformerLM(ModelConfig(**{"num_layers": 2, **SHAPES[shape], **changes}), seed=0).eval()
    with torch.no_grad():
        for name, weight in reference.named_parameters():
            if ".ln" in name or "ln_" in name:
                weight.uniform_(0.5, 2)
    weights = {name: weight.numpy() for name, weight in reference.state_dict().items()}
    return reference, CompiledLM(reference.config, weights)


def token_ids_for(config: ModelConfig, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(config.vocab_size, size=config.context_length).tolist()


def step_by_step(model: CompiledLM, token_ids: list[int]) -> np.ndarray:
    """Return the logits after every token, (seq, vocab)."""
    cache = model.new_cache()
    return np.concatenate([model.forward([cache], [position], [[token]]) for position, token in enumerate(token_ids)])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("words", MODEL_VARIANTS, ids=variant_ids)
def test_inference_equals_the_torch_model_for_every_word_of_the_study(shape, words):
    reference, model = models(shape, **words)
    token_ids = token_ids_for(model.config)
    with torch.no_grad():
        # In float64, so that the rounding is that of one side.
        exact = reference.double()(torch.tensor([token_ids]))[0].numpy()
        rounded = reference.float()(torch.tensor([token_ids]))[0].numpy()
    logits = step_by_step(model, token_ids)
    # Without norms numbers grow from layer to layer: then torch's own rounding is the measure.
    rounding = np.abs(rounded - exact).max() if words["norm"] == "none" else 0
    tolerance = 5e-6 * max(1, np.abs(exact).max()) + 5 * rounding
    assert np.abs(logits - exact).max() < tolerance


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_have_the_same_bits_at_once_and_token_by_token(shape):
    _, model = models(shape)
    token_ids = token_ids_for(model.config)
    logits = step_by_step(model, token_ids)
    for cut in {1, 2, len(token_ids) // 2, len(token_ids)}:
        cache = model.new_cache()
        assert np.array_equal(model.forward([cache], [0], [token_ids[:cut]])[0], logits[cut - 1])
        for position in range(cut, len(token_ids)):
            assert np.array_equal(
                model.forward([cache], [position], [token_ids[position : position + 1]])[0], logits[position]
            )


def test_logits_have_the_same_bits_alone_and_in_a_batch():
    _, model = models("even")
    texts = [token_ids_for(model.config, seed)[: 3 + 7 * seed] for seed in range(9)]
    assert sum(map(len, texts)) > 2 * ROWS
    alone = [model.forward([model.new_cache()], [0], [text])[0] for text in texts]
    caches = [model.new_cache() for _ in texts]
    together = model.forward(caches, [0] * len(texts), texts)
    assert np.array_equal(together, alone)
    # Then one token each, at positions that differ.
    following = model.forward(caches, list(map(len, texts)), [[7]] * len(texts))
    alone = [model.forward([model.new_cache()], [0], [[*text, 7]])[0] for text in texts]
    assert np.array_equal(following, alone)


def test_a_cache_may_be_used_again_from_its_start():
    _, model = models("odd")
    cache = model.new_cache()
    model.forward([cache], [0], [token_ids_for(model.config, 1)])
    text = token_ids_for(model.config, 2)[:20]
    assert np.array_equal(model.forward([cache], [0], [text]), model.forward([model.new_cache()], [0], [text]))


@pytest.mark.parametrize("buffer", [FencedBuffer, FencedAtStart])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernel_stays_within_its_memory(shape, buffer, monkeypatch):
    _, model = models(shape)
    monkeypatch.setattr(inference, "Buffer", buffer)
    _, fenced = models(shape)
    token_ids = token_ids_for(model.config)
    assert np.array_equal(step_by_step(fenced, token_ids[:20]), step_by_step(model, token_ids[:20]))
    last = fenced.forward([fenced.new_cache()], [0], [token_ids])
    assert np.array_equal(last, model.forward([model.new_cache()], [0], [token_ids]))


@pytest.mark.parametrize("words", MODEL_VARIANTS, ids=variant_ids)
def test_weights_have_the_names_and_shapes_of_the_model(words):
    config = model_variant({"num_layers": 3, **SHAPES["odd"]}, words)
    expected = TransformerLM(config, device="meta").state_dict()
    assert weight_shapes(config) == {name: tuple(weight.shape) for name, weight in expected.items()}
