"""Byte-level BPE beside peers: python -m benchmarks.bpe --corpus FILE --vocab-size N --peers A B --job train.

Two jobs are measured beside peers: training, and encoding a corpus into a file with a tokenizer that lmpipe has trained
on it. Whole processes are timed, from the start of Python to its end, with the corpus in the file cache. lmpipe and a
peer take turns, and each turn gives a ratio: other work on the machine disturbs both. The speed of counting pre-tokens
comes first, with warm kernels. benchmarks/corpora.py makes corpora.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.encoders import ENCODERS
from benchmarks.trainers import END_OF_TEXT, TRAINERS
from lmpipe.provenance.environment import hardware
from lmpipe.tokenizer.bpe_training import train_bpe
from lmpipe.tokenizer.pretoken_counts import count_shard
from lmpipe.tokenizer.tokenizer import Tokenizer

JOBS = {"train": TRAINERS, "encode": ENCODERS}
EXACT_TRAINERS = {"ffbpe"}  # lmpipe's rule for ties: all merges must be the same
UINT16_IDS = 1 << 16


@dataclass
class Job:
    """Training on a corpus, or encoding it with the tokenizer in `folder`."""

    name: str
    corpus: str
    vocab_size: int
    folder: str

    def run(self, contestant: str) -> dict[str, Any]:
        """Do the job once in a process, as `run`; checking the encoded ids is not part of the time."""
        if self.name == "train":
            return run("benchmarks.trainers", contestant, self.corpus, str(self.vocab_size))
        path = Path(self.folder, f"{contestant}.bin")
        encoding = run("benchmarks.encoders", contestant, self.corpus, self.folder, str(path))
        encoding["wall_seconds"] -= encoding["checking_seconds"]
        path.unlink()
        return encoding

    def agreement(self, peer: str, own_output: dict[str, Any], peer_output: dict[str, Any]) -> str:
        """Describe how far the outputs are the same; exit if they must be and are not."""
        if self.name == "train":
            agreement = token_agreement(own_output["tokens"], peer_output["tokens"])
            if peer in EXACT_TRAINERS and agreement != "all":
                sys.exit(f"{peer} merges by the same rules, but made other tokens: {agreement}")
            return agreement
        key = "sha256" if peer_output["sha256"] else "sha256_without_separators"
        if own_output[key] != peer_output[key]:
            sys.exit(f"{peer} encoded the same text with the same tokenizer, but made other ids")
        return "all" if key == "sha256" else "all but separators"


def run(module: str, *arguments: str) -> dict[str, Any]:
    """Run a module in a process; return its output, and `wall_seconds`."""
    start = time.perf_counter()
    process = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True)
    wall_seconds = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"{module} {arguments[0]} failed:\n{process.stderr[-2000:]}")
    return json.loads(process.stdout) | {"wall_seconds": wall_seconds}


def token_agreement(own: list[str], peer: list[str]) -> str:
    """Describe how far two lists of tokens are the same."""
    if own == peer:
        return "all"
    same = next((index for index, pair in enumerate(zip(own, peer, strict=False)) if pair[0] != pair[1]), None)
    if same is None:
        return f"all {min(len(own), len(peer)):,} of the shorter list"
    share = len(set(own) & set(peer)) / max(len(own), 1)
    return f"first {same:,} in order; {share:.1%} of the set"


@contextmanager
def prepare(name: str, corpus: str, vocab_size: int) -> Iterator[Job]:
    """Yield a job; the tokenizer of an encoding is removed afterwards."""
    with TemporaryDirectory(prefix="benchmark-", dir=Path(corpus).parent) as folder:
        if name == "encode":
            Tokenizer(*train_bpe(corpus, vocab_size, [END_OF_TEXT]), [END_OF_TEXT]).save(folder)
        yield Job(name, corpus, vocab_size, folder)


def compare(job: Job, peer: str, runs: int) -> str:
    """Let lmpipe and a peer take turns; return a row of the table."""
    turns = [(job.run("lmpipe"), job.run(peer)) for _ in range(runs)]
    lmpipe_runs, peer_runs = zip(*turns, strict=True)
    ratios = [peer_run["wall_seconds"] / lmpipe_run["wall_seconds"] for lmpipe_run, peer_run in turns]
    lmpipe_seconds, peer_seconds = (median(run["wall_seconds"] for run in runs) for runs in (lmpipe_runs, peer_runs))
    cells = [
        peer,
        f"{lmpipe_seconds:.2f}",
        f"{Path(job.corpus).stat().st_size / 1e6 / lmpipe_seconds:,.0f}",
        f"{peer_seconds:.2f}",
        f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        *(f"{max(run['peak_memory_bytes'] for run in runs) / 2**20:.0f}" for runs in (lmpipe_runs, peer_runs)),
        " / ".join(dict.fromkeys(job.agreement(peer, own, other) for own, other in turns)),
    ]
    return "| " + " | ".join(cells) + " |"


def count_line(corpus: str, runs: int) -> str:
    """Return the speed of counting pre-tokens in this process: the median, without compiling or loading kernels."""
    with TemporaryDirectory(prefix="benchmark-", dir=Path(corpus).parent) as folder:
        outputs = [Path(folder, name) for name in ("counts.npz", "counts.json")]
        shards = [count_shard(corpus, 0, 1, *outputs) for _ in range(runs)]
    seconds = median(shard.wall_seconds for shard in shards)
    rate = shards[0].bytes / 1e6 / seconds
    return f"counting: {rate:,.0f} MB/s ({seconds:.2f} s; kernels before that {shards[0].compile_seconds:.2f} s)"


def read_arguments() -> argparse.Namespace:
    """Parse the arguments; `jobs` is a list of names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    peers = [name for name in dict.fromkeys([*TRAINERS, *ENCODERS]) if name != "lmpipe"]
    parser.add_argument("--corpus", required=True, help="text file with <|endoftext|> between documents")
    parser.add_argument("--vocab-size", type=int, required=True)
    parser.add_argument("--peers", nargs="*", choices=peers, default=peers, help="peers to measure (default: all)")
    parser.add_argument("--job", choices=["count", *JOBS, "all"], default="all", help="job to measure (default: all)")
    parser.add_argument("--runs", type=int, default=3, help="turns of each pair (default: 3)")
    args = parser.parse_args()
    args.jobs = list(JOBS) if args.job == "all" else [args.job]
    if "encode" in args.jobs and args.vocab_size > UINT16_IDS:
        parser.error(f"--vocab-size: is {args.vocab_size:,}; use at most {UINT16_IDS:,} for encoding")
    return args


def main() -> None:
    """Print a table for each job."""
    args, machine = read_arguments(), hardware()
    size = Path(args.corpus).stat().st_size
    print(f"{machine.processor}, {machine.cores} cores; {size / 1e6:,.0f} MB; {args.vocab_size:,} tokens")
    if args.job in ("count", "all"):
        print(count_line(args.corpus, args.runs), flush=True)
    for name in filter(JOBS.__contains__, args.jobs):
        same = "same tokens" if name == "train" else "same ids"
        header = ["peer", "lmpipe s", "lmpipe MB/s", "peer s", "peer / lmpipe", "lmpipe MiB", "peer MiB", same]
        print(f"\n{name}\n\n| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|", flush=True)
        with prepare(name, args.corpus, args.vocab_size) as job:
            job.run("lmpipe")  # fills the file cache
            for peer in args.peers:
                if peer in JOBS[name]:
                    row = compare(job, peer, args.runs) if find_spec(peer) else f"| {peer} | not installed |"
                    print(row, flush=True)


if __name__ == "__main__":
    main()
