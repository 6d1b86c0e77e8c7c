"""torch.compile: when it pays off, and how the step is compiled.

Nothing here imports the compiler before it is used, because the import takes two seconds.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal, assert_never

import torch

from lmpipe.io.files import file_lock
from lmpipe.io.progress import log
from lmpipe.model.functional import (
    causal_attention_backward_fake,
    causal_attention_fake,
    compiled_attention_backward,
    cross_entropy_chunk,
    setup_attention_context,
)
from lmpipe.training.step import TrainingStep, is_out_of_memory

# Matrix-multiply FLOPs of a run from which compilation pays: it takes half a minute, and then saves 0 to 12 % of a step
# on a CPU, beside our own kernels (benchmarks/training.py). The figure for GPUs is an assumption.
MIN_COMPILE_FLOPS = {"cpu": 5e14, "cuda": 1e16}
UNFINISHED = "unfinished"
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
# The user's own folder: later, torch itself sets the variable, when the settings of its compiler are first read.
USER_CACHE = os.environ.get(CACHE_VARIABLE)
COMPILERS = ("g++", "clang++", "c++")


def should_compile(setting: Literal["auto", "always", "never"], training_flops: float, device: torch.device) -> bool:
    """Decide whether a run of `training_flops` is compiled; `setting` is training.compile of the study."""
    match setting:
        case "always":
            return True
        case "never":
            return False
        case "auto":
            return training_flops >= MIN_COMPILE_FLOPS.get(device.type, float("inf"))
        case _:
            assert_never(setting)


def missing_compiler(device: torch.device) -> str | None:
    """Return the tool that torch.compile needs and this machine lacks; None if it has all."""
    if device.type == "cuda":
        from importlib.util import find_spec

        return None if find_spec("triton") else "no Triton found"
    compiler = os.environ.get("CXX")
    if shutil.which(compiler) if compiler else any(map(shutil.which, COMPILERS)):
        return None
    return f"no C++ compiler found (looked for {compiler or ', '.join(COMPILERS)})"


def compile_step(step: TrainingStep, batch_size: int, cache: Path) -> bool:
    """Compile the step for this process's `batch_size` sequences; return whether the compiled code is used.

    The folder `cache` keeps compiled code for all runs of a store. If this machine cannot compile, one line is logged
    and the step stays eager.
    """
    if missing := missing_compiler(step.device):
        log(f"torch.compile is off: {missing}")
        return False
    os.environ[CACHE_VARIABLE] = USER_CACHE or str(cache.absolute())
    with exclusive_cache(cache):
        return try_compiled(step, batch_size)


@contextmanager
def exclusive_cache(cache: Path) -> Iterator[None]:
    """Let one process at a time compile into `cache`, and clear it if the last one was killed meanwhile.

    torch would take a half-written file for a complete one.
    """
    unfinished = cache / UNFINISHED
    with file_lock(cache.with_suffix(".lock"), "waiting for the run that compiles"):
        if unfinished.exists():
            shutil.rmtree(cache)
        cache.mkdir(parents=True, exist_ok=True)
        unfinished.touch()
        try:
            yield
        finally:
            unfinished.unlink(missing_ok=True)


def try_compiled(step: TrainingStep, batch_size: int) -> bool:
    """Compile the step and try each of its micro-batch sizes; on an error, log it and restore the eager step."""
    eager = step.forward_hidden, step.loss_chunk
    try:
        from torch._inductor import config

        if hasattr(config, "deterministic"):
            config.deterministic = True  # the compiler chooses by rules, not by timings, which could change last digits
        register_attention_ops()
        # One code for each shape: torch would otherwise compile for any shape when the second one comes, and from then
        # on compute the first one with other last digits than a resumed run.
        step.forward_hidden = torch.compile(step.model.forward_hidden, dynamic=False)
        if step.device.type == "cuda":
            # Compiled and deterministic, the embedding's gradient is summed by a serial loop over equal ids.
            blocks, embed = torch.compile(step.model.forward_blocks, dynamic=False), step.model.token_embeddings
            step.forward_hidden = lambda token_ids: blocks(embed(token_ids))
            step.loss_chunk = torch.compile(cross_entropy_chunk, dynamic=False)
        for size in step.micro_batch_sizes(batch_size):
            step.dry_run(size)
    except Exception as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        step.forward_hidden, step.loss_chunk = eager
        log(f"torch.compile is off: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}")
        return False
    return True


@cache
def register_attention_ops() -> None:
    """Register shapes and derivative of the attention kernel, which compiled code calls on a CPU."""
    torch.library.register_fake("lmpipe::causal_attention", causal_attention_fake)
    torch.library.register_fake("lmpipe::causal_attention_backward", causal_attention_backward_fake)
    torch.library.register_autograd(
        "lmpipe::causal_attention", compiled_attention_backward, setup_context=setup_attention_context
    )
