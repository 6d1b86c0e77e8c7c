"""Faults of a training run: the real `lmpipe train` is killed, or asked to end, at any moment, and called again."""

import atexit
import re
import shutil
import signal
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from random import Random

from benchmarks.faults import Fault, LostError
from benchmarks.file_faults import PLANNED, RUN, STUDY, finished_study
from benchmarks.processes import kill_all, running, started, tail, wait_for
from benchmarks.work import STORED, differences, read
from lmpipe.generation.inference import load_run
from lmpipe.generation.sampling import stream

LOG = Path("train.log")
STEPS = 300
MODEL = {"context_length": 32, "d_model": 64, "d_ff": 192, "num_layers": 2, "num_heads": 2}
TRAINING = {"total_tokens": 32 * 8 * STEPS, "batch_size": 8, "max_lr": 0.01, "num_evaluations": 5, "eval_tokens": 256}
CHECKPOINT_SECONDS = 0.05
# Most of what passes before the first step: Python and torch are loaded.
START_SECONDS = 2.0
SAVED = 128 + signal.SIGTERM
# How closely the folder of checkpoints is looked at, to meet one that is being written: that takes some milliseconds.
LOOK_SECONDS = 0.0005


def command() -> list[str]:
    """The call that trains the run; the same one goes on with it."""
    settings = PLANNED.model_copy(update={"model": MODEL, "training": TRAINING}).model_dump_json(warnings=False)
    call = ["lmpipe.cli.main", "train", "--settings", settings, "--results", str(STUDY), "--output", str(RUN)]
    return [*call, "--checkpoint-seconds", str(CHECKPOINT_SECONDS)]


def make_inputs(folder: Path) -> None:
    """Put into a folder what the run starts from."""
    for name in ("tokenizers", "tokens"):
        shutil.copytree(finished_study() / STUDY / name, folder / STUDY / name)


@cache
def uninterrupted() -> Path:
    """A folder with the run as it is when nothing happens, made once in this process and removed when it ends."""
    folder = Path(tempfile.mkdtemp(prefix="torture-run-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    make_inputs(folder)
    finish(folder)
    return folder


def finish(folder: Path) -> None:
    """Give the command and let it end; raises LostError where it fails."""
    with started(command(), folder, folder / LOG) as process:
        for _ in running(process):
            pass
    if process.returncode:
        raise LostError(f"expected a finished run, found exit code {process.returncode}: {tail(folder / LOG)}")


def killed_run(random: Random, folder: Path) -> str:
    """SIGKILL the run at a random moment, or while a checkpoint is written, and give the same command again."""
    make_inputs(folder)
    in_a_write = random.random() < 0.5
    with started(command(), folder, folder / LOG) as process:
        wait_for_moment(random, process, folder)
        for _ in running(process, LOOK_SECONDS):
            if not in_a_write or half_written(folder):
                break
        was_running = kill_all(process)
    word = state(folder) if was_running else "after the end"
    finish(folder)
    check_whole(folder)
    return word


def wait_for_moment(random: Random, process: subprocess.Popen, folder: Path) -> None:
    """Wait until a run has come to a random place of its course, whatever the machine's speed."""
    share = random.uniform(-0.3, 1.1)
    later = random.uniform(0, START_SECONDS if share < 0 else 2 * CHECKPOINT_SECONDS)
    wait_for(process, lambda: course(folder) >= share, later, 10 * LOOK_SECONDS)


def course(folder: Path) -> float:
    """The share of a run's steps up to its newest checkpoint; more than 1 once its results are written."""
    if list(folder.glob(f"{STUDY}/store/*/metrics.csv*")):
        return 2.0
    found = folder.glob(f"{STUDY}/store/*/checkpoints/step-*.safetensors")
    return max((int(path.stem.removeprefix("step-")) for path in found), default=0) / STEPS


def half_written(folder: Path) -> list[Path]:
    """Checkpoints that are being written, or were when their writer was killed."""
    return list(folder.glob(f"{STUDY}/store/*/checkpoints/*.tmp-*"))


def state(folder: Path) -> str:
    """How far a run was that is not running any more."""
    if half_written(folder):
        return "in a checkpoint's write"
    if all((folder / RUN / name).exists() for name in STORED):
        return "when all was there"
    if list(folder.glob(f"{STUDY}/store/*/metrics.csv*")):
        return "while the results were written"
    return "between checkpoints" if list(folder.glob(f"{STUDY}/store/*/checkpoints/*")) else "before a checkpoint"


def terminated_run(random: Random, folder: Path) -> str:
    """SIGTERM the run at a random moment: it saves first. The same command goes on from there."""
    make_inputs(folder)
    with started(command(), folder, folder / LOG) as process:
        wait_for_moment(random, process, folder)
        process.send_signal(signal.SIGTERM)
        for _ in running(process):
            pass
    if process.returncode == SAVED:
        word = "saved first"
        check_saved(folder)
    else:
        word = state(folder) if process.returncode else "after the end"
        # While it is imported, or once its results are being written, there is nothing to save.
        if process.returncode not in (0, -signal.SIGTERM) or word == "between checkpoints":
            raise LostError(f"expected exit code {SAVED}, found {process.returncode}: {tail(folder / LOG)}")
    finish(folder)
    check_whole(folder)
    return word


def check_saved(folder: Path) -> None:
    """Raise LostError unless a run that was asked to end has left the checkpoint that it told of."""
    told = re.search(r"^interrupted after step (\d+); saved (.+)$", tail(folder / LOG), re.MULTILINE)
    saved = sorted(path.relative_to(folder) for path in folder.glob(f"{STUDY}/store/*/checkpoints/*"))
    if not told or not saved or str(saved[-1]) != told[2] or f"step-{int(told[1]):010d}." not in told[2]:
        raise LostError(f"expected a checkpoint that was told of, found {saved}: {tail(folder / LOG)}")


def check_whole(folder: Path) -> None:
    """Raise LostError unless a run is like the one to which nothing happened, and nothing else is left."""
    expected = uninterrupted()
    if found := differences(expected / STUDY, folder / STUDY):
        raise LostError(f"expected the same run as without the fault, found others: {found}")
    if sample(expected) != sample(folder):
        raise LostError(f"expected the text {sample(expected)!r}, found {sample(folder)!r}")
    losses = [read(place / RUN / "summary.json")["validation_loss"] for place in (expected, folder)]
    if losses[0] != losses[1]:
        raise LostError(f"expected the loss {losses[0]}, found {losses[1]}")
    if left := [path for path in folder.rglob("*") if ".tmp-" in path.name or path.name == "checkpoints"]:
        raise LostError(f"expected no leftovers, found {left}")


def sample(folder: Path) -> str:
    """A text that the run's model makes."""
    model, tokenizer = load_run(folder / RUN)
    return "".join(stream(model, tokenizer, "the sun", 1.0, 0.9, 40, seed=0))


FAULTS = (
    Fault("killed run", 30, killed_run, uninterrupted, is_limited=False),
    Fault("terminated run", 10, terminated_run, uninterrupted, is_limited=False),
)
