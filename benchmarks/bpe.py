"""Byte-level BPE beside its peers: python -m benchmarks.bpe --corpus FILE --vocab-size N --peers A,B --job train.

Two jobs are measured: training, and encoding a corpus into a file with a tokenizer that lmpipe has trained on it. Whole
processes are timed, from the start of Python to its end, with the corpus in the file cache. lmpipe and a peer take
turns, and each turn gives a ratio, so that other work on the machine disturbs both. For corpora: benchmarks/corpora.py.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from benchmarks.encoders import ENCODERS
from benchmarks.trainers import BLOCK_BYTES, END_OF_TEXT, TRAINERS
from lmpipe.provenance.environment import hardware
from lmpipe.tokenizer.bpe_training import train_bpe
from lmpipe.tokenizer.tokenizer import Tokenizer

JOBS = {"train": ("train",), "encode": ("encode",), "both": ("train", "encode")}
EXACT_TRAINERS = {"ffbpe"}  # those that merge by the same rules
UINT16_IDS = 1 << 16


@dataclass
class Run:
    """One whole process: seconds, most bytes of memory, and what it made."""

    wall_seconds: float
    peak_memory_bytes: int
    made: dict[str, Any]


class Job(Protocol):
    """What lmpipe and the peers do."""

    peers: Sequence[str]
    same: str  # the head of the column of agreement

    def run(self, name: str) -> Run:
        """Do it once, in a process of its own."""

    def agreement(self, peer: str, ours: dict[str, Any], theirs: dict[str, Any]) -> str:
        """How far lmpipe and a peer made the same; exits where they must and did not."""


@dataclass
class Training:
    """Merges of a corpus."""

    corpus: str
    vocab_size: int
    peers = tuple(name for name in TRAINERS if name != "lmpipe")
    same = "same tokens"

    def run(self, name: str) -> Run:
        """Train once."""
        return run("benchmarks.trainers", name, self.corpus, str(self.vocab_size))

    def agreement(self, peer: str, ours: dict[str, Any], theirs: dict[str, Any]) -> str:
        """How far two trainings made the same tokens in the same order."""
        same = same_tokens(ours["tokens"], theirs["tokens"])
        if peer in EXACT_TRAINERS and same != "all":
            sys.exit(f"{peer} merges by the same rules, but made other tokens: {same}")
        return same


@dataclass
class Encoding:
    """The ids of a corpus in a file; the tokenizer and the file are in a folder."""

    corpus: str
    folder: str
    peers = tuple(name for name in ENCODERS if name != "lmpipe")
    same = "same ids"

    def run(self, name: str) -> Run:
        """Encode once; neither writing the last file back to the disk nor checking this one is part of the time."""
        output = Path(self.folder, f"{name}.bin")
        found = run("benchmarks.encoders", name, self.corpus, self.folder, str(output))
        found.wall_seconds -= found.made["checking_seconds"]
        output.unlink()
        return found

    def agreement(self, peer: str, ours: dict[str, Any], theirs: dict[str, Any]) -> str:
        """Whether two encodings are the same, for some peers but for the ids of separators."""
        compared = "sha256" if theirs["sha256"] else "sha256_without_separators"
        if ours[compared] != theirs[compared]:
            sys.exit(f"{peer} encoded the same text with the same tokenizer, but made other ids")
        return "all" if compared == "sha256" else "all but separators"


def run(module: str, *arguments: str) -> Run:
    """Run a module in a process of its own."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True)
    wall_seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{module} {arguments[0]} failed:\n{done.stderr[-2000:]}")
    made = json.loads(done.stdout)
    return Run(wall_seconds, made["peak_memory_bytes"], made)


