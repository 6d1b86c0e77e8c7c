"""The memory of every stage that reads a text, however large the text: `python -m benchmarks.memory --gigabytes 3`.

Makes a text of the story grammar, sends it through the subcommands that the workflow calls, each in a process of its
own, and prints the most memory that each of them held; exit code 1 says that one held more than the limit. The folder
takes about three times the size of the text, which is kept for the next call. Linux only: memory is read from /proc.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT_BYTES = 1_000_000_000
SAMPLED_EVERY_SECONDS = 0.005
# Parts with seeds of their own, so that several processes can make the text. Their number is fixed, because the text
# must not depend on the machine.
PARTS = 4
STORY_BYTES = 920
SHARDS = 4
VOCAB_SIZE = 4096
SPLITTING = {"name": "text", "source": "url", "valid_fraction": 0.01}
COMPARISON = {"corpora": ["text"], "tokenizers": {"text": "text"}}
RUN = {
    "study": "bench",
    "experiment": "memory",
    "run": "text",
    "seed": 0,
    "corpus": "text",
    "tokenizer": "text",
    "varied": {},
    "model": {"context_length": 128, "d_model": 32, "d_ff": 96, "num_layers": 1, "num_heads": 2},
    "training": {"total_tokens": 1 << 18, "batch_size": 8, "max_lr": 0.01},
}
SAMPLES = {
    "corpus": "text",
    "run": "memory/text",
    "seed": 0,
    "prompts": ["Once upon a time"],
    "max_new_tokens": 100,
    "temperature": [1.0],
    "top_p": [1.0],
}
COLUMNS = "{:26}{:>9}{:>8}{:>9}{:>11}{:>8}  {}"

Command = list[Any]


@dataclass(frozen=True)
class Stage:
    """A stage of the workflow: the `lmpipe` commands that it takes, and how many bytes of text they read to the end."""

    name: str
    commands: Sequence[Command]
    text_bytes: int = 0


@dataclass(frozen=True)
class Cost:
    """Seconds, and the most memory of one process in bytes.

    `peak_bytes` is all resident memory. `allocated_bytes` and `mapped_bytes` are its two kinds, each at its own peak:
    what the process asked for, and what it mapped from files, libraries among them.
    """

    seconds: float
    peak_bytes: int
    allocated_bytes: int
    mapped_bytes: int


def measure(command: Command) -> Cost:
    """Run `lmpipe COMMAND` and measure it; ends the program with its messages where it fails."""
    peaks = {"VmHWM": 0, "RssAnon": 0, "RssFile": 0}
    with tempfile.TemporaryFile() as messages:
        started = time.perf_counter()
        arguments = [sys.executable, "-m", "lmpipe.cli.main", *map(str, command)]
        process = subprocess.Popen(arguments, stdout=messages, stderr=messages)
        while process.poll() is None:
            for name, size in resident_memory(process.pid).items():
                peaks[name] = max(peaks[name], size)
            time.sleep(SAMPLED_EVERY_SECONDS)
        seconds = time.perf_counter() - started
        if process.returncode:
            messages.seek(0)
            sys.exit(f"lmpipe {command[0]} failed:\n{messages.read().decode(errors='replace')}")
    return Cost(seconds, *peaks.values())


def resident_memory(process_id: int) -> dict[str, int]:
    """The memory of a process in bytes, by the kernel's names (VmHWM is its peak so far); empty once it has ended."""
    try:
        lines = Path(f"/proc/{process_id}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    values = dict(line.split(":", 1) for line in lines)
    return {name: int(values[name].split()[0]) * 1024 for name in ("VmHWM", "RssAnon", "RssFile") if name in values}


def measure_stage(stage: Stage, at_once: int = 1) -> Cost:
    """The cost of a stage: the seconds of all its commands together, the memory of the largest."""
    with ThreadPoolExecutor(at_once) as pool:
        costs = list(pool.map(measure, stage.commands))
    return Cost(
        sum(cost.seconds for cost in costs),
        max(cost.peak_bytes for cost in costs),
        max(cost.allocated_bytes for cost in costs),
        max(cost.mapped_bytes for cost in costs),
    )


def text_stage(folder: Path, size: int) -> Stage:
    """Making the parts of a text of about `size` bytes that the folder does not have yet."""
    stories = {"name": "text", "source": "stories", "documents": -(-size // (PARTS * STORY_BYTES))}
    wanted = {folder / f"part{seed}": stories | {"seed": seed} for seed in range(PARTS)}
    missing = [make_corpus(settings, part) for part, settings in wanted.items() if settings_of(part) != settings]
    return Stage("make-corpus, stories", missing, size * len(missing) // PARTS)


def settings_of(corpus: Path) -> dict[str, Any] | None:
    """The settings that a corpus was made by; None where there is none."""
    record = corpus / "corpus.json"
    return json.loads(record.read_text(encoding="utf-8"))["settings"] if record.exists() else None


def make_corpus(settings: dict[str, Any], folder: Path, *texts: Path) -> Command:
    """The command that makes a corpus."""
    return ["make-corpus", "--settings", json.dumps(settings), "--output", folder, "--texts", *texts]


def stages(texts: Sequence[Path], results: Path) -> list[Stage]:
    """Every stage that reads a corpus, in the workflow's order; each leaves in `results` what later ones need."""
    corpus, tokenizer, tokens = (results / kind / "text" for kind in ("corpora", "tokenizers", "tokens"))
    train, valid, run = corpus / "train.txt", corpus / "valid.txt", results / "runs/memory/text/seed0"
    size = sum(text.stat().st_size for text in texts)
    learn = ["train-bpe", "--counts", *counts_of(results, SHARDS), "--corpus", "text", "--vocab-size", VOCAB_SIZE]
    encode = ["encode-corpus", "--tokenizer", tokenizer]
    compare = ["compare-tokenizers", "--settings", json.dumps(COMPARISON), "--results", results]
    fit = ["train", "--settings", json.dumps(RUN), "--results", results]
    sample = ["generate", "--run", run, "--settings", json.dumps(SAMPLES), "--texts", train, valid]
    return [
        Stage("make-corpus, splitting", [make_corpus(SPLITTING, corpus, *texts)], size),
        Stage("count-pretokens, whole", count_pretokens(train, results, 1), size),
        Stage("count-pretokens, shards", count_pretokens(train, results, SHARDS), size),
        Stage("train-bpe", [[*learn, "--output", tokenizer]]),
        Stage(
            "encode-corpus",
            [[*encode, "--text", text, "--output", tokens / f"{text.stem}.bin"] for text in (train, valid)],
            size,
        ),
        Stage("compare-tokenizers", [[*compare, "--output", results / "tokenizer_experiments.json"]], size),
        Stage("train", [[*fit, "--output", run]]),
        Stage("generate", [[*sample, "--output", results / "samples/text.json"]]),
    ]


def count_pretokens(text: Path, results: Path, shards: int) -> list[Command]:
    """The commands that count a text, one for each shard."""
    command = ["count-pretokens", "--text", text, "--shards", shards]
    outputs = enumerate(counts_of(results, shards))
    return [[*command, "--shard", shard, "--output", output] for shard, output in outputs]


def counts_of(results: Path, shards: int) -> list[Path]:
    """Where the counts of the shards lie."""
    return [results / f"pretokens/{shards}/{shard}.npz" for shard in range(shards)]


def row(stage: Stage, cost: Cost) -> str:
    """A line of the table; MB/s only of the stages that read the whole text."""
    rate = f"{stage.text_bytes / cost.seconds / 1e6:.1f}" if stage.text_bytes else ""
    memory = [f"{size / 1e6:.0f}" for size in (cost.peak_bytes, cost.allocated_bytes, cost.mapped_bytes)]
    verdict = "below" if cost.peak_bytes < LIMIT_BYTES else "ABOVE"
    return COLUMNS.format(stage.name, f"{cost.seconds:.1f}", rate, *memory, verdict)


def main() -> int:
    """Make the text, measure every stage and print the table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--gigabytes", type=float, default=3.0, help="size of the text (default 3)")
    parser.add_argument("--folder", type=Path, default=Path("results/bench-memory"), help="for the text and results")
    given = parser.parse_args()
    if not Path("/proc/self/status").exists():
        sys.exit("benchmarks.memory: expected /proc, where memory is read, found none; run it on Linux")
    print(f"{given.gigabytes:g} GB of text; memory of the largest process in MB, limit {LIMIT_BYTES / 1e6:.0f}")
    print(COLUMNS.format("stage", "seconds", "MB/s", "peak", "allocated", "mapped", "limit"), flush=True)
    costs = []

    def show(stage: Stage, at_once: int = 1) -> None:
        costs.append(measure_stage(stage, at_once))
        print(row(stage, costs[-1]), flush=True)

    making = text_stage(given.folder, int(given.gigabytes * 1e9))
    if making.commands:
        show(making, os.cpu_count())
    results = given.folder / "results"
    shutil.rmtree(results, ignore_errors=True)
    for stage in stages([given.folder / f"part{seed}/train.txt" for seed in range(PARTS)], results):
        show(stage)
    return int(any(cost.peak_bytes >= LIMIT_BYTES for cost in costs))


if __name__ == "__main__":
    sys.exit(main())
