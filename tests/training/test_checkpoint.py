import json

import pytest
import torch
from safetensors import safe_open

from lmpipe.errors import InputError
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import ModelConfig, TrainingSettings
from lmpipe.training.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    restore_tensors,
    save_checkpoint,
    save_weights,
    training_tensors,
)
from lmpipe.training.optimizer import AdamW

CONFIG = ModelConfig(context_length=8, d_model=16, d_ff=24, num_layers=1, num_heads=2, vocab_size=30)
TRAINING = TrainingSettings(total_tokens=1, batch_size=1, max_lr=0.01)


def trained(steps, model=None, optimizer=None, start=0):
    model = model or TransformerLM(CONFIG, seed=0)
    optimizer = optimizer or AdamW(model, TRAINING)
    for step in range(start, start + steps):
        tokens = torch.randint(30, (2, 8), generator=torch.Generator().manual_seed(step))
        torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        optimizer.step(TRAINING.max_lr)
        optimizer.zero_grad()
    return model, optimizer


def test_training_resumes_from_a_checkpoint_to_the_same_weights(tmp_path):
    whole, whole_optimizer = trained(7)
    model, optimizer = trained(4)
    save_checkpoint(tmp_path, "run", 4, training_tensors(model, optimizer), {"step": 4, "wall_seconds": 0.1})
    tensors, state = load_checkpoint(tmp_path, "run")
    assert state == {"step": 4, "wall_seconds": 0.1}
    model = TransformerLM(CONFIG, seed=99)
    optimizer = AdamW(model, TRAINING)
    restore_tensors(model, optimizer, tensors, step=4)
    trained(3, model, optimizer, start=4)
    expected = training_tensors(whole, whole_optimizer)
    tensors = training_tensors(model, optimizer)
    assert expected.keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in expected.items())


def test_a_checkpoint_before_the_first_update_starts_afresh(tmp_path):
    model, optimizer = trained(0)
    save_checkpoint(tmp_path, "run", 0, training_tensors(model, optimizer), {})
    tensors, _ = load_checkpoint(tmp_path, "run")
    other, other_optimizer = trained(3, TransformerLM(CONFIG, seed=1))
    restore_tensors(other, other_optimizer, tensors, step=0)
    assert torch.equal(other.lm_head.weight, model.lm_head.weight)
    assert not any(moment.any() for moment in other_optimizer.exp_avg.values())


def write(folder, steps):
    for step in steps:
        save_checkpoint(folder, "run", step, {"model.weight": torch.full((50, 50), float(step))}, {"step": step})


def test_the_newest_two_are_kept(tmp_path):
    write(tmp_path, [2, 10, 9])
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step-0000000010.safetensors",
        "step-0000000009.safetensors",
    ]


@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "header", "other"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path, damage, capsys):
    write(tmp_path, [1, 2])
    newest = list_checkpoints(tmp_path)[0]
    data = bytearray(newest.read_bytes())
    middle = len(data) // 2
    damaged = {
        "cut": data[:-100],
        "empty": b"",
        "changed": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "header": b"\xff" * 8 + data[8:],
        "other": b"no safetensors at all",
    }
    newest.write_bytes(damaged[damage])
    tensors, state = load_checkpoint(tmp_path, "run")
    assert state["step"] == 1
    assert tensors["model.weight"][0, 0] == 1
    assert not newest.exists()
    assert "damaged" in capsys.readouterr().err


def test_changed_state_is_detected(tmp_path):
    path = save_checkpoint(tmp_path, "run", 3, {"model.weight": torch.zeros(2)}, {"num_resumes": 1})
    path.write_bytes(path.read_bytes().replace(b'\\"num_resumes\\": 1', b'\\"num_resumes\\": 2'))
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["state"])["num_resumes"] == 2
    assert load_checkpoint(tmp_path, "run") is None


def test_a_checkpoint_of_another_run_is_refused_by_name(tmp_path):
    write(tmp_path, [1])
    with pytest.raises(InputError, match=r"step-0000000001.*is a checkpoint of run run, not of other"):
        load_checkpoint(tmp_path, "other")


def test_weights_instead_of_a_checkpoint_are_logged_and_the_one_before_is_loaded(tmp_path, capsys):
    save_checkpoint(tmp_path, "run", 1, {"model.weight": torch.zeros(2)}, {"step": 1})
    save_weights(tmp_path / "step-0000000002.safetensors", TransformerLM(CONFIG, seed=0))
    _, state = load_checkpoint(tmp_path, "run")
    assert state == {"step": 1}
    assert "step-0000000002.safetensors: the checkpoint is damaged ('run'); resuming" in capsys.readouterr().err


def test_unreadable_checkpoint_is_not_deleted_as_damaged(tmp_path):
    save_checkpoint(tmp_path, "run", 1, {"model.weight": torch.zeros(2)}, {})
    (tmp_path / "step-0000000002.safetensors").mkdir()
    with pytest.raises(IsADirectoryError):
        load_checkpoint(tmp_path, "run")
    assert len(list_checkpoints(tmp_path)) == 2


@pytest.mark.parametrize("key", ["model.lm_head.weight", "exp_avg.lm_head.weight"])
def test_tensors_of_another_model_are_not_restored(key):
    model, optimizer = trained(1)
    tensors = training_tensors(model, optimizer)
    before = model.lm_head.weight.clone()
    for others in ({name: tensor for name, tensor in tensors.items() if name != key}, tensors | {key: torch.ones(3)}):
        with pytest.raises(InputError, match="another model"):
            restore_tensors(model, optimizer, others, step=1)
    assert torch.equal(model.lm_head.weight, before)


def test_half_written_checkpoint_is_ignored_and_deleted(tmp_path):
    write(tmp_path, [6])
    (tmp_path / "step-0000000007.safetensors.tmp-abc").write_bytes(b"half")
    _, state = load_checkpoint(tmp_path, "run")
    assert state["step"] == 6
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000000006.safetensors"]
