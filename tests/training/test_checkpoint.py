import pytest
import torch
from safetensors.torch import save

from lmpipe.errors import InputError
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import ModelConfig, TrainingSettings
from lmpipe.training.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    restore_tensors,
    save_checkpoint,
    training_tensors,
)
from lmpipe.training.optimizer import AdamW

CONFIG = ModelConfig(context_length=8, d_model=16, d_ff=24, num_layers=1, num_heads=2, vocab_size=30)
TRAINING = TrainingSettings(total_tokens=1, batch_size=1, max_lr=0.01)


def trained(steps, model=None, optimizer=None, start=0):
    model = model or TransformerLM(CONFIG, seed=0)
    optimizer = optimizer or AdamW.from_settings(model, TRAINING)
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
    optimizer = AdamW.from_settings(model, TRAINING)
    restore_tensors(model, optimizer, tensors, step=4)
    trained(3, model, optimizer, start=4)
    expected = training_tensors(whole, whole_optimizer)
    tensors = training_tensors(model, optimizer)
    assert expected.keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in expected.items())


def write(folder, steps):
    for step in steps:
        save_checkpoint(folder, "run", step, {"model.weight": torch.full((50, 50), float(step))}, {"step": step})


def test_the_newest_two_are_kept(tmp_path):
    write(tmp_path, [2, 10, 9])
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step-0000000010.safetensors",
        "step-0000000009.safetensors",
    ]


def flip_middle_bit(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES = {
    "cut": lambda data: data[:-100],
    "empty": lambda data: b"",
    "changed bit": flip_middle_bit,
    "changed state": lambda data: data.replace(b'\\"step\\": 2', b'\\"step\\": 3'),
    "header": lambda data: b"\xff" * 8 + data[8:],
    "text": lambda data: b"no safetensors at all",
    "weights alone": lambda data: save({"model.weight": torch.zeros(2)}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path, damage, capsys):
    write(tmp_path, [1, 2])
    newest = list_checkpoints(tmp_path)[0]
    data = newest.read_bytes()
    newest.write_bytes(DAMAGES[damage](data))
    assert newest.read_bytes() != data
    tensors, state = load_checkpoint(tmp_path, "run")
    assert (state, tensors["model.weight"][0, 0]) == ({"step": 1}, 1)
    assert not newest.exists()
    assert "damaged" in capsys.readouterr().err


def test_a_checkpoint_of_another_run_is_refused_by_name(tmp_path):
    write(tmp_path, [1])
    with pytest.raises(InputError, match=r"step-0000000001.*is a checkpoint of run run, not of other"):
        load_checkpoint(tmp_path, "other")


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
