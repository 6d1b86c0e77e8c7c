import math

import pytest
import torch
from torch import nn

from lmpipe.errors import InputError
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import ModelConfig, TrainingSettings
from lmpipe.training import optimizer
from lmpipe.training.optimizer import AdamW, clip_coefficient, cosine_lr, grad_norm

CONFIG = ModelConfig(context_length=16, d_model=32, d_ff=64, num_layers=2, num_heads=4, vocab_size=40)
TRAINING = TrainingSettings(total_tokens=1, batch_size=1, max_lr=0.01, weight_decay=0.1, betas=(0.8, 0.97), eps=1e-3)


def random_gradients(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


@pytest.mark.parametrize("norm", ["pre", "none"])
@pytest.mark.parametrize("fused", [True, False])
def test_adamw_equals_torchs_where_only_matrices_decay(fused, norm):
    config = CONFIG.model_copy(update={"norm": norm})
    lmpipe_model, torch_model = (TransformerLM(config, seed=0).double() for _ in range(2))
    tested = AdamW.from_settings(lmpipe_model, TRAINING)
    parameters = list(torch_model.parameters())
    groups = [
        {"params": [parameter for parameter in parameters if parameter.dim() >= 2], "weight_decay": 0.1},
        {"params": [parameter for parameter in parameters if parameter.dim() < 2], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(
        groups[: 2 if norm == "pre" else 1], lr=0.01, betas=(0.8, 0.97), eps=1e-3, fused=fused
    )
    for step in range(20):
        reference.param_groups[0]["lr"] = reference.param_groups[-1]["lr"] = rate = 0.01 * math.sin(step) ** 2
        for model in (lmpipe_model, torch_model):
            random_gradients(model, seed=step)
        tested.step(rate)
        reference.step()
    for parameter, expected in zip(lmpipe_model.parameters(), torch_model.parameters(), strict=True):
        torch.testing.assert_close(parameter.detach(), expected.detach(), atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize(
    ("step", "warmup_steps", "total_steps", "expected"),
    [
        *((step, 7, 21, step / 7) for step in range(8)),
        (10, 7, 21, 0.1 + 0.45 * (1 + math.cos(3 / 14 * math.pi))),
        (14, 7, 21, 0.55),
        *((step, 7, 21, 0.1) for step in (21, 22, 1000)),
        *((1, 0, 1, 0.1), (3, 3, 3, 1.0), (1, 1, 2, 1.0)),
    ],
)
def test_schedule_is_the_handouts(step, warmup_steps, total_steps, expected):
    assert cosine_lr(step, 1.0, 0.1, warmup_steps, total_steps) == pytest.approx(expected)


@pytest.mark.parametrize("max_norm", [0.5, 3.0, 1e6])
def test_clipping_equals_torchs(max_norm):
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((4, 5), (7,), (2, 3))] + [nn.Parameter(torch.zeros(3))]
    references = [nn.Parameter(torch.zeros_like(parameter)) for parameter in parameters]
    for parameter, reference in zip(parameters[:3], references[:3], strict=True):
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
        reference.grad = parameter.grad.clone()
    expected = torch.nn.utils.clip_grad_norm_(references, max_norm)
    norm = grad_norm(parameters)
    assert norm.item() == pytest.approx(expected.item(), rel=1e-6)
    for parameter, reference in zip(parameters[:3], references[:3], strict=True):
        torch.testing.assert_close(parameter.grad / clip_coefficient(norm, max_norm), reference.grad)
    assert clip_coefficient(torch.tensor(5.0), 5.0) == 1


def test_an_update_divides_its_gradients():
    models = [TransformerLM(CONFIG, seed=0).double() for _ in range(2)]
    optimizers = [AdamW.from_settings(model, TRAINING) for model in models]
    for step in range(5):
        for model in models:
            random_gradients(model, seed=step)
        for parameter in models[0].parameters():
            parameter.grad /= 4
        optimizers[0].step(0.01)
        optimizers[1].step(0.01, grad_scale=torch.tensor(4.0))
    for parameter, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(parameter, other)


def test_an_update_that_is_skipped_changes_nothing_whatever_its_gradients():
    model = TransformerLM(CONFIG, seed=0)
    optimizer = AdamW.from_settings(model, TRAINING)
    random_gradients(model)
    optimizer.step(0.01)

    def state():
        moments = [*optimizer.exp_avg.values(), *optimizer.exp_avg_sq.values()]
        return [tensor.detach().clone() for tensor in (*model.parameters(), *moments, optimizer.step_count)]

    before = state()
    optimizer.found_inf.fill_(1)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, math.nan)
    optimizer.step(0.01)
    assert all(map(torch.equal, before, state()))


def test_kernel_without_scaling_updates_and_skips_all_the_same(monkeypatch):
    """As that of MPS, which ignores both arguments."""
    expected, model = (TransformerLM(CONFIG, seed=0) for _ in range(2))
    reference = AdamW.from_settings(expected, TRAINING)
    monkeypatch.setattr(optimizer, "SCALING_DEVICES", ())
    kernel = torch._fused_adamw_
    monkeypatch.setattr(
        torch, "_fused_adamw_", lambda *args, grad_scale, found_inf, **options: kernel(*args, **options)
    )
    tested = AdamW.from_settings(model, TRAINING)
    for step in range(3):
        for optimized in (expected, model):
            random_gradients(optimized, seed=step)
        tested.step(0.01, grad_scale=torch.tensor(4.0))
        with monkeypatch.context() as original:
            original.setattr(torch, "_fused_adamw_", kernel)
            reference.step(0.01, grad_scale=torch.tensor(4.0))
        tested.found_inf.fill_(step == 1)
        reference.found_inf.fill_(step == 1)
    assert tested.step_count == reference.step_count == 2
    for parameter, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(parameter, other)


@pytest.mark.parametrize("named", [False, True])
def test_parameters_and_settings_are_given_as_torchs_optimizer_takes_them(named):
    torch.manual_seed(0)
    tested, expected = (nn.Linear(5, 3, bias=False) for _ in range(2))
    expected.load_state_dict(tested.state_dict())
    settings = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.3}
    optimizer = AdamW(tested.named_parameters() if named else tested.parameters(), **settings)
    reference = torch.optim.AdamW(expected.parameters(), **settings)
    for step in range(6):
        for model, update in ((tested, optimizer), (expected, reference)):
            for group in update.param_groups:
                group["lr"] = 0.02 / (step + 1)
            update.zero_grad(set_to_none=named)
            model(torch.full((2, 5), float(step))).square().sum().backward()
            update.step()
    torch.testing.assert_close(tested.weight, expected.weight, atol=1e-7, rtol=1e-6)


def test_frozen_parameters_stay_as_they_are_and_the_others_move():
    model = TransformerLM(CONFIG, seed=0)
    model.token_embeddings.requires_grad_(False)
    model.layers[0].requires_grad_(False)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    optimizer = AdamW(model.parameters(), lr=0.01)
    for _ in range(2):
        model(torch.arange(10)[None]).square().mean().backward()
        optimizer.step()
    for name, weight in model.state_dict().items():
        is_frozen = name.startswith(("token_embeddings", "layers.0."))
        assert torch.equal(weight, before[name]) == is_frozen, name


def test_a_restored_optimizer_continues_with_the_same_updates(tmp_path):
    models = [TransformerLM(CONFIG, seed=0) for _ in range(2)]
    optimizers = [AdamW(model) for model in models]
    for step in range(4):
        random_gradients(models[0], seed=step)
        optimizers[0].step()
        if step == 1:
            torch.save([models[0].state_dict(), optimizers[0].state_dict()], tmp_path / "checkpoint.pt")
    weights, state = torch.load(tmp_path / "checkpoint.pt")
    models[1].load_state_dict(weights)
    optimizers[1].load_state_dict(state)
    for step in (2, 3):
        random_gradients(models[1], seed=step)
        optimizers[1].step()
    assert all(map(torch.equal, models[0].parameters(), models[1].parameters()))


@pytest.mark.parametrize(
    ("params", "settings"),
    [
        ("weights", {}),
        (5, {}),
        ([], {}),
        ([{"params": []}], {}),
        (None, {"lr": "0.1"}),
        (None, {"lr": -1}),
        (None, {"betas": 0.9}),
        (None, {"betas": (0.9, 1.0)}),
        (None, {"weight_decay": math.nan}),
    ],
)
def test_wrong_arguments_are_one_clear_line(params, settings):
    with pytest.raises(InputError) as caught:
        AdamW(nn.Linear(2, 2).parameters() if params is None else params, **settings)
    assert str(caught.value).isprintable()
