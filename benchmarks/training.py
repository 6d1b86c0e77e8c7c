"""How fast a training step is, beside its peers: `python -m benchmarks.training [--shape wide] [--device cuda]`.

The peers are transformers' LlamaForCausalLM and a GPT of nanoGPT's shape (bench/gpt.py), each as it is and compiled,
with the same shape, batch, precision, threads and optimizer (AdamW, gradients clipped at 1). Each contestant is a
process of its own and they take turns; a ratio is that of two figures of one turn. The ceiling is what a large matrix
multiply reaches in the same precision and threads; the share of it counts the model's matrix multiplies alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812

from lmpipe.model.accounting import forward_flops
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import ModelConfig, TrainingSettings
from lmpipe.training.compile import compile_step
from lmpipe.training.devices import device_name, find_device, set_deterministic
from lmpipe.training.step import DivergenceMonitor, TrainingStep

RATE = 1e-3
# Peaks of dense matrix multiplies in bfloat16, in FLOP/s, by what the device calls itself.
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}


@dataclass(frozen=True)
class Shape:
    """What is trained: the model, sequences of a batch, precision, and threads of the CPU."""

    model: ModelConfig
    batch_size: int
    precision: str
    threads: int


SHAPES = {
    # The study of config/config.yaml.
    "laptop": Shape(
        ModelConfig(context_length=128, d_model=64, d_ff=192, num_layers=4, num_heads=4, vocab_size=1024),
        batch_size=8,
        precision="float32",
        threads=1,
    ),
    "wide": Shape(
        ModelConfig(context_length=256, d_model=256, d_ff=688, num_layers=4, num_heads=8, vocab_size=2048),
        batch_size=8,
        precision="bfloat16",
        threads=2,
    ),
    # The handout's model and batch (config/cs336.yaml), for a GPU.
    "handout": Shape(
        ModelConfig(context_length=256, d_model=512, d_ff=1344, num_layers=4, num_heads=16, vocab_size=10_000),
        batch_size=32,
        precision="bfloat16",
        threads=1,
    ),
}
PEERS = ("transformers", "nanoGPT")
CONTESTANTS = [(name, setting) for name in ("lmpipe", *PEERS) for setting in ("eager", "compiled")]

BATCHES = 256
Batch = tuple[torch.Tensor, torch.Tensor]
# Makes some steps and waits until they are done.
Steps = Callable[[int], None]


# --- a contestant, in its own process --------------------------------------------------------------------------------


def lmpipe_steps(shape: Shape, device: torch.device, is_compiled: bool, batches: Iterator[Batch]):
    """Return the steps as `lmpipe train` makes them."""
    training = TrainingSettings(total_tokens=2**40, batch_size=shape.batch_size, max_lr=RATE, precision=shape.precision)
    set_deterministic(shape.threads, device)
    model = TransformerLM(shape.model, seed=0).to(device)
    step = TrainingStep(model, training, DivergenceMonitor(device, warmup_steps=2**40))
    if is_compiled and not compile_step(step, shape.batch_size, Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])):
        raise SystemExit("lmpipe could not compile")

    def make(count: int) -> None:
        for _ in range(count):
            step.run(1, *next(batches), RATE)
        step.collect()

    return model, make


def peer_steps(name: str, shape: Shape, device: torch.device, is_compiled: bool, batches: Iterator[Batch]):
    """Return the steps of a peer, written as its own examples do, at its best."""
    if name == "nanoGPT":
        from benchmarks.gpt import GPT

        model = GPT(shape.model).to(device)
        logits_of = model
    else:
        model = llama(shape.model).to(device)

        def logits_of(token_ids: torch.Tensor) -> torch.Tensor:
            return model(input_ids=token_ids).logits

    def loss_of(token_ids: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=shape.precision == "bfloat16"):
            logits = logits_of(token_ids)
        return F.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten())

    loss_of = torch.compile(loss_of) if is_compiled else loss_of
    torch.set_num_threads(shape.threads)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def make(count: int) -> None:
        for _ in range(count):
            loss = loss_of(*next(batches))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        loss.item()

    return model, make


def llama(config: ModelConfig) -> torch.nn.Module:
    """Return the same model from transformers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            intermediate_size=config.d_ff,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            max_position_embeddings=config.context_length,
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
            use_cache=False,
        )
    )


def random_batches(shape: Shape, device: torch.device) -> Iterator[Batch]:
    """Return inputs and targets (batch, seq): enough that no contestant memorizes them."""
    generator = torch.Generator().manual_seed(0)
    size = (BATCHES, 2, shape.batch_size, shape.model.context_length)
    batches = torch.randint(shape.model.vocab_size, size, generator=generator).to(device)
    return cycle((inputs, targets) for inputs, targets in batches)


def ceiling_steps(shape: Shape, device: torch.device) -> tuple[float, Steps]:
    """FLOPs of one large matrix multiply, and what makes some of them."""
    size = 8192 if device.type == "cuda" else 1024
    torch.set_num_threads(shape.threads)
    first, second = (torch.randn(size, size, device=device).to(getattr(torch, shape.precision)) for _ in range(2))

    def make(count: int) -> None:
        for _ in range(count):
            product = first @ second
        product[0, 0].item()

    return 2.0 * size**3, make


