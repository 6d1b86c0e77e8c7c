"""Faults of a training run: `lmpipe train` is killed, or asked to end, at any moment, and called again."""

import re
import shutil
import signal
import subprocess
from functools import cache
from pathlib import Path
from random import Random

from benchmarks.byte_check import metrics, tensors
from benchmarks.endurance.damaged_files import finished_study
from benchmarks.endurance.faults import Fault, LossError
from benchmarks.endurance.processes import finish, kill_all, poll, start, tail, temp_folder, wait_until
from lmpipe.planning.plan import load_plan
from lmpipe.planning.session import write_study
from lmpipe.study.paths import METRICS, SUMMARY, WEIGHTS, StudyPaths
from tests.support.cli_cases import RESULTS, STUDY

LOG = "train.log"
STEPS = 300
RUN_ID = "tuned/baseline/seed0"
PATHS = StudyPaths(Path(RESULTS))
RUN = PATHS.run("tuned", "baseline", 0)
MODEL = {"context_length": 32, "d_model": 64, "d_ff": 192, "num_layers": 2, "num_heads": 2}
TRAINING = {"batch_size": 8, "max_lr": 0.01, "num_evaluations": 5, "eval_tokens": 256}
CHECKPOINT_SECONDS = 0.05
START_SECONDS = 2.0  # most of the time before the first step: Python and torch are loaded
SAVED = 128 + signal.SIGTERM
POLL_SECONDS = 0.0005  # short enough to see a checkpoint that is being written
COMMAND = ["lmpipe.cli.main", "train", RESULTS, RUN_ID, "--device", "cpu"]
COMMAND += ["--checkpoint-seconds", str(CHECKPOINT_SECONDS)]


def prepare_folder(folder: Path) -> None:
    """Copy the inputs of the run into a folder and write its study.yaml."""
    shutil.copytree(finished_study(), folder, dirs_exist_ok=True)
    for path in (folder / RUN, folder / PATHS.store):
        shutil.rmtree(path, ignore_errors=True)
    experiments = {"tuned": {"corpus": "tiny", "runs": {"baseline": {}}}}
    study = {key: value for key, value in STUDY.items() if key != "samples"}
    study |= {"model": MODEL, "training": TRAINING | {"total_tokens": 32 * 8 * STEPS}, "experiments": experiments}
    study["corpora"] = {"tiny": STUDY["corpora"]["tiny"] | {"files": [f"{folder}/text.txt"]}}
    write_study(load_plan(study, "the run's study"), StudyPaths(folder / RESULTS))


@cache
def undisturbed() -> Path:
    """Return a folder with the run without any fault, made once in this process."""
    folder = temp_folder()
    prepare_folder(folder)
    finish(COMMAND, folder, folder / LOG)
    return folder


def killed_run(random: Random, folder: Path) -> str:
    """SIGKILL the run at a random moment, or while it writes a checkpoint; call it again."""
    prepare_folder(folder)
    during_write = random.random() < 0.5
    with start(COMMAND, folder, folder / LOG) as process:
        wait_for_moment(random, process, folder)
        for _ in poll(process, POLL_SECONDS):
            if not during_write or unfinished_checkpoints(folder):
                break
        word = state(folder) if kill_all(process) else "after the end"
    finish(COMMAND, folder, folder / LOG)
    check_run(folder)
    return word


def terminated_run(random: Random, folder: Path) -> str:
    """SIGTERM the run at a random moment: it saves first. Call it again."""
    prepare_folder(folder)
    with start(COMMAND, folder, folder / LOG) as process:
        wait_for_moment(random, process, folder)
        process.send_signal(signal.SIGTERM)
        for _ in poll(process):
            pass
    if process.returncode == SAVED:
        word = "saved first"
        check_saved(folder)
    else:
        word = state(folder) if process.returncode else "after the end"
        # During imports, or once results are written, there is nothing to save.
        if process.returncode not in (0, -signal.SIGTERM) or word == "between checkpoints":
            raise LossError(f"exit code {process.returncode} instead of {SAVED}: {tail(folder / LOG)}")
    finish(COMMAND, folder, folder / LOG)
    check_run(folder)
    return word


def wait_for_moment(random: Random, process: subprocess.Popen, folder: Path) -> None:
    """Wait until a random fraction of the run is done."""
    fraction = random.uniform(-0.3, 1.1)
    delay = random.uniform(0, START_SECONDS if fraction < 0 else 2 * CHECKPOINT_SECONDS)
    wait_until(process, lambda: progress(folder) >= fraction, delay, 10 * POLL_SECONDS)


def progress(folder: Path) -> float:
    """Fraction of the steps up to the newest checkpoint; 2 once results are written."""
    store = folder / PATHS.store
    if list(store.glob(f"*/{METRICS}*")):
        return 2.0
    steps = [int(path.stem.removeprefix("step-")) for path in store.glob("*/checkpoints/step-*.safetensors")]
    return max(steps, default=0) / STEPS


def unfinished_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints that are being written, or were when their writer was killed."""
    return list((folder / PATHS.store).glob("*/checkpoints/*.tmp-*"))


def state(folder: Path) -> str:
    """Return the progress of a run that was stopped."""
    store = folder / PATHS.store
    if unfinished_checkpoints(folder):
        return "in a checkpoint's write"
    if all((folder / RUN / name).exists() for name in (SUMMARY, METRICS, WEIGHTS)):
        return "with all results"
    if list(store.glob(f"*/{METRICS}*")):
        return "while results were written"
    return "between checkpoints" if list(store.glob("*/checkpoints/*")) else "before a checkpoint"


def check_saved(folder: Path) -> None:
    """Raise LossError unless the interrupted run left the checkpoint that its log names."""
    match = re.search(r"after step (\d+); saved (.+)$", tail(folder / LOG), re.MULTILINE)
    saved = sorted(path.relative_to(folder) for path in (folder / PATHS.store).glob("*/checkpoints/*"))
    if not match or not saved or str(saved[-1]) != match[2] or f"step-{int(match[1]):010d}." not in match[2]:
        raise LossError(f"the log names no checkpoint of {saved}: {tail(folder / LOG)}")


def check_run(folder: Path) -> None:
    """Raise LossError unless the run equals the undisturbed one, byte for byte, and left nothing behind."""
    expected = undisturbed()
    for name, read in ((METRICS, metrics), (WEIGHTS, tensors)):
        if read(expected / RUN / name) != read(folder / RUN / name):
            raise LossError(f"{name} differs from the undisturbed run's")
    if leftovers := [path for path in (folder / RESULTS).rglob("*") if ".tmp-" in path.name]:
        raise LossError(f"leftovers: {leftovers}")
    if unfinished := list((folder / PATHS.store).glob("*/checkpoints")):
        raise LossError(f"checkpoints of a finished run: {unfinished}")


FAULTS = (
    Fault("killed run", 30, killed_run, undisturbed, is_limited=False),
    Fault("terminated run", 10, terminated_run, undisturbed, is_limited=False),
)
