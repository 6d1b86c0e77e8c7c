"""Formulas of the activation memory against what autograd saves, and against the handout's list."""

from itertools import accumulate
from typing import get_args

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from lmpipe.model import functional, transformer
from lmpipe.model.accounting import FLOAT32_BYTES, batch_memory, count_parameters
from lmpipe.model.activation_memory import Component, account_activations, saved_activations, step_bytes
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import TrainingSettings
from lmpipe.training.profiling import random_batch, run_recorded
from lmpipe.training.step import DivergenceMonitor, TrainingStep
from tests.support.variants import MODEL_VARIANTS, model_variant, variant_ids

BATCH_SIZE = 3
SHAPE = {"context_length": 13, "d_model": 24, "d_ff": 37, "num_layers": 3, "num_heads": 4, "vocab_size": 301}
PRECISIONS = get_args(TrainingSettings.model_fields["precision"].annotation)
every_variant = pytest.mark.parametrize("words", MODEL_VARIANTS, ids=variant_ids)
every_precision = pytest.mark.parametrize("precision", PRECISIONS)


@every_precision
@every_variant
def test_each_part_saves_the_bytes_that_autograd_saves(words, precision):
    config = model_variant(SHAPE, words)
    training = TrainingSettings(total_tokens=1, batch_size=BATCH_SIZE, max_lr=0.01, precision=precision)
    _, saved_bytes_by_component = run_recorded(config, training, torch.device("cpu"))
    accounted = account_activations(config, precision, BATCH_SIZE)
    for component in get_args(Component):
        expected = sum(
            activation.saved_bytes for activation in accounted.activations if activation.component == component
        )
        assert saved_bytes_by_component.get(component, 0) == expected, component
    assert sum(saved_bytes_by_component.values()) == accounted.saved_bytes


@every_precision
@every_variant
def test_each_part_saves_the_bytes_of_torchs_operations_on_a_gpu(monkeypatch, words, precision):
    """They compute on a CPU here, in place of its kernels."""
    monkeypatch.setattr(functional, "use_cpu_kernels", lambda x: False)
    monkeypatch.setattr(transformer, "use_cpu_kernels", lambda x: False)
    config = model_variant(SHAPE, words)
    training = TrainingSettings(total_tokens=1, batch_size=BATCH_SIZE, max_lr=0.01, precision=precision)
    _, saved_bytes_by_component = run_recorded(config, training, torch.device("cpu"))
    accounted = account_activations(config, precision, BATCH_SIZE, on_gpu=True)
    for component in get_args(Component):
        expected = sum(
            activation.saved_bytes for activation in accounted.activations if activation.component == component
        )
        assert saved_bytes_by_component.get(component, 0) == expected, component


@every_variant
def test_handouts_activations_add_up_to_its_list(words):
    config = model_variant(SHAPE, words)
    accounted = account_activations(config, "float32", BATCH_SIZE)
    assert accounted.handout_bytes == BATCH_SIZE * batch_memory(config, 80e9).bytes_per_sequence


@every_precision
def test_saved_bytes_grow_with_the_batch(precision):
    config = model_variant(SHAPE, MODEL_VARIANTS[0])
    sizes = [account_activations(config, precision, batch_size).saved_bytes for batch_size in (1, 2, 3)]
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] > 0


@every_variant
def test_every_difference_from_the_handout_has_a_reason(words):
    for activation in saved_activations(model_variant(SHAPE, words)):
        same = activation.handout.replace("12 ", "3 * 4 ") == activation.saved.replace("c", "4")
        assert activation.reason or same


def live_peak_bytes(config, training: TrainingSettings) -> int:
    """Return the most bytes that torch's allocator holds during a second training step, by torch's own profiler."""
    model = TransformerLM(config, seed=0)
    step = TrainingStep(model, training, DivergenceMonitor(torch.device("cpu"), warmup_steps=0))
    inputs, targets = random_batch(config, training.batch_size, torch.device("cpu"))
    step.run(1, inputs, targets, lr=0.0)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step.run(2, inputs, targets, lr=0.0)
    changes = [event.nbytes() for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(changes))


@every_variant
def test_step_memory_is_the_measured_peak(words):
    config = model_variant(SHAPE | {"d_ff": 192, "context_length": 64}, words)
    training = TrainingSettings(total_tokens=1, batch_size=64, max_lr=0.01)
    # Weights and moments exist before the profiled step.
    existing = 3 * FLOAT32_BYTES * count_parameters(config).total
    predicted = step_bytes(config, "float32", training.batch_size) - existing
    assert predicted == pytest.approx(live_peak_bytes(config, training), rel=0.05)
