"""Checkpoints of a training run: safetensors files with weights, AdamW's moments and the trainer's counters.

A checkpoint appears only once it is complete. The newest two remain, so a damaged one costs minutes, not the run.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue
from safetensors.torch import save
from torch import Tensor, nn

from lmpipe.errors import InputError
from lmpipe.io.files import atomic_write
from lmpipe.io.progress import log
from lmpipe.io.tensor_files import open_tensors
from lmpipe.training.optimizer import AdamW

MAX_CHECKPOINTS = 2


def save_weights(path: str | Path, model: nn.Module) -> None:
    """Write a model's weights as safetensors, atomically."""
    data = save({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()})
    with atomic_write(path, "wb", len(data)) as file:
        file.write(data)


def updated_tensors(model: nn.Module, optimizer: AdamW) -> dict[str, Tensor]:
    """Return everything that an update changes: weights and moments."""
    groups = {"model": dict(model.named_parameters()), "exp_avg": optimizer.exp_avg, "exp_avg_sq": optimizer.exp_avg_sq}
    return {f"{group}.{name}": tensor.detach() for group, tensors in groups.items() for name, tensor in tensors.items()}


def training_tensors(model: nn.Module, optimizer: AdamW) -> dict[str, Tensor]:
    """Return everything that an update changes, on the CPU."""
    return {name: tensor.cpu().contiguous() for name, tensor in updated_tensors(model, optimizer).items()}


def restore_tensors(model: nn.Module, optimizer: AdamW, tensors: dict[str, Tensor], step: int) -> None:
    """Restore what `training_tensors` returned after `step` updates; raise InputError for another model's tensors."""
    targets = updated_tensors(model, optimizer)
    if {name: tensor.shape for name, tensor in targets.items()} != {name: tensors[name].shape for name in tensors}:
        raise InputError("checkpoint", "holds the tensors of another model", "delete it")
    optimizer.step_count.fill_(step)
    for name, tensor in targets.items():
        tensor.copy_(tensors[name])


def checksum(tensors: dict[str, Tensor], state: str) -> str:
    """Return the SHA-256 of state, names and bytes: safetensors itself detects truncation, but no changed byte."""
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy())
    return digest.hexdigest()


def save_checkpoint(
    folder: Path, run: str, step: int, tensors: dict[str, Tensor], state: Mapping[str, JsonValue]
) -> Path:
    """Write the checkpoint after `step` and delete all but the newest ones; return its path.

    `run` is the fingerprint of its run; `state` holds the trainer's counters.
    """
    text = json.dumps(state)
    metadata = {"run": run, "state": text, "sha256": checksum(tensors, text)}
    path = folder / f"step-{step:010d}.safetensors"
    data = save(tensors, metadata)
    with atomic_write(path, "wb", len(data)) as file:
        file.write(data)
    for old in list_checkpoints(folder)[MAX_CHECKPOINTS:]:
        old.unlink()
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints of a folder, the newest first."""
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def load_checkpoint(folder: Path, run: str) -> tuple[dict[str, Tensor], dict[str, JsonValue]] | None:
    """Return tensors and state of the newest intact checkpoint, or None.

    Damaged checkpoints are logged and deleted, half-written ones of a killed process only deleted. Raises InputError
    for a checkpoint of another run.
    """
    for leftover in folder.glob("step-*.tmp-*"):
        leftover.unlink()
    for path in list_checkpoints(folder):
        try:
            return read_checkpoint(path, run)
        except DamagedCheckpointError as error:
            log(f"{path}: {error}; resuming from the one before")
            path.unlink()
    return None


class DamagedCheckpointError(Exception):
    """A checkpoint cannot be read, or differs from what was written."""


def read_checkpoint(path: Path, run: str) -> tuple[dict[str, Tensor], dict[str, JsonValue]]:
    """Read and verify one checkpoint; raise DamagedCheckpointError, or InputError for another run's."""
    try:
        with open_tensors(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            owner, state, sha256 = ((file.metadata() or {})[key] for key in ("run", "state", "sha256"))
    except (InputError, KeyError) as error:
        raise DamagedCheckpointError(f"the checkpoint is damaged ({error})") from None
    if owner != run:
        raise InputError(path, f"is a checkpoint of run {owner}, not of {run}", "delete it")
    if checksum(tensors, state) != sha256:
        raise DamagedCheckpointError("the checkpoint is damaged (its bytes have changed)")
    return tensors, json.loads(state)
