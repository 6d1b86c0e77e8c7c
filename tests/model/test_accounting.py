"""Formulas against torch's own counts, the handout's figures and updates carried out in full."""

from math import sqrt

import pytest
import torch

from lmpipe.model import accounting, torch_counts
from lmpipe.model.accounting import ADAMW_HANDOUT, ADAMW_TORCH, ModelAccounting, account_adamw, count_flops
from lmpipe.model.torch_counts import account_model, count_with_torch
from lmpipe.study.editions import read_edition
from lmpipe.study.settings import ModelConfig
from tests.support.variants import MODEL_VARIANTS, model_variant, variant_ids

QUESTION = read_edition("cs336-2025").adamw
GPT2_XL = ModelConfig(context_length=1024, d_model=1600, d_ff=6400, num_layers=48, num_heads=25, vocab_size=50257)
SHAPE = {"context_length": 13, "d_model": 30, "d_ff": 37, "num_layers": 3, "num_heads": 5, "vocab_size": 301}
ODD = ModelConfig(**SHAPE)
every_variant = pytest.mark.parametrize("words", MODEL_VARIANTS, ids=variant_ids)


def test_gpt2_xl_has_the_published_numbers(tmp_path):
    result = account_model("gpt2_xl", GPT2_XL, QUESTION)
    assert result.parameters.total == result.torch_counts.parameters == 2_127_057_600
    assert result.flops.forward == result.torch_counts.forward_flops == 4_513_336_524_800
    assert result.parameter_bytes == 8_508_230_400
    assert sum(matmul.flops for matmul in result.matmuls) == result.flops.forward
    assert (result.adamw.handout.feed_forward, result.adamw.swiglu.feed_forward) == ("silu", "swiglu")
    result.write(tmp_path / "gpt2_xl.json")
    assert ModelAccounting.read(tmp_path / "gpt2_xl.json") == result


@every_variant
def test_formulas_equal_torch_for_every_word_of_the_study(words):
    config = model_variant(SHAPE, words)
    assert accounting.expected_counts(config) == count_with_torch(config)


@every_variant
def test_polynomial_equals_the_sum_of_matmuls(words):
    config = model_variant(SHAPE, words)
    flops = count_flops(config)
    assert flops.forward == accounting.forward_flops(config)
    assert flops.training == 3 * accounting.forward_flops(config)
    assert flops.flops_6nd == 6 * accounting.count_parameters(config).total * config.context_length


def test_flops_are_a_polynomial_in_the_context_length():
    crossover = count_flops(GPT2_XL).attention_crossover_context
    per_pair = 4 * GPT2_XL.num_layers * GPT2_XL.d_model
    for context_length in (1, 100, 16384):
        longer = GPT2_XL.model_copy(update={"context_length": context_length})
        assert (
            accounting.forward_flops(longer)
            == round(crossover * per_pair) * context_length + per_pair * context_length**2
        )
    balanced = GPT2_XL.model_copy(update={"context_length": round(crossover)})
    assert accounting.component_shares(balanced)["attention_scores"] == pytest.approx(0.5, abs=1e-4)


def test_matmuls_have_the_shapes_of_the_model():
    by_name = {matmul.name: matmul for matmul in accounting.matmuls(ODD)}
    scores = by_name["attention scores QKᵀ"]
    assert (scores.shape, scores.repeats) == ((13, 6, 13), 15)
    assert by_name["feed-forward W2"].shape == (13, 37, 30)
    assert by_name["output head"].flops == 2 * 13 * 30 * 301
    assert sum(accounting.component_shares(ODD).values()) == pytest.approx(1, abs=1e-12)


def test_another_count_of_torch_is_an_error(monkeypatch):
    wrong = accounting.ModelCounts(parameters=1, forward_flops=2)
    monkeypatch.setattr(torch_counts, "count_with_torch", lambda config: wrong)
    with pytest.raises(RuntimeError, match="tiny"):
        account_model("tiny", ODD, QUESTION)


def test_largest_batch_and_days_of_the_handouts_questions():
    silu = account_adamw(GPT2_XL.model_copy(update={"feed_forward": "silu"}), QUESTION)
    swiglu = account_adamw(GPT2_XL, QUESTION)
    assert (silu.largest_batch_size, round(silu.days)) == (3, 5115)
    assert (swiglu.largest_batch_size, round(swiglu.days)) == (2, 6584)
    assert swiglu.flops_6nd_per_step == 6 * 2_127_057_600 * 1024 * 1024
    assert swiglu.fixed_bytes == 16 * 2_127_057_600


