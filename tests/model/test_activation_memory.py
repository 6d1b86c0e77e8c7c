"""The formula of what the model keeps, against what autograd saves, and against the handout's list."""

import doctest
from itertools import accumulate, product

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from lmpipe.model import activation_memory
from lmpipe.model.accounting import FLOAT32_BYTES, adamw, parameters
from lmpipe.model.activation_memory import PARTS, account_activations, kept_bytes, kept_values, step_bytes
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import ModelConfig, TrainingSettings
from lmpipe.training.profiling import made_up_batch, measure_step
from lmpipe.training.step import TrainingStep, Watch

BATCH_SIZE = 3
ODD = {"context_length": 13, "d_model": 24, "d_ff": 37, "num_layers": 3, "num_heads": 4, "vocab_size": 301}
VARIANTS = [
    ModelConfig(**ODD, norm=norm, position_embedding=position_embedding, feed_forward=feed_forward)
    for norm, position_embedding, feed_forward in product(("pre", "post", "none"), ("rope", "none"), ("swiglu", "silu"))
]


def variant_name(config: ModelConfig) -> str:
    return f"{config.norm}-{config.position_embedding}-{config.feed_forward}"


def test_the_examples_in_the_docstrings_hold():
    result = doctest.testmod(activation_memory)
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("config", VARIANTS, ids=variant_name)
def test_each_part_keeps_the_bytes_that_autograd_saves(config, precision):
    training = TrainingSettings(total_tokens=1, batch_size=BATCH_SIZE, max_lr=0.01, precision=precision)
    saved = measure_step(config, training, torch.device("cpu"))
    accounted = account_activations(config, precision, BATCH_SIZE)
    for part in PARTS:
        kept = sum(value["kept_bytes"] for value in accounted["values"] if value["part"] == part)
        assert saved["saved_bytes_by_part"].get(part, 0) == kept, part
    assert saved["saved_bytes"] == accounted["kept_bytes"]


@pytest.mark.parametrize("config", VARIANTS, ids=variant_name)
def test_the_handouts_values_add_up_to_its_list(config):
    accounted = account_activations(config, "float32", BATCH_SIZE)
    assert accounted["handout_bytes"] == BATCH_SIZE * adamw(config, 80e9)["bytes_per_sequence"]
    assert accounted["handout_bytes"] == sum(value["handout_bytes"] for value in accounted["values"])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_values_add_up_to_what_is_kept_and_grow_with_the_batch(precision):
    config = VARIANTS[0]
    accounted = account_activations(config, precision, BATCH_SIZE)
    assert accounted["kept_bytes"] == sum(value["kept_bytes"] for value in accounted["values"])
    assert accounted["kept_bytes"] == kept_bytes(config, precision, BATCH_SIZE)
    steps = [kept_bytes(config, precision, size + 1) - kept_bytes(config, precision, size) for size in (1, 7)]
    assert steps == [accounted["kept_bytes_per_sequence"]] * 2


def test_a_value_that_is_counted_differently_has_its_reason():
    for config in VARIANTS:
        for value in kept_values(config):
            assert value.part in PARTS
            assert value.reason or value.handout.replace("12 ", "3 * 4 ") == value.kept.replace("c", "4")


def live_peak_bytes(config: ModelConfig, training: TrainingSettings) -> int:
    """The most bytes that torch's allocator holds at once for a second training step, by torch's own profiler."""
    model = TransformerLM(config, seed=0)
    step = TrainingStep(model, training, Watch(torch.device("cpu"), warmup_steps=0))
    inputs, targets = made_up_batch(config, training.batch_size, torch.device("cpu"))
    step.make(1, inputs, targets, learning_rate=0.0)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step.make(2, inputs, targets, learning_rate=0.0)
    changes = [event.nbytes() for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(changes))


@pytest.mark.parametrize("config", VARIANTS, ids=variant_name)
def test_a_step_holds_what_the_formula_says_at_its_widest(config):
    wide = config.model_copy(update={"d_ff": 192, "context_length": 64})
    training = TrainingSettings(total_tokens=1, batch_size=64, max_lr=0.01)
    # The weights and moments are there before the step is watched.
    there = 3 * FLOAT32_BYTES * parameters(wide)["total"]
    held = step_bytes(wide, "float32", training.batch_size) - there
    assert held == pytest.approx(live_peak_bytes(wide, training), rel=0.05)
