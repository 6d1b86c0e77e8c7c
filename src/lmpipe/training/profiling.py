"""Measurements of a training step on this machine: its profile beside the prediction, and the cost of batch sizes."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from lmpipe.model.accounting import FLOAT32_BYTES, MemoryLine, batch_memory, count_parameters, forward_flops
from lmpipe.model.activation_memory import account_activations, step_memory
from lmpipe.model.functional import reduced_dtype
from lmpipe.model.torch_counts import count_torch_flops
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import ModelConfig, TrainingSettings
from lmpipe.training.devices import (
    acquire_device,
    allocated_memory_bytes,
    device_name,
    free_memory_bytes,
    peak_memory_bytes,
    reset_peak_memory,
    set_deterministic,
)
from lmpipe.training.measurements import (
    BatchSizeBenchmark,
    BatchSizeRow,
    MeasuredStep,
    PredictedStep,
    StepProfile,
    StopReason,
)
from lmpipe.training.step import MAX_MEMORY_FRACTION, DivergenceMonitor, TrainingStep, is_out_of_memory

# Component of the model that each module, with all below it, belongs to.
COMPONENT_OF_MODULE = {
    "token_embeddings": "embedding",
    "ln1": "norms",
    "ln2": "norms",
    "ln_final": "norms",
    "attn": "attention",
    "ffn": "feed_forward",
    "lm_head": "lm_head",
}
MATMUL_SIDE = {"cpu": 1024, "mps": 2048, "cuda": 8192}  # larger square matrices are multiplied no faster
MATMUL_SECONDS = 1.0
MIN_MATMULS = 3
MAX_BENCHMARK_SECONDS = 10.0  # a batch size that would exceed it is not tried
MIN_TIMED_SECONDS = 0.3  # the step of a small batch is repeated until then


# --- model_measurements.json ------------------------------------------------------------------------------------------


def profile_step(
    config: ModelConfig, training: TrainingSettings, *, threads: int = 1, device: str | None = None
) -> StepProfile:
    """Measure one training step of a model at its batch size, beside its prediction."""
    with acquire_device(device) as acquired:
        set_deterministic(threads, acquired)
        warm_up(config, training, acquired)
        return StepProfile(
            model=config,
            batch_size=training.batch_size,
            precision=training.precision,
            device=device_name(acquired),
            threads=threads,
            predicted=predict_step(config, training, acquired.type != "cpu"),
            measured=measure_step(config, training, acquired),
        )


def warm_up(config: ModelConfig, training: TrainingSettings, device: torch.device) -> None:
    """Take a step of a tiny model of the same kind.

    The first step of a process loads the code that computes, which needs more memory than a small model.
    """
    smallest = {"d_model": 2 * config.num_heads, "d_ff": 2, "num_layers": 1, "context_length": 2, "vocab_size": 2}
    tiny, training = config.model_copy(update=smallest), training.model_copy(update={"batch_size": 1})
    step = TrainingStep(TransformerLM(tiny, seed=0).to(device), training, DivergenceMonitor(device, warmup_steps=0))
    step.warm_up()
    step.run(1, *random_batch(tiny, 1, device), lr=0.0)
    step.collect()


def predict_step(config: ModelConfig, training: TrainingSettings, on_gpu: bool = False) -> PredictedStep:
    """Evaluate the closed formulas for a step."""
    total, forward = count_parameters(config).total, training.batch_size * forward_flops(config)
    return PredictedStep(
        parameters=total,
        parameter_bytes=FLOAT32_BYTES * total,
        gradient_bytes=FLOAT32_BYTES * total,
        moment_bytes=2 * FLOAT32_BYTES * total,
        forward_flops=forward,
        step_flops=3 * forward,
        activations=account_activations(config, training.precision, training.batch_size, on_gpu),
    )


def measure_step(config: ModelConfig, training: TrainingSettings, device: torch.device) -> MeasuredStep:
    """Measure the memory and work of one uncompiled training step of a new model, and the device's speed."""
    step, saved_bytes_by_component = run_recorded(config, training, device)
    optimizer = step.optimizer
    return MeasuredStep(
        parameters=sum(weight.numel() for weight in step.parameters),
        parameter_bytes=sum(map(storage_bytes, step.parameters)),
        gradient_bytes=sum(storage_bytes(weight.grad) for weight in step.parameters),
        moment_bytes=sum(map(storage_bytes, [*optimizer.exp_avg.values(), *optimizer.exp_avg_sq.values()])),
        forward_flops=count_torch_flops(config, training.batch_size),
        step_flops=count_torch_flops(config, training.batch_size, backward=True),
        saved_bytes=sum(saved_bytes_by_component.values()),
        saved_bytes_by_component=saved_bytes_by_component,
        matmul_flops_per_second=matmul_flops_per_second(device, training.precision),
    )


