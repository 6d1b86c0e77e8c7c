"""Training steps beside peers: `python -m benchmarks.training [--shape wide] [--threads 1]`.

The peers are transformers' LlamaForCausalLM and a GPT of nanoGPT's shape (benchmarks/gpt.py), each eager and compiled,
with the same shape, batch, precision, threads and optimizer (AdamW, gradients clipped at 1). Each contestant is a
separate process. They take turns, and each turn gives a ratio. The ceiling is the speed of a large matrix product in
the same precision and threads; the share of it counts the model's matrix products alone.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from lmpipe.cli.main import SPINNING
from lmpipe.model.accounting import forward_flops
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import ModelConfig, TrainingSettings
from lmpipe.training.compile import compile_step
from lmpipe.training.devices import device_name, find_device, set_deterministic
from lmpipe.training.step import DivergenceMonitor, TrainingStep

MAX_LR = 1e-3
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense, bfloat16, by device name


@dataclass(frozen=True)
class Shape:
    """Training setup: model, sequences in a batch, precision, and CPU threads."""

    model: ModelConfig
    batch_size: int
    precision: str
    threads: int


def shape(sizes: tuple[int, ...], batch_size: int, precision: str, threads: int) -> Shape:
    """Shape of a model of context_length, d_model, d_ff, num_layers, num_heads and vocab_size."""
    names = ("context_length", "d_model", "d_ff", "num_layers", "num_heads", "vocab_size")
    return Shape(ModelConfig(**dict(zip(names, sizes, strict=True))), batch_size, precision, threads)


SHAPES = {
    "laptop": shape((128, 64, 192, 4, 4, 1024), 8, "float32", 1),  # config/config.yaml
    "wide": shape((256, 256, 688, 4, 8, 2048), 8, "bfloat16", 2),
    "handout": shape((256, 512, 1344, 4, 16, 10_000), 32, "bfloat16", 1),  # config/cs336.yaml, for a GPU
}
PEERS = ("transformers", "nanoGPT")
CONTESTANTS = [(name, setting) for name in ("lmpipe", *PEERS) for setting in ("eager", "compiled")]

BATCHES = 256  # enough that no contestant memorizes them
Batch = tuple[torch.Tensor, torch.Tensor]
Steps = Callable[[int], None]  # computes a number of steps and waits for them


# --- a contestant, in its own process --------------------------------------------------------------------------------


def lmpipe_steps(shape: Shape, device: torch.device, is_compiled: bool, batches: Iterator[Batch]):
    """Return the model and steps of `lmpipe train`."""
    sizes = {"total_tokens": 2**40, "batch_size": shape.batch_size}
    training = TrainingSettings(**sizes, max_lr=MAX_LR, precision=shape.precision)
    set_deterministic(shape.threads, device)
    model = TransformerLM(shape.model, seed=0).to(device)
    step = TrainingStep(model, training, DivergenceMonitor(device, warmup_steps=2**40))
    if is_compiled and not compile_step(step, shape.batch_size, Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])):
        raise SystemExit("lmpipe could not compile")

    def run(count: int) -> None:
        for _ in range(count):
            step.run(1, *next(batches), MAX_LR)
        step.collect()

    return model, run


def peer_steps(name: str, shape: Shape, device: torch.device, is_compiled: bool, batches: Iterator[Batch]):
    """Return the model and steps of a peer, written like its own examples."""
    if name == "nanoGPT":
        from benchmarks.gpt import GPT

        model = GPT(shape.model).to(device)
    else:
        model = llama(shape.model).to(device)

    def compute_loss(token_ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=shape.precision == "bfloat16"):
            output = model(token_ids)
        logits = output if name == "nanoGPT" else output.logits
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    compute_loss = torch.compile(compute_loss) if is_compiled else compute_loss
    torch.set_num_threads(shape.threads)
    optimizer = torch.optim.AdamW(model.parameters(), lr=MAX_LR, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def run(count: int) -> None:
        for _ in range(count):
            loss = compute_loss(*next(batches))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        loss.item()

    return model, run


def llama(config: ModelConfig) -> torch.nn.Module:
    """Return the same model in transformers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": config.vocab_size, "hidden_size": config.d_model, "intermediate_size": config.d_ff}
    sizes |= {"num_hidden_layers": config.num_layers, "num_attention_heads": config.num_heads}
    sizes |= {"max_position_embeddings": config.context_length}
    return LlamaForCausalLM(LlamaConfig(**sizes, rms_norm_eps=1e-5, tie_word_embeddings=False, use_cache=False))


def random_batches(shape: Shape, device: torch.device) -> Iterator[Batch]:
    """Return inputs and targets (batch, seq), which repeat after BATCHES."""
    generator = torch.Generator().manual_seed(0)
    size = (BATCHES, 2, shape.batch_size, shape.model.context_length)
    batches = torch.randint(shape.model.vocab_size, size, generator=generator).to(device)
    return cycle((inputs, targets) for inputs, targets in batches)


def ceiling_steps(shape: Shape, device: torch.device) -> tuple[float, Steps]:
    """FLOPs of one large matrix product, and a function that computes some of them."""
    size = 8192 if device.type == "cuda" else 1024
    torch.set_num_threads(shape.threads)
    first, second = (torch.randn(size, size, device=device).to(getattr(torch, shape.precision)) for _ in range(2))

    def run(count: int) -> None:
        for _ in range(count):
            product = first @ second
        product[0, 0].item()

    return 2.0 * size**3, run


