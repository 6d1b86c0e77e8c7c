"""Closed forms against torch's own counts, the handout's oracles and updates carried out in full."""

import doctest
from math import sqrt

import pytest
import torch

import lmpipe.model.accounting as accounting
from lmpipe.study.settings import ModelConfig

GPT2_XL = ModelConfig(context_length=1024, d_model=1600, d_ff=6400, num_layers=48, num_heads=25, vocab_size=50257)
ODD = ModelConfig(context_length=13, d_model=30, d_ff=37, num_layers=3, num_heads=5, vocab_size=301)
VARIANTS = [
    ODD.model_copy(update={"norm": norm, "feed_forward": feed_forward, "position_embedding": position_embedding})
    for norm in ("pre", "post", "none")
    for feed_forward in ("swiglu", "silu")
    for position_embedding in ("rope", "none")
]


def variant_name(config: ModelConfig) -> str:
    return f"{config.norm}-{config.feed_forward}-{config.position_embedding}"


def test_the_examples_in_the_docstrings_hold():
    result = doctest.testmod(accounting)
    assert result.attempted > 0 and result.failed == 0


def test_gpt2_xl_has_the_published_figures():
    assert accounting.parameters(GPT2_XL)["total"] == 2_127_057_600
    assert accounting.forward_flops(GPT2_XL) == 4_513_336_524_800
    result = accounting.account("gpt2_xl", GPT2_XL, 80e9)
    assert result["bytes"] == 8_508_230_400
    assert result["checks"] == {"parameters_torch": 2_127_057_600, "flops_torch": 4_513_336_524_800, "equal": True}


@pytest.mark.parametrize("config", VARIANTS, ids=variant_name)
def test_closed_forms_equal_torch_for_every_variant(config):
    assert accounting.check_against_torch(config) == {
        "parameters_torch": accounting.parameters(config)["total"],
        "flops_torch": accounting.forward_flops(config),
        "equal": True,
    }


@pytest.mark.parametrize("config", VARIANTS, ids=variant_name)
def test_derivation_agrees_with_the_list_of_multiplies(config):
    flops = accounting.scaling(config)
    assert flops["forward"] == accounting.forward_flops(config)
    assert flops["training"] == 3 * accounting.forward_flops(config)
    assert flops["six_p_t"] == 6 * accounting.parameters(config)["total"] * config.context_length


def test_flops_are_a_polynomial_in_the_context_length():
    flops = accounting.scaling(GPT2_XL)
    for context_length in (1, 100, 16384):
        longer = GPT2_XL.model_copy(update={"context_length": context_length})
        expected = flops["per_token"] * context_length + flops["per_token_pair"] * context_length**2
        assert accounting.forward_flops(longer) == expected
    balanced = GPT2_XL.model_copy(update={"context_length": round(flops["equal_shares_context"])})
    assert accounting.component_shares(balanced)["attention_scores"] == pytest.approx(0.5, abs=1e-4)


def test_multiplies_have_the_shapes_of_the_model():
    by_name = {matmul.name: matmul for matmul in accounting.matmuls(ODD)}
    scores = by_name["attention scores QKᵀ"]
    assert (scores.m, scores.k, scores.n, scores.repeats) == (13, 6, 13, 15)
    assert (by_name["feed-forward W2"].m, by_name["feed-forward W2"].k, by_name["feed-forward W2"].n) == (13, 37, 30)
    assert by_name["output head"].flops == 2 * 13 * 30 * 301
    assert len(by_name) == 10
    assert sum(accounting.component_shares(ODD).values()) == pytest.approx(1, abs=1e-12)
    silu = ODD.model_copy(update={"feed_forward": "silu"})
    assert by_name.keys() - {m.name for m in accounting.matmuls(silu)} == {"feed-forward W3"}


