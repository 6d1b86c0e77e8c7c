import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from lmpipe.model.architecture import rope_cos_sin
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import ModelConfig, TrainingSettings
from lmpipe.training import devices
from lmpipe.training import step as step_module
from lmpipe.training.step import (
    DIVERGENCE_WINDOW,
    TRIAL_MEMORY_FRACTION,
    DivergenceMonitor,
    TrainingStep,
    find_micro_batch_size,
)
from tests.support.tiny_study import MODEL, TRAINING

CONFIG = ModelConfig(vocab_size=50, **MODEL)


def step_of(model, batch_size=6, warmup_steps=0):
    training = TrainingSettings.model_validate(TRAINING | {"batch_size": batch_size})
    return TrainingStep(model, training, DivergenceMonitor(torch.device("cpu"), warmup_steps))


def batch(batch_size=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(50, (2, batch_size, CONFIG.context_length), generator=generator)


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4, 6, 100])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_gradient_of_a_batch_is_the_same_whatever_its_parts_are(micro_batch_size, norm):
    model = TransformerLM(CONFIG.model_copy(update={"norm": norm}), seed=0).double()
    if norm == "pre":
        model.cos_sin = torch.from_numpy(rope_cos_sin(model.config))[:, None]
    inputs, targets = batch()
    expected = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    step = step_of(model)
    step.micro_batch_size = micro_batch_size
    assert step.backward(inputs, targets).item() == pytest.approx(expected.item(), rel=1e-6)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("batch_size", "expected"), [(1, [1]), (4, [4]), (7, [4, 3]), (8, [4])])
def test_all_shapes_of_a_batch_are_known_before_the_first_step(monkeypatch, batch_size, expected):
    step = step_of(TransformerLM(CONFIG, seed=0), batch_size)
    step.micro_batch_size = 4
    assert step.micro_batch_sizes(batch_size) == expected
    sizes, loss = set(), step.loss
    monkeypatch.setattr(step, "loss", lambda *tensors: sizes.add(len(tensors[0])) or loss(*tensors))
    step.backward(*batch(batch_size))
    assert sizes == set(expected)


def diverged_step(losses, warmup_steps=0, norms=None):
    """Return the step, from 1, at which a monitor over these losses stops, or None."""
    monitor = DivergenceMonitor(torch.device("cpu"), warmup_steps)
    for step, loss in enumerate(map(torch.tensor, losses), start=1):
        monitor.check_finite(loss, torch.tensor((norms or {}).get(step, 1.0)))
        monitor.check_loss(step, loss)
        if monitor.diverged:
            return step
    return None


@pytest.mark.parametrize(("climb", "step"), [(0.49, None), (0.51, DIVERGENCE_WINDOW + 1)])
def test_divergence_is_a_climb_of_half_a_nat_over_the_latest_steps(climb, step):
    assert diverged_step([2.0, *[2.0 + climb] * 30]) == step


def test_the_climb_counts_only_after_warm_up():
    assert diverged_step([2.0, *[9.0] * 60], warmup_steps=17) == 17 + DIVERGENCE_WINDOW


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_not_finite_halts(broken):
    assert diverged_step([2.0, 2.0, broken, 2.0]) == 3
    assert diverged_step([2.0] * 4, norms={2: broken}) == 2


def test_restored_monitor_detects_the_same_divergence():
    losses = [2.0 + 0.03 * step for step in range(60)]
    expected = diverged_step(losses)
    for cut in (1, 7, 20, 25):
        monitor = DivergenceMonitor(torch.device("cpu"), 0)
        monitor.restore(cut, losses[0], losses[max(0, cut - DIVERGENCE_WINDOW) : cut])
        for step in range(cut + 1, 61):
            monitor.check_loss(step, torch.tensor(losses[step - 1]))
            if monitor.diverged:
                break
        assert step == expected


def test_steps_made_at_once_end_where_single_ones_do():
    models = [TransformerLM(CONFIG.model_copy(update={"norm": "none"}), seed=0) for _ in range(2)]
    rates, batches = [0.01, 0.01, 1e25, 0.01, 0.01], [batch(seed=seed) for seed in range(5)]
    alone, at_once = map(step_of, models)
    singles = []
    for number, (rate, (inputs, targets)) in enumerate(zip(rates, batches, strict=True), start=1):
        at_once.run(number, inputs, targets, rate)
        if not singles or not singles[-1].diverged:
            alone.run(number, inputs, targets, rate)
            singles += alone.collect()
    together = at_once.collect()
    assert [(step.grad_norm, step.diverged) for step in together[:-1]] == [
        (step.grad_norm, step.diverged) for step in singles[:-1]
    ]
    assert len(together) == len(singles) == 4 and together[-1].diverged and not together[-1].is_updated
    for parameter, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(parameter, other) and torch.isfinite(parameter).all()


@pytest.fixture
def gpu_step(monkeypatch):
    """Return a step that takes itself to be on a GPU; the fractions of memory that it asks for are collected."""
    monkeypatch.setattr(TrainingStep, "device", torch.device("cuda:0"))
    fractions = []
    monkeypatch.setitem(devices.MEMORY_SHARES, "cuda:0", 0.5)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda *arguments: fractions.append(arguments[0])
    )
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    step = step_of(TransformerLM(CONFIG, seed=0), batch_size=11)
    step.fractions = fractions
    return step


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
    ids=["allocator", "cuBLAS", "module", "Triton"],
)
def test_batch_is_halved_whatever_says_that_it_does_not_fit(gpu_step, monkeypatch, error):
    """A trial leaves a part of this process's share of the GPU free."""
    tried = []

    def dry_run(size):
        tried.append(size)
        if size > 4:
            raise error

    monkeypatch.setattr(gpu_step, "dry_run", dry_run)
    assert find_micro_batch_size(gpu_step, 11) == 3
    assert tried == [11, 6, 3]
    assert gpu_step.fractions == [0.5 * TRIAL_MEMORY_FRACTION, 0.5]


def test_other_errors_of_a_trial_are_raised(gpu_step, monkeypatch):
    def dry_run(size):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(gpu_step, "dry_run", dry_run)
    with pytest.raises(RuntimeError, match="illegal"):
        find_micro_batch_size(gpu_step, 11)


def test_missing_deterministic_algorithm_is_logged_and_allowed(monkeypatch):
    step, reasons, tries = step_of(TransformerLM(CONFIG, seed=0)), [], []

    def dry_run(size):
        tries.append(size)
        if not reasons:
            raise RuntimeError("attention does not have a deterministic implementation, but you set ...")

    monkeypatch.setattr(step, "dry_run", dry_run)
    monkeypatch.setattr(step_module, "allow_nondeterministic", reasons.append)
    step.warm_up()
    assert tries == [1, 1] and len(reasons) == 1