def contest(name: str, setting: str, shape: Shape, device: torch.device, seconds: float) -> None:
    """Get ready, say so, and take a turn for each line of standard input: units (tokens or FLOPs) in a second."""
    facts = {"device": device_name(device)}
    if name == "ceiling":
        units, make = ceiling_steps(shape, device)
    else:
        units = shape.batch_size * shape.model.context_length
        chosen = (shape, device, setting == "compiled", random_batches(shape, device))
        model, make = lmpipe_steps(*chosen) if name == "lmpipe" else peer_steps(name, *chosen)
        facts["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    make(3)
    started = time.perf_counter()
    make(3)
    steps = max(1, round(seconds / (time.perf_counter() - started) * 3))
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        make(steps)
        print(json.dumps(steps * units / (time.perf_counter() - started)), flush=True)


# --- the contest -----------------------------------------------------------------------------------------------------


class Contestant:
    """One of the processes that take turns."""

    def __init__(self, name: str, setting: str, given: argparse.Namespace, cache: str):
        self.name, self.setting = name, setting
        command = [sys.executable, "-m", "benchmarks.training", "--shape", given.shape, "--device", given.device]
        command += ["--seconds", str(given.seconds), "--contestant", name, setting]
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": f"{cache}/{name}-{setting}"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, **pipes, text=True, env=environment)
        self.facts = {}
        self.rates: list[float] = []

    def get_ready(self) -> None:
        """Wait until it has compiled and begun."""
        self.facts = self.read()

    def read(self):
        """Return the next line that the process writes, as JSON."""
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"benchmarks.training: {self.name} {self.setting} ended early; its words stand above")
        return json.loads(line)

    def take_turn(self) -> None:
        """Let it work alone for a while, and note its rate."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.rates.append(self.read())

    @property
    def median(self) -> float:
        """The middle one of its rates."""
        return statistics.median(self.rates)

    def end(self) -> None:
        """Let it go home."""
        self.process.stdin.close()
        self.process.wait()


def table(contestants: list[Contestant], ceiling: Contestant, shape: Shape) -> list[str]:
    """Return a row for each contestant, and how lmpipe compares with the faster peer."""
    flops = 3 * forward_flops(shape.model) / shape.model.context_length
    peak = next((peak for name, peak in PEAKS.items() if name in ceiling.facts["device"]), None)
    lines = [f"{'contestant':24} {'parameters':>12} {'tokens/s':>12} {'range':>25} {'of ceiling':>11} {'MFU':>7}"]
    for one in contestants:
        span = f"{min(one.rates):,.0f} to {max(one.rates):,.0f}"
        share = f"{flops * one.median / ceiling.median:.1%}"
        mfu = f"{flops * one.median / peak:.1%}" if peak and shape.precision == "bfloat16" else "-"
        lines.append(
            f"{f'{one.name} {one.setting}':24} {one.facts['parameters']:>12,} {one.median:>12,.0f} {span:>25} "
            f"{share:>11} {mfu:>7}"
        )
    peers = [one for one in contestants if one.name in PEERS]
    if not peers:
        return lines
    peer = max(peers, key=lambda one: one.median)
    for one in contestants:
        if one.name == "lmpipe":
            ratios = [mine / other for mine, other in zip(one.rates, peer.rates, strict=True)]
            lines.append(
                f"lmpipe {one.setting} / {peer.name} {peer.setting}: {statistics.median(ratios):.2f} "
                f"({min(ratios):.2f} to {max(ratios):.2f})"
            )
    return lines


def main() -> None:
    """Let all contestants take turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="laptop", help="what is trained (default laptop)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each (default 7)")
    parser.add_argument("--seconds", type=float, default=1.5, help="a turn takes so long (default 1.5)")
    parser.add_argument("--only", nargs="*", default=[], help="contestants such as lmpipe-eager (default all)")
    parser.add_argument("--cache", help="folder in which compiled code is kept for the next time (default none)")
    parser.add_argument("--contestant", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    shape = SHAPES[given.shape]
    if given.contestant:
        contest(*given.contestant, shape, find_device(given.device), given.seconds)
        return
    with tempfile.TemporaryDirectory() as temporary:
        cache = given.cache or temporary
        chosen = [pair for pair in CONTESTANTS if not given.only or "-".join(pair) in given.only]
        everyone = []
        for pair in (*chosen, ("ceiling", "matmul")):
            everyone.append(Contestant(*pair, given, cache))
            # Processes of several threads hinder each other, so that they begin one after the other.
            if shape.threads > 1:
                everyone[-1].get_ready()
        for one in everyone:
            if not one.facts:
                one.get_ready()
        *contestants, ceiling = everyone
        for _ in range(given.rounds):
            for one in (*contestants, ceiling):
                one.take_turn()
        for one in (*contestants, ceiling):
            one.end()
    print(f"{given.shape}: {shape.model}, batch size {shape.batch_size}, {shape.precision}, {shape.threads} threads")
    print(f"{ceiling.facts['device']}, torch {torch.__version__}; matmul ceiling {ceiling.median / 1e9:,.0f} GFLOP/s")
    print("\n".join(table(contestants, ceiling, shape)))


if __name__ == "__main__":
    main()