def test_an_unequal_count_is_a_clear_error(monkeypatch):
    wrong = {"parameters_torch": 1, "flops_torch": 2, "equal": False}
    monkeypatch.setattr(accounting, "check_against_torch", lambda config: wrong)
    with pytest.raises(RuntimeError, match=r"accounting of tiny: .* torch counts 1 and 2"):
        accounting.account("tiny", ODD, 80e9)


def test_largest_batch_and_days_of_the_handouts_questions():
    silu = accounting.adamw(GPT2_XL.model_copy(update={"feed_forward": "silu"}), 80e9)
    swiglu = accounting.adamw(GPT2_XL, 80e9)
    assert (silu["largest_batch"], round(silu["days"])) == (3, 5115)
    assert (swiglu["largest_batch"], round(swiglu["days"])) == (2, 6584)
    assert swiglu["write_up_step_flops"] == 6 * 2_127_057_600 * 1024 * 1024
    assert swiglu["fixed_bytes"] == 16 * 2_127_057_600


def test_largest_batch_fits_and_the_next_does_not():
    for memory in (80e9, 35e9, 24e9):
        result = accounting.adamw(GPT2_XL, memory)
        needed = result["fixed_bytes"] + result["largest_batch"] * result["bytes_per_sequence"]
        assert needed + result["bytes_per_sequence"] > memory
        assert needed <= memory or result["largest_batch"] == 0


def activations_by_hand(config: ModelConfig) -> int:
    """The handout's list, walked through layer by layer with the shapes of the tensors."""
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


@pytest.mark.parametrize("config", VARIANTS, ids=variant_name)
def test_activations_equal_the_tensors_counted_one_by_one(config):
    assert accounting.adamw(config, 80e9)["bytes_per_sequence"] == 4 * activations_by_hand(config)


@pytest.mark.parametrize("config", VARIANTS, ids=variant_name)
def test_collected_sums_equal_the_sums_of_their_terms(config):
    lines = accounting.adamw(config, 80e9)["derivation"]
    value = {line["symbol"]: line["value"] for line in lines}
    for symbol in ("P", "A"):
        terms = [v for name, v in value.items() if name.startswith(f"{symbol}_")]
        assert value[symbol] == sum(terms)


def run_update(update, gradient, steps, names):
    """Carry out an update's lines on one parameter; `names(step)` gives its scalars."""
    state = {"theta": 1.5, "m": 0.0, "v": 0.0, "sqrt": sqrt}
    for step in range(1, steps + 1):
        state |= names(step) | {"g": gradient * step}
        for line in update:
            exec(line, state)
    return state["theta"]


def test_counted_torch_update_is_the_one_torch_carries_out():
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

    assert run_update(accounting.ADAMW_TORCH, 0.3, 5, names) == pytest.approx(weight.item(), rel=1e-12)


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

    assert run_update(accounting.ADAMW_HANDOUT, 0.3, 5, names) == pytest.approx(theta, rel=1e-12)


def test_an_adamw_step_costs_fourteen_operations_a_parameter():
    assert [accounting.operations(line) for line in accounting.ADAMW_HANDOUT] == [3, 4, 5, 2]
    assert [accounting.operations(line) for line in accounting.ADAMW_TORCH] == [1, 3, 4, 6]
    assert accounting.adamw(ODD, 80e9)["step_flops"] == 14 * accounting.parameters(ODD)["total"]


def test_account_is_complete_and_writable_as_json(tmp_path):
    from lmpipe.io.files import read_json, write_json

    result = accounting.account("odd", ODD, 80e9)
    write_json(tmp_path / "odd.json", result)
    assert read_json(tmp_path / "odd.json") == result
    assert result["parameters"]["total"] == sum(v for part, v in result["parameters"].items() if part != "total")
    assert sum(matmul["flops"] for matmul in result["matmuls"]) == result["flops"]["forward"]
    assert (result["adamw"]["handout"]["feed_forward"], result["adamw"]["swiglu"]["feed_forward"]) == ("silu", "swiglu")
