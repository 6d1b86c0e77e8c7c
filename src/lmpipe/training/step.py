"""One optimizer step: gradients of a (micro-batched, distributed) batch, clipping, update, divergence check.

Nothing in a step waits for the GPU: scalars stay on the device, and `TrainingStep.collect` fetches those of several
steps at once.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lmpipe.errors import InputError
from lmpipe.model.accounting import batch_memory
from lmpipe.model.functional import CrossEntropyChunk, cross_entropy_chunk, linear_cross_entropy, reduced_dtype
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import TrainingSettings
from lmpipe.training.devices import allow_nondeterministic, free_memory_bytes, limit_memory
from lmpipe.training.distributed import ProcessGroup
from lmpipe.training.optimizer import AdamW, clip_coefficient, grad_norm
from lmpipe.training.run_documents import RunConfig

DIVERGENCE_WINDOW = 20  # steps over which the training loss is averaged
DIVERGENCE_NATS = 0.5  # rise of that average above the initial loss which counts as divergence
MAX_MEMORY_FRACTION = 0.8  # of the free memory; an operating system kills a process that takes all of it
# Of a GPU's memory, for a trial: the rest is for NCCL's messages, compiled code and validation.
TRIAL_MEMORY_FRACTION = 0.92
# In messages of torch, cuBLAS, Triton and NCCL, which only in part raise OutOfMemoryError.
OUT_OF_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "ALLOC_FAILED")


@dataclass(frozen=True)
class StepResult:
    """Loss (nats per token) and gradient norm of one step, and whether training has diverged."""

    loss: float
    grad_norm: float
    diverged: bool

    @property
    def is_updated(self) -> bool:
        """True if the weights were updated; an update that would make them non-finite is skipped."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class DivergenceMonitor:
    """Detects divergence on the device.

    Once `diverged` is 1, the optimizer skips every further update, so the last finite weights survive until the host
    reads it. A non-finite loss or gradient norm diverges before its update; a risen loss is checked after it, from
    step `first_checked_step` on.
    """

    def __init__(self, device: torch.device, warmup_steps: int):
        self.first_checked_step = warmup_steps + DIVERGENCE_WINDOW
        self.diverged = torch.zeros((), device=device)
        self.initial_loss = torch.zeros((), device=device)
        self.recent_losses = torch.zeros(DIVERGENCE_WINDOW, device=device)

    def restore(self, step: int, initial_loss: float, recent_losses: list[float]) -> None:
        """Restore the state after `step` steps; `recent_losses` are the latest ones, the oldest first."""
        self.initial_loss.fill_(initial_loss)
        for age, loss in enumerate(reversed(recent_losses)):
            self.recent_losses[(step - 1 - age) % DIVERGENCE_WINDOW] = loss

    @torch.no_grad()
    def check_finite(self, loss: Tensor, norm: Tensor) -> None:
        """Diverge if `loss` or `norm` is not finite; call before the update."""
        not_finite = ~(torch.isfinite(loss) & torch.isfinite(norm))
        torch.maximum(self.diverged, not_finite.to(self.diverged.dtype), out=self.diverged)

    @torch.no_grad()
    def check_loss(self, step: int, loss: Tensor) -> None:
        """Diverge if the mean of the recent losses exceeds the initial loss by DIVERGENCE_NATS; steps count from 1."""
        if step == 1:
            self.initial_loss.copy_(loss)
        self.recent_losses[(step - 1) % DIVERGENCE_WINDOW] = loss
        if step >= self.first_checked_step:
            risen = self.recent_losses.mean() - self.initial_loss > DIVERGENCE_NATS
            torch.maximum(self.diverged, risen.to(self.diverged.dtype), out=self.diverged)