def same_tokens(ours: list[str], theirs: list[str]) -> str:
    """How far two lists of tokens agree."""
    if ours == theirs:
        return "all"
    same = next((place for place, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
    if same is None:
        return f"all {min(len(ours), len(theirs)):,} of the shorter list"
    share = len(set(ours) & set(theirs)) / max(len(ours), 1)
    return f"first {same:,} in order; {share:.1%} of the set"


def read_through(corpus: str) -> None:
    """Bring a file into the file cache."""
    with open(corpus, "rb") as file:
        while file.read(BLOCK_BYTES):
            pass


@contextmanager
def prepared(kind: str, corpus: str, vocab_size: int) -> Iterator[Job]:
    """Yield a job with what it needs, which is removed at the end."""
    if kind == "train":
        yield Training(corpus, vocab_size)
        return
    with TemporaryDirectory(prefix="bench-", dir=Path(corpus).parent) as folder:
        Tokenizer(*train_bpe(corpus, vocab_size, [END_OF_TEXT]), [END_OF_TEXT]).save(folder)
        yield Encoding(corpus, folder)


def compare(job: Job, peer: str, runs: int, size: int) -> str:
    """Let lmpipe and a peer take turns with a corpus of `size` bytes; returns a row of the table."""
    turns = [(job.run("lmpipe"), job.run(peer)) for _ in range(runs)]
    ours, theirs = zip(*turns, strict=True)
    ratios = sorted(their.wall_seconds / our.wall_seconds for our, their in turns)
    agreements = dict.fromkeys(job.agreement(peer, our.made, their.made) for our, their in turns)
    our_seconds = median(turn.wall_seconds for turn in ours)
    cells = [
        peer,
        f"{our_seconds:.2f}",
        f"{size / 1e6 / our_seconds:,.0f}",
        f"{median(turn.wall_seconds for turn in theirs):.2f}",
        f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        f"{max(turn.peak_memory_bytes for turn in ours) / 2**20:.0f}",
        f"{max(turn.peak_memory_bytes for turn in theirs) / 2**20:.0f}",
        " / ".join(agreements),
    ]
    return "| " + " | ".join(cells) + " |"


def print_table(job: Job, wanted: Sequence[str], runs: int, size: int) -> None:
    """Compare with each of the peers that can do the job, after a run that warms."""
    job.run("lmpipe")
    head = ["peer", "lmpipe s", "lmpipe MB/s", "peer s", "peer / lmpipe", "lmpipe MiB", "peer MiB", job.same]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|", flush=True)
    for peer in wanted:
        if peer in job.peers:
            print(compare(job, peer, runs, size) if find_spec(peer) else f"| {peer} | not installed |", flush=True)


def read_arguments() -> argparse.Namespace:
    """Return the arguments; `peers` and `jobs` are lists of names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    peers = list(dict.fromkeys([*Training.peers, *Encoding.peers]))
    parser.add_argument("--corpus", required=True, help="a text file with <|endoftext|> between its documents")
    parser.add_argument("--vocab-size", type=int, required=True)
    parser.add_argument("--peers", default=",".join(peers), help=f"some of {', '.join(peers)} (default: all)")
    parser.add_argument("--job", choices=JOBS, default="both", help="what is measured (default: both)")
    parser.add_argument("--runs", type=int, default=3, help="turns of each pair (default: 3)")
    given = parser.parse_args()
    given.peers, given.jobs = given.peers.split(","), JOBS[given.job]
    if unknown := set(given.peers) - set(peers):
        parser.error(f"--peers: expected some of {', '.join(peers)}, found {', '.join(sorted(unknown))}")
    if "encode" in given.jobs and given.vocab_size > UINT16_IDS:
        parser.error(f"--vocab-size: expected at most {UINT16_IDS:,} for encoding, found {given.vocab_size:,}")
    return given


def main() -> None:
    """Print a table for each job."""
    given, machine = read_arguments(), hardware()
    size = Path(given.corpus).stat().st_size
    print(f"{machine['processor']}, {machine['cores']} cores; {size / 1e6:,.0f} MB; {given.vocab_size:,} tokens")
    for kind in given.jobs:
        read_through(given.corpus)
        print(f"\n{kind}\n", flush=True)
        with prepared(kind, given.corpus, given.vocab_size) as job:
            print_table(job, given.peers, given.runs, size)


if __name__ == "__main__":
    main()
