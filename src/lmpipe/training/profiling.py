"""Profile of one training step, measured and predicted: parameters, FLOPs, bytes, and the device's speed."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lmpipe.model.accounting import FLOAT32_BYTES, count_parameters, forward_flops
from lmpipe.model.activation_memory import account_activations
from lmpipe.model.functional import reduced_dtype
from lmpipe.model.torch_counts import count_torch_flops
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import ModelConfig, TrainingSettings
from lmpipe.training.devices import acquire_device, device_name, peak_memory_bytes, set_deterministic
from lmpipe.training.measurements import MeasuredStep, PredictedStep, StepProfile
from lmpipe.training.step import DivergenceMonitor, TrainingStep

# Part of the model that each module belongs to; other components of a module's name are layers.
PART_OF_MODULE = {
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
            predicted=predict_step(config, training),
            measured=measure_step(config, training, acquired),
        )


def warm_up(config: ModelConfig, training: TrainingSettings, device: torch.device) -> None:
    """Take a step of a tiny model of the same kind.

    The first step of a process loads the code that computes, which needs more memory than a small model.
    """
    smallest = {"d_model": 2 * config.num_heads, "d_ff": 2, "num_layers": 1, "context_length": 2, "vocab_size": 2}
    tiny, one = config.model_copy(update=smallest), training.model_copy(update={"batch_size": 1})
    step = TrainingStep(TransformerLM(tiny, seed=0).to(device), one, DivergenceMonitor(device, warmup_steps=0))
    step.run(1, *random_batch(tiny, 1, device), lr=0.0)
    step.collect()


def predict_step(config: ModelConfig, training: TrainingSettings) -> PredictedStep:
    """Evaluate the closed formulas for a step."""
    total, forward = count_parameters(config).total, training.batch_size * forward_flops(config)
    return PredictedStep(
        parameters=total,
        parameter_bytes=FLOAT32_BYTES * total,
        gradient_bytes=FLOAT32_BYTES * total,
        moment_bytes=2 * FLOAT32_BYTES * total,
        forward_flops=forward,
        step_flops=3 * forward,
        activations=account_activations(config, training.precision, training.batch_size),
    )


def measure_step(config: ModelConfig, training: TrainingSettings, device: torch.device) -> MeasuredStep:
    """Measure the memory and work of one uncompiled training step of a new model, and the device's speed."""
    process_bytes = peak_memory_bytes(device)
    step, saved_bytes_by_part = run_recorded(config, training, device)
    optimizer = step.optimizer
    return MeasuredStep(
        parameters=sum(weight.numel() for weight in step.parameters),
        parameter_bytes=sum(map(storage_bytes, step.parameters)),
        gradient_bytes=sum(storage_bytes(weight.grad) for weight in step.parameters),
        moment_bytes=sum(map(storage_bytes, [*optimizer.exp_avg.values(), *optimizer.exp_avg_sq.values()])),
        forward_flops=count_torch_flops(config, training.batch_size),
        step_flops=count_torch_flops(config, training.batch_size, backward=True),
        process_bytes=process_bytes,
        saved_bytes=sum(saved_bytes_by_part.values()),
        saved_bytes_by_part=saved_bytes_by_part,
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
    return step, saved.bytes_by_part


def random_batch(config: ModelConfig, batch_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return random inputs and targets, each (batch, seq) with a storage of its own."""
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
        self.bytes_by_part: dict[str, int] = {}
        self.model = model
        resident = [*model.parameters(), *model.buffers()]
        # The tensors are kept alive, so that no address is reused by another storage.
        self.seen: dict[int, Tensor] = {tensor.untyped_storage().data_ptr(): tensor for tensor in resident}
        self.part_stack = ["loss"]

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Count what is saved inside the block."""
        handles = []
        for name, module in self.model.named_modules():
            if (part := part_of(name)) is not None:
                handles.append(module.register_forward_pre_hook(lambda *_, part=part: self.part_stack.append(part)))
                handles.append(module.register_forward_hook(lambda *_: self._exit()))
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield
        for handle in handles:
            handle.remove()

    def _exit(self) -> None:
        """Leave a module; a hook must return None."""
        self.part_stack.pop()

    def _pack(self, tensor: Tensor) -> Tensor:
        """Count a tensor that autograd saves."""
        address = tensor.untyped_storage().data_ptr()
        if address not in self.seen:
            self.seen[address] = tensor
            part = self.part_stack[-1]
            self.bytes_by_part[part] = self.bytes_by_part.get(part, 0) + storage_bytes(tensor)
        return tensor


def part_of(module: str) -> str | None:
    """Return the part of the model that a module belongs to; None for the model and its layers.

    >>> part_of("layers.0.attn.qkv_proj"), part_of("layers.0")
    ('attention', None)
    """
    return next((part for name, part in PART_OF_MODULE.items() if name in module.split(".")), None)


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
