"""One table of training on a GPU, within ten minutes on an H100: `python -m benchmarks.gpu`.

`train` trains the handout's model, in bfloat16 and compiled, on 327,680,000 tokens. Beside it: peers for 200 warm steps
of the same shape, small runs that share the GPU, memory and its prediction, and a run that is stopped and resumed. A
peer that is not installed is named, and what no time is left for. `--smoke` does all this with tiny models.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.training import PEAK_FLOPS, PEERS, SHAPES, Shape, lmpipe_steps, peer_steps, random_batches, shape
from lmpipe.data.encode import encode_file
from lmpipe.model.accounting import forward_flops
from lmpipe.model.activation_memory import step_bytes
from lmpipe.study.experiments import PlannedRun
from lmpipe.study.paths import METRICS, WEIGHTS
from lmpipe.study.settings import TrainingSettings
from lmpipe.tokenizer.bpe_training import train_bpe
from lmpipe.tokenizer.tokenizer import Tokenizer
from lmpipe.training.devices import device_name, find_device, set_deterministic
from lmpipe.training.profiling import StepTimer, warm_up
from lmpipe.training.progress import PROGRESS
from lmpipe.training.run import train
from lmpipe.training.run_documents import RunSummary

END_OF_TEXT = "<|endoftext|>"
SHARED_RUNS = 4
DISTINCT_WORDS = 50_000


class Scale(NamedTuple):
    """Shapes and lengths of the measurements."""

    main: Shape
    small: Shape
    main_steps: int
    warm_steps: int
    short_steps: int
    words: int


FULL = Scale(SHAPES["handout"], shape((128, 64, 192, 4, 4, 10_000), 32, "bfloat16", 1), 40_000, 200, 400, 10_000_000)
TINY = Scale(*[shape((32, 32, 64, 1, 2, 400), 4, "float32", 1)] * 2, 20, 4, 20, 20_000)


# --- in processes of their own ----------------------------------------------------------------------------------------


def train_run(run: str, folder: str, output: str, runs_per_gpu: int) -> None:
    """Train a run, given as JSON."""
    train(PlannedRun.model_validate_json(run), folder, output, runs_per_gpu=runs_per_gpu, checkpoint_seconds=1.0)


def warm_steps(name: str, is_smoke: bool) -> None:
    """Print the tokens per second of a contestant over its warm steps; on a GPU it is compiled."""
    scale, device = TINY if is_smoke else FULL, find_device()
    options = (scale.main, device, not is_smoke, random_batches(scale.main, device))
    _, run = lmpipe_steps(*options) if name == "lmpipe" else peer_steps(name, *options)
    run(20)
    start = time.perf_counter()
    run(scale.warm_steps)
    tokens = scale.warm_steps * scale.main.batch_size * scale.main.model.context_length
    print(json.dumps(tokens / (time.perf_counter() - start)))


def step_memory(batch_size: int, is_smoke: bool) -> None:
    """Print the predicted and the measured peak memory of an eager step, in bytes."""
    main, device = (TINY if is_smoke else FULL).main, find_device()
    training = TrainingSettings(total_tokens=2**40, batch_size=batch_size, max_lr=1e-3, precision=main.precision)
    set_deterministic(1, device)
    warm_up(main.model, training, device)
    measured = StepTimer(main.model, training, device, 0, 0).measure(batch_size).memory_bytes
    print(json.dumps([step_bytes(main.model, main.precision, batch_size, device.type == "cuda"), measured]))


def start(function: Callable[..., None], *args: Any) -> subprocess.Popen:
    """Call a function of this module in a new process."""
    code = f"from benchmarks.gpu import {function.__name__} as call; call(*{args!r})"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def result_of(process: subprocess.Popen, seconds: float | None = None) -> Any:
    """Return what a process prints last, as JSON; raise RuntimeError if it fails or takes longer than `seconds`."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        raise RuntimeError("the time is up") from None
    if process.returncode:
        raise RuntimeError(f"failed with exit code {process.returncode}; its output is above")
    return json.loads(output.splitlines()[-1]) if output else None


# --- the table --------------------------------------------------------------------------------------------------------