def contest(name: str, setting: str, shape: Shape, device: torch.device, seconds: float) -> None:
    """Print facts, then take a turn for each line of standard input and print tokens (or FLOPs) per second."""
    facts = {"device": device_name(device)}
    if name == "ceiling":
        units, run = ceiling_steps(shape, device)
    else:
        units = shape.batch_size * shape.model.context_length
        options = (shape, device, setting == "compiled", random_batches(shape, device))
        model, run = lmpipe_steps(*options) if name == "lmpipe" else peer_steps(name, *options)
        facts["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    run(3)
    start = time.perf_counter()
    run(3)
    steps = max(1, round(seconds / (time.perf_counter() - start) * 3))
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run(steps)
        print(json.dumps(steps * units / (time.perf_counter() - start)), flush=True)


# --- the contest -----------------------------------------------------------------------------------------------------


class Contestant:
    """Process of one contestant, its facts, and its rate in each turn."""

    def __init__(self, name: str, setting: str, args: argparse.Namespace, cache: str):
        self.name, self.setting = name, setting
        command = [sys.executable, "-m", "benchmarks.training", "--shape", args.shape, "--device", args.device]
        command += ["--seconds", str(args.seconds), "--contestant", name, setting]
        command += ["--threads", str(args.threads)] if args.threads else []
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": f"{cache}/{name}-{setting}"}
        environment |= SPINNING if name == "lmpipe" else {}  # as the command sets it
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, **pipes, text=True, env=environment)
        self.facts: dict[str, Any] = {}
        self.rates: list[float] = []

    def wait_until_ready(self) -> None:
        """Wait for the facts, which the process prints once it has compiled."""
        self.facts = self.facts or self.read()

    def read(self) -> Any:
        """Read the next line of the process, as JSON."""
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"benchmarks.training: {self.name} {self.setting} failed; its output is above")
        return json.loads(line)

    def take_turn(self) -> None:
        """Let the process run alone for a turn and append its rate."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.rates.append(self.read())

    @property
    def median(self) -> float:
        """Median rate."""
        return statistics.median(self.rates)


def table(contestants: list[Contestant], ceiling: Contestant, shape: Shape) -> list[str]:
    """Return a row for each contestant, and the ratios of lmpipe to the fastest peer."""
    flops = 3 * forward_flops(shape.model) / shape.model.context_length
    peak = next((peak for name, peak in PEAK_FLOPS.items() if name in ceiling.facts["device"]), None)
    lines = [f"{'contestant':24} {'parameters':>12} {'tokens/s':>12} {'range':>25} {'of ceiling':>11} {'MFU':>7}"]
    for contestant in contestants:
        title = f"{contestant.name} {contestant.setting}"
        span = f"{min(contestant.rates):,.0f} to {max(contestant.rates):,.0f}"
        mfu = f"{flops * contestant.median / peak:.1%}" if peak and shape.precision == "bfloat16" else "-"
        cells = f"{title:24} {contestant.facts['parameters']:>12,} {contestant.median:>12,.0f} {span:>25} "
        lines.append(cells + f"{flops * contestant.median / ceiling.median:>11.1%} {mfu:>7}")
    peers = [contestant for contestant in contestants if contestant.name in PEERS]
    peer = max(peers, key=lambda contestant: contestant.median, default=None)
    for contestant in contestants:
        if contestant.name == "lmpipe" and peer:
            ratios = [rate / peer_rate for rate, peer_rate in zip(contestant.rates, peer.rates, strict=True)]
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            lines.append(f"lmpipe {contestant.setting} / {peer.name} {peer.setting}: {ratio}")
    return lines


def main() -> None:
    """Let all contestants take turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="laptop", help="training setup (default laptop)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: the shape's)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contestant (default 7)")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a turn (default 1.5)")
    parser.add_argument("--only", nargs="*", default=[], help="contestants such as lmpipe-eager (default all)")
    parser.add_argument("--busy-cores", type=int, default=0, help="cores that other programs keep busy (default 0)")
    parser.add_argument("--cache", help="folder that keeps compiled code for the next call (default none)")
    parser.add_argument("--contestant", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    shape = replace(shape, threads=args.threads or shape.threads)
    if args.contestant:
        contest(*args.contestant, shape, find_device(args.device), args.seconds)
        return
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        pairs = [pair for pair in CONTESTANTS if not args.only or "-".join(pair) in args.only]
        everyone = []
        for pair in (*pairs, ("ceiling", "matmul")):
            everyone.append(Contestant(*pair, args, args.cache or temporary))
            stack.enter_context(everyone[-1].process)  # at the end: closes its standard input, and waits
            if shape.threads > 1:  # several processes of several threads start slowly at once
                everyone[-1].wait_until_ready()
        for contestant in everyone:
            contestant.wait_until_ready()
        for core in range(args.busy_cores):
            busy = stack.enter_context(
                subprocess.Popen(["taskset", "-c", str(core), "sh", "-c", "while :; do :; done"])
            )
            stack.callback(busy.kill)
        for contestant in everyone * args.rounds:
            contestant.take_turn()
    *contestants, ceiling = everyone
    print(f"{args.shape}: {shape.model}, batch size {shape.batch_size}, {shape.precision}, {shape.threads} threads")
    print(f"{ceiling.facts['device']}, torch {torch.__version__}; matmul ceiling {ceiling.median / 1e9:,.0f} GFLOP/s")
    print("\n".join(table(contestants, ceiling, shape)))


if __name__ == "__main__":
    main()
