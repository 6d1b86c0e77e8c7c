"""Whether a run is worth compiling, and torch's compiler where it is: seconds first, then faster steps.

Nothing here imports the compiler before it is used: that alone takes two seconds.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from lmpipe.io.locks import file_lock
from lmpipe.io.progress import log
from lmpipe.model.functional import (
    causal_attention_backward_fake,
    causal_attention_fake,
    compiled_attention_backward,
    cross_entropy_chunk,
    setup_attention_context,
)
from lmpipe.training.step import TrainingStep

# The work in matrix-multiply FLOPs from which on a run is compiled: there the time that it saves is some times the half
# minute that it takes. On a CPU, beside our own kernels, it saves 0 to 12 % of a step; on a GPU that is assumed.
WORTH_COMPILING = {"cpu": 5e14, "cuda": 1e16}
UNFINISHED = "unfinished"
COMPILERS = ("g++", "clang++", "c++")


def is_worthwhile(setting: str, training_flops: float, device: torch.device) -> bool:
    """Whether a run of so much work should be compiled; `setting` is the study's: auto, always or never."""
    if setting != "auto":
        return setting == "always"
    return training_flops >= WORTH_COMPILING.get(device.type, float("inf"))


def lacks_compiler(device: torch.device) -> str | None:
    """What torch's compiler would need on this machine and does not find; None where it finds all."""
    if device.type == "cuda":
        from importlib.util import find_spec

        return None if find_spec("triton") else "Triton"
    compiler = os.environ.get("CXX")
    found = shutil.which(compiler) if compiler else any(map(shutil.which, COMPILERS))
    return None if found else f"a C++ compiler ({compiler or ', '.join(COMPILERS)})"


def compile_step(step: TrainingStep, batch_size: int, cache: Path) -> bool:
    """Compile a step's model, and try it on the parts of a batch of so many sequences; whether it can be used.

    What is compiled is kept in the folder `cache`, for all runs that are given it. A machine that cannot compile says
    so in a line, and the step stays as it was.
    """
    device = step.device
    if lacking := lacks_compiler(device):
        log(f"not compiled: {lacking} was not found")
        return False
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache.absolute()))
    with whole(cache):
        return compile_and_try(step, batch_size)


@contextmanager
def whole(cache: Path) -> Iterator[None]:
    """Compile into a folder, one process at a time; what a process left there that was killed meanwhile is removed.

    torch would take a half-written file for a whole one.
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


def compile_and_try(step: TrainingStep, batch_size: int) -> bool:
    """Compile a step's model, and compute the parts of a batch with it once; whether that went well."""
    before, device = (step.hidden, step.chunk), step.device
    try:
        make_deterministic()
        register_attention_ops()
        # Each shape has code of its own: code for any shape would be made when a second one comes, and from then on
        # compute the first one, too, in other last digits than a run that goes on from there.
        step.hidden = torch.compile(step.model.forward_hidden, dynamic=False)
        if device.type == "cuda":
            step.chunk = torch.compile(cross_entropy_chunk, dynamic=False)
        for size in step.part_sizes(batch_size):
            step.try_batch(size)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        step.hidden, step.chunk = before
        log(f"not compiled: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}")
        return False
    return True


@cache
def register_attention_ops() -> None:
    """Tell the compiler the shapes and the derivative of our own attention, which it calls on a CPU."""
    torch.library.register_fake("lmpipe::causal_attention", causal_attention_fake)
    torch.library.register_fake("lmpipe::causal_attention_backward", causal_attention_backward_fake)
    torch.library.register_autograd(
        "lmpipe::causal_attention", compiled_attention_backward, setup_context=setup_attention_context
    )


def make_deterministic() -> None:
    """Let the compiler choose by rules, not by timing: a choice that differs would change the last digits."""
    from torch._inductor import config

    if hasattr(config, "deterministic"):
        config.deterministic = True
