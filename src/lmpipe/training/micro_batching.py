"""In how many parts a batch is computed, so that it fits into memory, and what to say when even that does not."""

import contextlib
from collections.abc import Iterator

import torch

from lmpipe.errors import InputError
from lmpipe.model.accounting import account_adamw
from lmpipe.study.settings import ModelConfig, TrainingSettings
from lmpipe.training.devices import free_memory_bytes
from lmpipe.training.step import TrainingStep

# How much of the free memory a run may take: the system of a CPU kills a process that takes all of it.
USABLE_SHARE = 0.8


def find_micro_batch_size(step: TrainingStep, model: ModelConfig, training: TrainingSettings, batch_size: int) -> int:
    """The sequences computed at once: as the study says, or the most of a batch, halved and halved again, that fit.

    `batch_size` is this process's share. On a GPU it is tried, elsewhere the accounting predicts it. The gradient of a
    batch is the same, to rounding, whatever its parts are.
    """
    if training.micro_batch_size != "auto":
        return min(training.micro_batch_size, batch_size)
    accounted = account_adamw(model, USABLE_SHARE * free_memory_bytes(step.device))
    fitting = batch_size
    while fitting > 1 and not (
        fits(step, fitting) if step.device.type == "cuda" else fitting <= accounted.largest_batch_size
    ):
        fitting = -(-fitting // 2)
    if step.device.type == "cuda":
        # What was tried is no part of the run.
        torch.cuda.reset_peak_memory_stats(step.device)
    return fitting


def fits(step: TrainingStep, batch_size: int) -> bool:
    """Whether a batch of so many sequences fits into a GPU's memory."""
    with contextlib.suppress(torch.OutOfMemoryError):
        step.try_batch(batch_size)
        return True
    # Not before the error is gone, which holds all that was being computed.
    step.optimizer.zero_grad()
    torch.cuda.empty_cache()
    return False


@contextlib.contextmanager
def out_of_memory_is_told(model: ModelConfig, training: TrainingSettings) -> Iterator[None]:
    """Turn an allocation that fails while the block runs into an InputError that says what to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # On a CPU torch raises a RuntimeError of these words.
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(error):
            raise
        needed = account_adamw(model, 0)
        parts = training.micro_batch_size if training.micro_batch_size != "auto" else training.batch_size
        gigabytes = (needed.fixed_bytes + parts * needed.bytes_per_sequence) / 1e9
        raise InputError(
            f"training.micro_batch_size: expected memory for {parts} sequences at once, about {gigabytes:.1f} GB, "
            f"found less; lower micro_batch_size or batch_size (now {training.batch_size}), or "
            f"model.context_length (now {model.context_length})"
        ) from None
