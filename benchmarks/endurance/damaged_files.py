"""Damaged results: every command reads them right, or refuses them in one line that names the file."""

import contextlib
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from benchmarks.endurance.faults import MARKER, Fault, LossError
from benchmarks.endurance.mutations import mutate_bytes, mutate_value
from benchmarks.endurance.processes import temp_folder
from lmpipe.cli.main import main
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import ModelConfig, TrainingSettings
from lmpipe.training.checkpoint import load_checkpoint, restore_tensors, save_checkpoint, training_tensors
from lmpipe.training.optimizer import AdamW
from tests.support.cli_cases import MODEL, READS, TRAINING, command, make_whole_study

STEPS, OWNER = (10, 20), "0123"
CHECKPOINTS = Path("checkpoints")


@cache
def finished_study() -> Path:
    """Return a folder with a finished tiny study and two checkpoints, made once in this process."""
    folder = temp_folder()
    make_whole_study(folder)
    for step in STEPS:
        save_checkpoint(folder / CHECKPOINTS, OWNER, step, checkpoint_tensors(step), {"step": step})
    return folder


def new_training() -> tuple[TransformerLM, AdamW]:
    """Return a model and its optimizer before the first step."""
    torch.set_num_threads(1)
    model = TransformerLM(ModelConfig(**MODEL, vocab_size=270), seed=0)
    return model, AdamW.from_settings(model, TrainingSettings(**TRAINING))


def checkpoint_tensors(step: int) -> dict[str, torch.Tensor]:
    """Tensors of the checkpoint of a step, different at each step."""
    return {name: tensor + step for name, tensor in training_tensors(*new_training()).items()}


def damage(random: Random, path: Path, others: Sequence[Path]) -> None:
    """Damage a file like a failing disk, a synchronisation program or an attacker."""
    match random.randrange(12):
        case 0:
            path.write_bytes(random.choice(strange_files()))
        case 1:
            path.write_bytes(random.choice(others).read_bytes())
        case 2:
            path.unlink()
            random.choice([lambda: None, path.mkdir, partial(path.symlink_to, path.name)])()
        case number if number < 9 and path.suffix == ".json":
            value = mutate_value(random, json.loads(path.read_text(encoding="utf-8")))
            path.write_text(json.dumps(value, default=str, skipkeys=True), encoding="utf-8")
        case _:
            path.write_bytes(mutate_bytes(random, path.read_bytes()))


class Planted:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {MARKER}",)


@cache
def strange_files() -> list[bytes]:
    """Whole files that lmpipe never writes: pickles, wrong sizes, archives that unpack to too much."""
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**30, 2**20], "data_offsets": [0, 2**52]}}).encode()
    torch.save(Planted(), saved := io.BytesIO())
    objects = {"text": np.array([Planted()], dtype=object), "lengths": np.ones(1), "counts": np.ones(1)}
    np.savez(arrays := io.BytesIO(), **objects, allow_pickle=True)
    np.savez_compressed(large := io.BytesIO(), text=np.zeros(1 << 28, np.uint8), lengths=np.ones(1), counts=np.ones(1))
    return [
        *(b"", b"\0", b"{}", b"[]", b"null", b"NaN", b"1e999", b"[" * 100_000, b'"\\ud800"', b"\xff\xfe", b"{" * 8),
        *(pickle.dumps(Planted()), saved.getvalue(), arrays.getvalue(), large.getvalue(), huge_array()),
        *(length.to_bytes(8, "little") + header for length in (len(header), 2**20, 2**60, 2**63)),
        b'{"a": ' * 5000 + b"1" + b"}" * 5000,
        b"9" * 10_000,
    ]


def huge_array() -> bytes:
    """Return an .npz file whose arrays claim to have 2**60 numbers."""
    with zipfile.ZipFile(archive := io.BytesIO(), "w") as file:
        for name, dtype in (("text", "|u1"), ("lengths", "<u4"), ("counts", "<i8")):
            array = io.BytesIO()
            np.lib.format.write_array_header_1_0(array, {"descr": dtype, "fortran_order": False, "shape": (2**60,)})
            file.writestr(f"{name}.npy", array.getvalue())
    return archive.getvalue()


def damaged_input(name: str, random: Random, folder: Path) -> str:
    """Damage one input of a command and run it."""
    shutil.copytree(finished_study(), folder, dirs_exist_ok=True, symlinks=True)
    shutil.rmtree("results/tiny/store", ignore_errors=True)  # or a run that was trained before is only copied
    paths = [Path(path) for path in READS[name]]
    damage(random, random.choice(paths), paths)
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            main(command(name))
        except SystemExit as end:
            if end.code not in (0, None):
                if name != "verify":  # which prints the files that differ
                    check_message(errors.getvalue())
                return "refused"
    return "read"


def check_message(message: str) -> None:
    """Raise LossError unless the last line names the command and a remedy, and there is no traceback."""
    last = message.strip().splitlines()[-1]
    if "Traceback" in message or not last.startswith("lmpipe ") or len(last) > 2000 or not last.isprintable():
        raise LossError(f"not one clear line: {message!r:.500}")


def damaged_checkpoint(random: Random, folder: Path) -> str:
    """Damage one of two checkpoints and load: the newest intact one is read."""
    shutil.copytree(finished_study() / CHECKPOINTS, folder / CHECKPOINTS)
    paths = sorted(CHECKPOINTS.iterdir())
    damage(random, random.choice(paths), paths)
    try:
        loaded = load_checkpoint(CHECKPOINTS, OWNER)
    except OSError as error:
        if not error.filename:  # the command line names the file of a system error
            raise
        return "refused"
    if loaded is None:
        raise LossError("no checkpoint was loaded, though one is intact")
    tensors, counters = loaded
    expected = checkpoint_tensors(counters["step"])
    if tensors.keys() != expected.keys() or not all(torch.equal(tensors[name], expected[name]) for name in expected):
        raise LossError("other tensors were loaded than those that were saved")
    restore_tensors(*new_training(), tensors, counters["step"])
    return "newest" if counters["step"] == STEPS[-1] else "the one before"


FAULTS = (
    *(Fault(f"damaged {name}", 100, partial(damaged_input, name), finished_study) for name in READS),
    Fault("damaged checkpoint", 150, damaged_checkpoint, finished_study),
)