class Measurements:
    """Rows of the table, each of what was measured, its result, and what stands beside it."""

    def __init__(self, scale: Scale, folder: Path, minutes: float):
        self.scale, self.folder, self.is_smoke = scale, folder, scale is TINY
        self.end = time.monotonic() + 60 * minutes
        self.peak = next((peak for name, peak in PEAK_FLOPS.items() if name in device_name(find_device())), None)
        self.rows: list[tuple[str, str, str]] = []

    def prepare(self) -> None:
        """Write token files of random words with the frequencies of Zipf's law."""
        rng = np.random.default_rng(0)
        letters = rng.integers(ord("a"), ord("z") + 1, (DISTINCT_WORDS, 7), dtype=np.uint8)
        words = [bytes(word[: 2 + index % 6]).decode() for index, word in enumerate(letters)]
        odds = 1 / np.arange(1, DISTINCT_WORDS + 1)
        for split, count in (("train", self.scale.words), ("valid", self.scale.words // 100)):
            drawn = " ".join(words[index] for index in rng.choice(DISTINCT_WORDS, count, p=odds / odds.sum()))
            (self.folder / f"{split}.txt").write_text(f"{drawn}\n{END_OF_TEXT}\n", encoding="utf-8")
        vocab_size = self.scale.main.model.vocab_size
        tokenizer = Tokenizer(*train_bpe(self.folder / "valid.txt", vocab_size, [END_OF_TEXT]), [END_OF_TEXT])
        tokenizer.save(self.folder / "tokenizers/words")
        for split in ("train", "valid"):
            target = self.folder / f"tokens/words/{split}.bin"
            encode_file(self.folder / f"{split}.txt", tokenizer, target, target.with_suffix(".json"), "words")

    def start_run(
        self,
        shape: Shape,
        steps: int,
        name: str,
        seed: int = 0,
        runs_per_gpu: int = 1,
        store: str = ".",
        **settings: Any,
    ) -> subprocess.Popen:
        """Start a run of a shape; its results are in the folder `name` of `store`."""
        training = {"total_tokens": steps * shape.batch_size * shape.model.context_length, "max_lr": 1e-3} | settings
        training |= {"batch_size": shape.batch_size, "precision": shape.precision}
        model = shape.model.model_dump(exclude={"vocab_size"})
        names = {"study": "gpu", "experiment": "speed", "corpus": "words", "tokenizer": "words", "overrides": {}}
        run = PlannedRun(**names, name="run", seed=seed, model=model, training=training)
        folder = self.folder / store
        if not folder.exists():
            folder.mkdir()
            for shared in ("tokens", "tokenizers"):
                (folder / shared).symlink_to(self.folder / shared)
        return start(train_run, run.model_dump_json(), str(folder), str(folder / name), runs_per_gpu)

    def summary(self, name: str, store: str = ".") -> RunSummary:
        """Read the summary of a run."""
        return RunSummary.read(self.folder / store / name / "summary.json")

    def mfu(self, tokens_per_second: float) -> str:
        """Return the model FLOPs utilization as text."""
        flops = 3 * forward_flops(self.scale.main.model) / self.scale.main.model.context_length
        return f"MFU {flops * tokens_per_second / self.peak:.1%}" if self.peak else "no peak known for this device"

    def full_run(self) -> None:
        """Train the main shape in full."""
        setting = "never" if self.is_smoke else "always"
        run = self.start_run(self.scale.main, self.scale.main_steps, "main", compile=setting)
        result_of(run, self.end - time.monotonic())
        done = self.summary("main")
        rate = f"{done.tokens_per_second:,.0f} tokens/s, {done.train_seconds:.0f} s"
        facts = f"compiled: {done.compile} in {done.compile_seconds:.0f} s, peak {done.peak_memory_bytes / 1e9:.2f} GB"
        self.rows.append((f"train, {done.tokens:,} tokens", rate, f"{self.mfu(done.tokens_per_second)}, {facts}"))

    def contestant(self, name: str) -> None:
        """Take the warm steps of a contestant."""
        rate = result_of(start(warm_steps, name, self.is_smoke))
        self.rows.append((f"{name}, {self.scale.warm_steps} warm steps", f"{rate:,.0f} tokens/s", self.mfu(rate)))

    def memory(self) -> None:
        """Measure the memory of steps of two batch sizes beside the prediction."""
        for batch_size in (self.scale.main.batch_size, 4 * self.scale.main.batch_size):
            predicted, measured = result_of(start(step_memory, batch_size, self.is_smoke))
            beside = f"predicted {predicted / 1e9:.3f} GB ({predicted / max(1, measured) - 1:+.0%})"
            self.rows.append((f"memory of a step, batch {batch_size}", f"{measured / 1e9:.3f} GB", beside))

    def sharing(self) -> None:
        """Train one small run alone, then several at once."""
        steps = 10 * self.scale.short_steps  # long enough that most of the runs' time is common
        result_of(self.start_run(self.scale.small, steps, "alone"))
        alone = self.summary("alone").tokens_per_second
        names = {seed: f"shared{seed}" for seed in range(1, SHARED_RUNS + 1)}
        runs = [self.start_run(self.scale.small, steps, name, seed, SHARED_RUNS) for seed, name in names.items()]
        for run in runs:
            result_of(run)
        together = sum(self.summary(name).tokens_per_second for name in names.values())
        beside = f"one alone {alone:,.0f}: {together / alone:.2f} times"
        self.rows.append((f"{SHARED_RUNS} small runs at once", f"{together:,.0f} tokens/s", beside))

    def resume(self) -> None:
        """Stop a run in its first steps, which saves it, resume it, and compare it with one that was not stopped."""
        options = {"seed": 9, "compile": "never"}
        steps = 5 * self.scale.short_steps
        result_of(self.start_run(self.scale.main, steps, "run", store="whole", **options))
        stopped = self.start_run(self.scale.main, steps, "run", store="stopped", **options)
        while not list(self.folder.glob(f"stopped/store/*/{PROGRESS}")) and stopped.poll() is None:
            time.sleep(0.02)
        stopped.terminate()
        stopped.communicate()
        result_of(self.start_run(self.scale.main, steps, "run", store="stopped", **options))
        folders = [self.folder / store / "run" for store in ("whole", "stopped")]
        weights = [(folder / WEIGHTS).read_bytes() for folder in folders]
        metrics = [np.genfromtxt(folder / METRICS, delimiter=",", names=True) for folder in folders]
        is_same = weights[0] == weights[1] and all(
            np.array_equal(metrics[0][key], metrics[1][key], equal_nan=True) for key in ("train_loss", "grad_norm")
        )
        resumes = self.summary("run", "stopped").num_resumes
        self.rows.append(("a resumed run", "the same bytes" if is_same else "OTHER BYTES", f"resumed {resumes} times"))

    def measure(self, name: str, function: Callable[..., None], *args: Any) -> None:
        """Make a measurement if there is time, and add a row if it fails."""
        if time.monotonic() > self.end:
            self.rows.append((name, "not measured", "the time is up"))
            return
        try:
            function(*args)
        except (RuntimeError, ImportError) as error:
            self.rows.append((name, "not measured", str(error)))


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--smoke", action="store_true", help="tiny models, a few steps; also without a GPU")
    parser.add_argument("--minutes", type=float, default=9.0, help="start no measurement after this time (default 9)")
    args = parser.parse_args()
    device = find_device()
    if device.type != "cuda":
        print("There is no GPU here." + ("" if args.smoke else " --smoke runs tiny models on the CPU."))
        if not args.smoke:
            sys.exit(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{folder}/compiled")  # all processes compile once
        measured = Measurements(TINY if args.smoke else FULL, Path(folder), args.minutes)
        measured.prepare()
        measured.measure("train", measured.full_run)
        for name in ("lmpipe", *PEERS):
            measured.measure(name, measured.contestant, name)
        measured.measure("memory", measured.memory)
        measured.measure("sharing", measured.sharing)
        measured.measure("resuming", measured.resume)
    print(f"{device_name(device)}, torch {torch.__version__}, {measured.scale.main}")
    widths = [max(len(row[column]) for row in measured.rows) for column in range(2)]
    for what, result, beside in measured.rows:
        print(f"{what:<{widths[0]}}  {result:>{widths[1]}}  {beside}")


if __name__ == "__main__":
    main()