def test_hours_of_the_later_edition():
    edition = read_edition("cs336-2026")
    model = edition.models["gpt2_xl_2026"]
    forward, parameters = accounting.forward_flops(model), accounting.count_parameters(model).total
    result = account_adamw(model, edition.adamw)
    assert parameters == 1_640_452_800
    assert forward == pytest.approx(3.5168e12, rel=1e-4)
    hours = 400_000 * (3 * 1024 * forward + 14 * parameters) / (0.5 * 495e12) / 3600
    assert result.device == "H100"
    assert result.hours == pytest.approx(hours, rel=1e-12) == pytest.approx(4850, rel=1e-3)
    assert accounting.forward_flops(edition.models["gpt2_xl_16k_2026"]) == pytest.approx(1.3358e14, rel=1e-4)


def test_largest_batch_fits_and_the_next_does_not():
    for gigabytes in (80.0, 35.0, 24.0):
        memory = gigabytes * 1e9
        result = account_adamw(GPT2_XL, QUESTION.model_copy(update={"device_memory_gb": gigabytes}))
        needed = result.fixed_bytes + result.largest_batch_size * result.bytes_per_sequence
        assert needed + result.bytes_per_sequence > memory
        assert needed <= memory or result.largest_batch_size == 0


def handout_activations(config: ModelConfig) -> int:
    """Count the floats of the handout's list layer by layer, from the shapes of the tensors."""
    seq, d_model, d_ff = config.context_length, config.d_model, config.d_ff
    tensors = []
    for _ in range(config.num_layers):
        if config.norm != "none":
            tensors += [(seq, d_model)] * 2
        tensors += [(seq, d_model)] * 3
        tensors += [(config.num_heads, seq, seq)] * 2
        tensors += [(seq, d_model)] * 2
        tensors += [(seq, d_ff)] * (4 if config.feed_forward == "swiglu" else 2)
        tensors += [(seq, d_model)]
    tensors += [(seq, d_model)] * (config.norm == "pre")
    tensors += [(seq, config.vocab_size)] * 2
    return sum(torch.Size(shape).numel() for shape in tensors)


@every_variant
def test_activations_equal_the_tensors_counted_one_by_one(words):
    config = model_variant(SHAPE, words)
    assert account_adamw(config, QUESTION).bytes_per_sequence == 4 * handout_activations(config)


def run_update(update, gradient, steps, names):
    """Run the lines of an update on one parameter; `names(step)` returns its scalars."""
    state = {"theta": 1.5, "m": 0.0, "v": 0.0, "sqrt": sqrt}
    for step in range(1, steps + 1):
        state |= names(step) | {"g": gradient * step}
        for line in update:
            exec(line, state)
    return state["theta"]


def test_counted_torch_update_is_torchs():
    rate, decay, b1, b2, eps = 0.05, 0.1, 0.9, 0.95, 1e-8
    weight = torch.nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
    optimizer = torch.optim.AdamW([weight], lr=rate, betas=(b1, b2), eps=eps, weight_decay=decay)
    for step in range(1, 6):
        weight.grad = torch.tensor(0.3 * step, dtype=torch.float64)
        optimizer.step()

    def names(step):
        root, alpha_1 = sqrt(1 - b2**step), rate / (1 - b1**step)
        constants = {"b1": b1, "c1": 1 - b1, "b2": b2, "c2": 1 - b2, "eps": eps, "keep": 1 - rate * decay}
        return constants | {"root": root, "alpha_1": alpha_1}

    assert run_update(ADAMW_TORCH, 0.3, 5, names) == pytest.approx(weight.item(), rel=1e-12)


def test_counted_handout_update_is_the_handouts_algorithm():
    rate, decay, b1, b2, eps = 0.05, 0.1, 0.9, 0.95, 1e-8
    theta, m, v = 1.5, 0.0, 0.0
    for step in range(1, 6):
        gradient = 0.3 * step
        m = b1 * m + (1 - b1) * gradient
        v = b2 * v + (1 - b2) * gradient**2
        theta -= rate * sqrt(1 - b2**step) / (1 - b1**step) * m / (sqrt(v) + eps)
        theta -= rate * decay * theta

    def names(step):
        alpha_t = rate * sqrt(1 - b2**step) / (1 - b1**step)
        return {"b1": b1, "c1": 1 - b1, "b2": b2, "c2": 1 - b2, "eps": eps, "alpha_t": alpha_t, "decay": rate * decay}

    assert run_update(ADAMW_HANDOUT, 0.3, 5, names) == pytest.approx(theta, rel=1e-12)


def test_adamw_takes_fourteen_operations_for_each_parameter():
    assert [accounting.count_operations(line) for line in ADAMW_HANDOUT] == [3, 4, 5, 2]
    assert [accounting.count_operations(line) for line in ADAMW_TORCH] == [1, 3, 4, 6]
    assert account_adamw(ODD, QUESTION).optimizer_flops == 14 * accounting.count_parameters(ODD).total