def run_recorded(
    config: ModelConfig, training: TrainingSettings, device: torch.device
) -> tuple[TrainingStep, dict[str, int]]:
    """Run both passes of a new model on random tokens; return its step, and the saved bytes by part of the model."""
    model = TransformerLM(config, seed=0).to(device)
    step, saved = TrainingStep(model, training, DivergenceMonitor(device, warmup_steps=0)), SavedTensors(model)
    inputs, targets = random_batch(config, training.batch_size, device)
    with saved.recording():
        loss = step.loss(inputs, targets) / targets.numel()
    loss.backward()
    return step, saved.bytes_by_component


def random_batch(config: ModelConfig, batch_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return random inputs and targets, each (batch, seq), in separate storages."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, batch_size, config.context_length)
    inputs, targets = torch.randint(config.vocab_size, shape, generator=generator).unbind()
    return inputs.clone().to(device), targets.clone().to(device)


def storage_bytes(tensor: Tensor) -> int:
    """Return the memory that a tensor keeps alive: its whole storage, even if it views a part."""
    return tensor.untyped_storage().nbytes()


class SavedTensors:
    """Bytes that autograd saves while a model computes a loss, by part of the model; each storage counts once.

    Parameters and buffers do not count.
    """

    def __init__(self, model: nn.Module):
        self.bytes_by_component: dict[str, int] = {}
        self.model = model
        resident = [*model.parameters(), *model.buffers()]
        # The tensors are kept alive, so that no address is reused by another storage.
        self.seen: dict[int, Tensor] = {tensor.untyped_storage().data_ptr(): tensor for tensor in resident}
        self.component_stack = ["loss"]

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Count the bytes that are saved inside the block."""
        handles = []
        for name, module in self.model.named_modules():
            if component := COMPONENT_OF_MODULE.get(name.rpartition(".")[2]):
                handles.append(module.register_forward_pre_hook(partial(self._enter, component)))
                handles.append(module.register_forward_hook(self._exit))
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield
        for handle in handles:
            handle.remove()

    def _enter(self, component: str, *_: object) -> None:
        """Enter a module of a component; a hook must return None."""
        self.component_stack.append(component)

    def _exit(self, *_: object) -> None:
        """Leave a module."""
        self.component_stack.pop()

    def _pack(self, tensor: Tensor) -> Tensor:
        """Count a tensor that autograd saves."""
        address = tensor.untyped_storage().data_ptr()
        if address not in self.seen:
            self.seen[address] = tensor
            component = self.component_stack[-1]
            self.bytes_by_component[component] = self.bytes_by_component.get(component, 0) + storage_bytes(tensor)
        return tensor


def matmul_flops_per_second(device: torch.device, precision: str) -> float:
    """Return the highest FLOP/s of a product of two large square matrices on the device."""
    side = MATMUL_SIDE[device.type]
    dtype = reduced_dtype(precision) or torch.float32
    # Random numbers, because a GPU multiplies constant ones faster.
    left, right = (torch.randn((side, side)).to(device, dtype) for _ in range(2))
    seconds: list[float] = []
    while len(seconds) <= MIN_MATMULS or sum(seconds) < MATMUL_SECONDS:
        started = time.perf_counter()
        # Reading one number of the product waits for the GPU.
        (left @ right)[0, 0].item()
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds[1:])


# --- batch_sizes.json -------------------------------------------------------------------------------------------------


def benchmark_batch_sizes(
    config: ModelConfig, training: TrainingSettings, *, threads: int = 1, device: str | None = None
) -> BatchSizeBenchmark:
    """Time a training step at each doubling of the batch size, and find the largest batch that fits."""
    with acquire_device(device) as acquired:
        set_deterministic(threads, acquired)
        warm_up(config, training, acquired)
        limit = round(MAX_MEMORY_FRACTION * free_memory_bytes(acquired))
        fixed, per_sequence = step_memory(config, training.precision, acquired.type != "cpu")
        largest = max(0, (limit - fixed) // per_sequence)
        rows, stop_reason = [], "memory"
        if largest:
            rows, stop_reason = StepTimer(config, training, acquired, limit, per_sequence).run()
        return BatchSizeBenchmark(
            model=config,
            precision=training.precision,
            device=device_name(acquired),
            threads=threads,
            memory_limit_bytes=limit,
            predicted=MemoryLine(fixed_bytes=fixed, bytes_per_sequence=per_sequence, largest_batch_size=largest),
            handout=batch_memory(config, limit),
            sizes=rows,
            largest_batch_size=rows[-1].batch_size if rows else 0,
            estimated_largest_batch_size=extrapolate_largest(rows, per_sequence, limit),
            stop_reason=stop_reason,
        )


class StepTimer:
    """Steps of growing batches of one model on random tokens, with learning rate 0."""

    def __init__(
        self,
        config: ModelConfig,
        training: TrainingSettings,
        device: torch.device,
        limit: int,
        predicted_bytes_per_sequence: int,
    ):
        self.config, self.training, self.device, self.limit = config, training, device, limit
        self.predicted_bytes_per_sequence = predicted_bytes_per_sequence
        reset_peak_memory(device)
        self.initial_bytes = allocated_memory_bytes(device)
        model = TransformerLM(config, seed=0).to(device)
        self.training_step = TrainingStep(model, training, DivergenceMonitor(device, warmup_steps=0))

    def run(self) -> tuple[list[BatchSizeRow], StopReason]:
        """Measure each doubling; return the rows, the smallest batch first, and why they end."""
        rows: list[BatchSizeRow] = []
        started = time.perf_counter()
        while True:
            try:
                rows.append(self.measure(2 ** len(rows)))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                return rows, "memory"
            if reason := self.stop_reason(rows, time.perf_counter() - started):
                return rows, reason

    def measure(self, batch_size: int) -> BatchSizeRow:
        """Time steps of one batch size, and measure their peak memory."""
        reset_peak_memory(self.device)
        batch = random_batch(self.config, batch_size, self.device)
        self.run_step(*batch)  # not timed, because it allocates memory
        seconds: list[float] = []
        while sum(seconds) < MIN_TIMED_SECONDS or not seconds:
            started = time.perf_counter()
            self.run_step(*batch)
            seconds.append(time.perf_counter() - started)
        step_seconds = statistics.median(seconds)
        return BatchSizeRow(
            batch_size=batch_size,
            steps=len(seconds),
            step_seconds=step_seconds,
            tokens_per_second=batch_size * self.config.context_length / step_seconds,
            memory_bytes=max(0, peak_memory_bytes(self.device) - self.initial_bytes),
        )

    def run_step(self, inputs: Tensor, targets: Tensor) -> None:
        """Take one training step on a batch, (batch, seq), and wait for it."""
        self.training_step.micro_batch_size = len(inputs)
        self.training_step.run(1, inputs, targets, lr=0.0)
        self.training_step.collect()

    def stop_reason(self, rows: list[BatchSizeRow], elapsed: float) -> StopReason | None:
        """Return the reason to stop before the next doubling, or None. A GPU itself reports what does not fit."""
        last = rows[-1]
        if 2 * last.batch_size * self.config.context_length > self.training.total_tokens:
            return "run"
        if self.device.type != "cuda":
            growth = bytes_per_sequence(rows, self.predicted_bytes_per_sequence) * last.batch_size
            if last.memory_bytes + growth > self.limit:
                return "memory"
        # At least two steps of twice the tokens.
        return "time" if elapsed + 4 * last.step_seconds > MAX_BENCHMARK_SECONDS else None


def bytes_per_sequence(rows: list[BatchSizeRow], predicted: int) -> float:
    """Return the slope of memory between the last two rows, or `predicted` if it is not positive."""
    if len(rows) < 2:
        return predicted
    before, last = rows[-2:]
    measured = (last.memory_bytes - before.memory_bytes) / (last.batch_size - before.batch_size)
    return measured if measured > 0 else predicted


def extrapolate_largest(rows: list[BatchSizeRow], predicted: int, limit: int) -> int:
    """Return the largest batch size within `limit` bytes, on the line through the last two rows.

    `predicted` are the bytes per sequence to use if the rows give no slope.
    """
    if not rows:
        return 0
    last = rows[-1]
    available = max(0, limit - last.memory_bytes)
    return last.batch_size + int(available // bytes_per_sequence(rows, predicted))