class TrainingStep:
    """Optimizer steps of one run on this process's slice of each batch.

    `forward_hidden` is the model up to its output matrix, and `loss_chunk` the loss of a few rows of logits; both may
    be compiled. `micro_batch_size` sequences are computed at a time.
    """

    def __init__(
        self,
        model: TransformerLM,
        training: TrainingSettings,
        monitor: DivergenceMonitor,
        group: ProcessGroup | None = None,
    ):
        self.model, self.training, self.monitor = model, training, monitor
        self.group = group or ProcessGroup()
        self.parameters = list(model.parameters())
        self.optimizer = AdamW.from_settings(model, training, found_inf=monitor.diverged)
        self.forward_hidden: Callable[[Tensor], Tensor] = model.forward_hidden
        self.loss_chunk: CrossEntropyChunk = cross_entropy_chunk
        self.micro_batch_size = training.batch_size
        self.pending: list[Tensor] = []

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.model.lm_head.weight.device

    def run(self, step: int, inputs: Tensor, targets: Tensor, lr: float) -> None:
        """Take one step on `inputs` and `targets`, both (batch, seq); `collect` returns its result."""
        loss = self.backward(inputs, targets)
        norm = grad_norm(self.parameters)
        self.monitor.check_finite(loss, norm)
        self.optimizer.step(lr, grad_scale=clip_coefficient(norm, self.training.max_grad_norm))
        self.optimizer.zero_grad()
        self.monitor.check_loss(step, loss)
        self.pending.append(torch.stack((loss, norm, self.monitor.diverged)))

    def collect(self) -> list[StepResult]:
        """Return the results of the steps since the last call, up to the first diverged one (one host sync)."""
        rows, self.pending = torch.stack(self.pending).tolist(), []
        results = [StepResult(loss, norm, bool(diverged)) for loss, norm, diverged in rows]
        first_diverged = next((index for index, result in enumerate(results) if result.diverged), len(results))
        return results[: first_diverged + 1]

    def backward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of the whole batch over all processes; leave its gradients in the parameters."""
        batch_tokens = targets.numel() * self.training.batch_size // len(targets)
        total = torch.zeros((), device=inputs.device)
        for start in range(0, len(inputs), self.micro_batch_size):
            rows = slice(start, start + self.micro_batch_size)
            loss = self.loss(inputs[rows], targets[rows]) / batch_tokens
            loss.backward()
            total += loss.detach()
        return self.group.all_reduce_gradients(self.parameters, total)

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the summed loss of `inputs` and `targets`, both (micro batch, seq), in nats."""
        dtype = reduced_dtype(self.training.precision)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=dtype is not None):
            # Windows overlap with their targets in memory; compiled code is specialized to one layout.
            hidden = self.forward_hidden(inputs.contiguous())
        return linear_cross_entropy(hidden, self.model.lm_head.weight, targets, dtype, self.loss_chunk)

    def micro_batch_sizes(self, batch_size: int) -> list[int]:
        """Return the distinct micro-batch sizes of `batch_size` sequences, the largest first."""
        starts = range(0, batch_size, self.micro_batch_size)
        return sorted({min(self.micro_batch_size, batch_size - start) for start in starts}, reverse=True)

    def dry_run(self, batch_size: int) -> None:
        """Compute the gradients of `batch_size` constant sequences and drop them, whether or not that succeeds."""
        token_ids = torch.zeros((batch_size, self.model.config.context_length), dtype=torch.long, device=self.device)
        try:
            self.loss(token_ids, token_ids).backward()
        finally:
            self.optimizer.zero_grad()

    def warm_up(self) -> None:
        """Compute one sequence: loads the code of a GPU, and finds out if all of it is deterministic."""
        try:
            self.dry_run(1)
        except RuntimeError as error:
            if "deterministic" not in str(error):
                raise
            allow_nondeterministic(str(error).splitlines()[0])
            self.dry_run(1)


# --- gradient accumulation: the largest micro-batch that fits in memory -----------------------------------------------


def find_micro_batch_size(step: TrainingStep, batch_size: int) -> int:
    """Return training.micro_batch_size, or for "auto" the first of batch_size, batch_size / 2, ... that fits in memory.

    `batch_size` is this process's slice of a batch. A GPU tries each size; elsewhere the accounting predicts it. The
    gradient of a batch does not depend on its micro-batches, except for rounding.
    """
    setting = step.training.micro_batch_size
    if setting != "auto":
        return min(setting, batch_size)
    if step.device.type != "cuda":
        memory = MAX_MEMORY_FRACTION * free_memory_bytes(step.device)
        largest = batch_memory(step.model.config, memory).largest_batch_size
        return halve_until(batch_size, lambda size: size <= largest)
    with limit_memory(step.device, TRIAL_MEMORY_FRACTION):
        fitting = halve_until(batch_size, lambda size: fits_in_memory(step, size))
    torch.cuda.reset_peak_memory_stats(step.device)  # the trials do not count as the run's peak
    return fitting


def halve_until(size: int, fits: Callable[[int], bool]) -> int:
    """Halve `size`, rounding up, until it fits or is 1.

    >>> halve_until(11, lambda size: size <= 4)
    3
    """
    while size > 1 and not fits(size):
        size = -(-size // 2)
    return size


def fits_in_memory(step: TrainingStep, batch_size: int) -> bool:
    """Try `batch_size` sequences at once on a GPU."""
    try:
        step.dry_run(batch_size)
        return True
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # Only now is the exception gone, whose traceback kept the activations alive.
    torch.cuda.empty_cache()
    return False


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Return whether an error means that an allocation failed."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        text in str(error) for text in OUT_OF_MEMORY_TEXTS
    )


@contextlib.contextmanager
def translate_oom(config: RunConfig) -> Iterator[None]:
    """Turn an allocation that fails inside the block into an InputError that names the settings to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        training, memory = config.training, batch_memory(config.model, 0)
        size = training.batch_size if training.micro_batch_size == "auto" else training.micro_batch_size
        gigabytes = (memory.fixed_bytes + size * memory.bytes_per_sequence) / 1e9
        raise InputError(
            "out of memory",
            f"a micro-batch of {size} sequences needs about {gigabytes:.1f} GB",
            f"lower training.micro_batch_size or batch_size (now {training.batch_size}), or model.context_length "
            f"(now {config.model.context_length})",
        ) from None
