"""Checkpoints of a training run: safetensors files with weights, AdamW's moments and what the run has counted.

A checkpoint exists only once it is complete. The newest two are kept, so that a damaged one costs minutes, not the run.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from lmpipe.errors import InputError
from lmpipe.io.files import atomic_write
from lmpipe.io.progress import log
from lmpipe.io.tensor_files import open_tensors
from lmpipe.training.optimizer import AdamW

KEPT = 2
MOMENTS = ("exp_avg", "exp_avg_sq")


def save_weights(path: str | Path, model: nn.Module) -> None:
    """Write a model's weights as safetensors, atomically."""
    data = save({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()})
    with atomic_write(path, "wb", len(data)) as file:
        file.write(data)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file; raises InputError where it is missing or damaged."""
    with open_tensors(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def training_tensors(model: nn.Module, optimizer: AdamW) -> dict[str, Tensor]:
    """Copies on the CPU of everything that an update changes: weights and moments."""
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"model.{name}"] = parameter.detach()
        for moment in MOMENTS:
            tensors[f"{moment}.{name}"] = getattr(optimizer, moment)[name]
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


@torch.no_grad()
def restore_tensors(model: nn.Module, optimizer: AdamW, tensors: dict[str, Tensor], updates: int) -> None:
    """Put back what `training_tensors` took after so many updates; raises InputError for other tensors."""
    expected = {name: tensor.shape for name, tensor in training_tensors(model, optimizer).items()}
    if expected != {name: tensor.shape for name, tensor in tensors.items()}:
        raise InputError("checkpoint: expected the tensors of this model, found others; delete the checkpoint")
    optimizer.updates.fill_(updates)
    for name, parameter in model.named_parameters():
        parameter.copy_(tensors[f"model.{name}"])
        for moment in MOMENTS:
            getattr(optimizer, moment)[name].copy_(tensors[f"{moment}.{name}"])


def digest_of(tensors: dict[str, Tensor], counted: str) -> str:
    """SHA-256 over names, bytes and counts: safetensors itself would notice a cut file, but no changed byte."""
    digest = hashlib.sha256(counted.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy())
    return digest.hexdigest()


def save_checkpoint(folder: Path, run: str, step: int, tensors: dict[str, Tensor], counted: dict[str, Any]) -> Path:
    """Write the checkpoint after a step and remove all but the newest two.

    `run` is the digest of the run it belongs to; `counted` holds JSON values such as the seconds trained so far.
    """
    text = json.dumps(counted | {"step": step})
    metadata = {"run": run, "counted": text, "sha256": digest_of(tensors, text)}
    path = folder / f"step-{step:010d}.safetensors"
    data = save(tensors, metadata)
    with atomic_write(path, "wb", len(data)) as file:
        file.write(data)
    for old in checkpoints(folder)[KEPT:]:
        old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the newest first."""
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def load_checkpoint(folder: Path, run: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and counts of the newest checkpoint that is whole; None where there is none.

    Damaged ones are told and deleted, half-written ones of a killed process only deleted. Raises InputError for a
    checkpoint of another run.
    """
    for leftover in folder.glob("step-*.tmp-*"):
        leftover.unlink()
    for path in checkpoints(folder):
        try:
            return read_checkpoint(path, run)
        except DamagedError as error:
            log(f"{path}: {error}; going on from the one before")
            path.unlink()
    return None


class DamagedError(Exception):
    """A checkpoint that cannot be read, or does not hold what was written."""


def read_checkpoint(path: Path, run: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read and verify one checkpoint; raises DamagedError, and InputError for one of another run."""
    try:
        tensors, metadata = read_tensors(path)
        owner, counted, digest = (metadata[key] for key in ("run", "counted", "sha256"))
    except (InputError, KeyError) as error:
        raise DamagedError(f"the checkpoint is damaged ({error})") from None
    if owner != run:
        raise InputError(f"{path}: expected a checkpoint of run {run}, found one of run {owner}; delete it")
    if digest_of(tensors, counted) != digest:
        raise DamagedError("the checkpoint is damaged (its bytes have changed)")
    return tensors, json.loads(counted)
