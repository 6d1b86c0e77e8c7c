"""What a study's own model really takes, beside what the accounting predicts: parameters, FLOPs, bytes and speed."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lmpipe.model.accounting import FLOAT32_BYTES, count_parameters, forward_flops
from lmpipe.model.activation_memory import account_activations
from lmpipe.model.functional import autocast_type
from lmpipe.model.torch_counts import count_torch_flops
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import ModelConfig, TrainingSettings
from lmpipe.training.devices import compute_reproducibly, device_name, peak_memory_bytes
from lmpipe.training.gpu_locks import held_device
from lmpipe.training.step import TrainingStep, Watch

# The part of the model that each of its modules is counted to; the rest of a name says which layer it belongs to.
PART_OF_MODULE = {
    "token_embeddings": "embedding",
    "ln1": "norms",
    "ln2": "norms",
    "ln_final": "norms",
    "attn": "attention",
    "ffn": "feed_forward",
    "lm_head": "lm_head",
}
# The ceiling is the fastest product of two square matrices, of a side at which larger ones are no faster.
MATMUL_SIDE = {"cpu": 1024, "mps": 2048, "cuda": 8192}
MATMUL_SECONDS = 1.0
FEWEST_PRODUCTS = 3


def measure_model(
    config: ModelConfig, training: TrainingSettings, *, threads: int = 1, device: str | None = None
) -> dict[str, Any]:
    """Measure one training step of a model at its batch size, predictions beside it: model_measurements.json.

    Bytes are those of the process before it has this model, of the parameters, their gradients, the optimizer's
    moments, and what the forward pass saves for the backward pass, by part. FLOPs are torch's count of a step on the
    meta device, which computes nothing. `matmul_flops_per_second` is the device's ceiling with so many threads, in the
    precision of the training.
    """
    with held_device(device) as found:
        return measure_on(found, config, training, threads)


def measure_on(found: torch.device, config: ModelConfig, training: TrainingSettings, threads: int) -> dict[str, Any]:
    """The same on a device that no other process of this user computes on, if it is a GPU."""
    compute_reproducibly(threads, found)
    load_code(config, training, found)
    process = peak_memory_bytes(found)
    step = measure_step(config, training, found)
    return {
        "model": config.model_dump(mode="json"),
        "batch_size": training.batch_size,
        "precision": training.precision,
        "device": device_name(found),
        "threads": threads,
        "predicted": predict(config, training),
        "measured": {
            "process_bytes": process,
            **step,
            **count_flops(config, training.batch_size),
            "matmul_flops_per_second": matmul_flops_per_second(found, training.precision),
        },
    }


def load_code(config: ModelConfig, training: TrainingSettings, device: torch.device) -> None:
    """Make a step of a model of the same kind that takes next to no memory.

    The first step of a process loads the code that computes, which takes more than a small model does.
    """
    smallest = {"d_model": 2 * config.num_heads, "d_ff": 2, "num_layers": 1, "context_length": 2, "vocab_size": 2}
    tiny, one = config.model_copy(update=smallest), training.model_copy(update={"batch_size": 1})
    step = TrainingStep(TransformerLM(tiny, seed=0).to(device), one, Watch(device, warmup_steps=0))
    step.make(1, *made_up_batch(tiny, 1, device), learning_rate=0.0)
    step.fetch()


def predict(config: ModelConfig, training: TrainingSettings) -> dict[str, Any]:
    """What the closed forms say of the same step."""
    total, forward = count_parameters(config).total, training.batch_size * forward_flops(config)
    return {
        "parameters": total,
        "parameter_bytes": FLOAT32_BYTES * total,
        "gradient_bytes": FLOAT32_BYTES * total,
        "moment_bytes": 2 * FLOAT32_BYTES * total,
        "forward_flops": forward,
        "step_flops": 3 * forward,
        "activations": account_activations(config, training.precision, training.batch_size).model_dump(mode="json"),
    }


def measure_step(config: ModelConfig, training: TrainingSettings, device: torch.device) -> dict[str, Any]:
    """One real training step of a new model, not compiled, on made-up tokens: the bytes of all that it holds."""
    model = TransformerLM(config, seed=0).to(device)
    step, saved = TrainingStep(model, training, Watch(device, warmup_steps=0)), SavedTensors(model)
    inputs, targets = made_up_batch(config, training.batch_size, device)
    with saved.watched():
        loss = step.loss(inputs, targets) / targets.numel()
    loss.backward()
    optimizer, weights = step.optimizer, list(model.parameters())
    return {
        "parameters": sum(weight.numel() for weight in weights),
        "parameter_bytes": sum(map(bytes_of, weights)),
        "gradient_bytes": sum(bytes_of(weight.grad) for weight in weights),
        "moment_bytes": sum(map(bytes_of, [*optimizer.exp_avg.values(), *optimizer.exp_avg_sq.values()])),
        "saved_bytes": sum(saved.bytes_by_part.values()),
        "saved_bytes_by_part": saved.bytes_by_part,
    }


def made_up_batch(config: ModelConfig, batch_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random inputs and targets, each (batch, seq) in memory of its own."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, batch_size, config.context_length)
    inputs, targets = torch.randint(config.vocab_size, shape, generator=generator).unbind()
    return inputs.clone().to(device), targets.clone().to(device)


def bytes_of(tensor: Tensor) -> int:
    """The memory that a tensor keeps alive: all of its storage, of which it may be a part."""
    return tensor.untyped_storage().nbytes()


class SavedTensors:
    """What autograd saves while a model computes a loss: bytes by part of the model, each memory counted once.

    What the model holds anyway, its parameters and buffers, does not count.
    """

    def __init__(self, model: nn.Module):
        self.bytes_by_part: dict[str, int] = {}
        self.model = model
        held = [*model.parameters(), *model.buffers()]
        # Tensors that are kept here cannot be freed, so that no memory appears twice under other contents.
        self.seen: dict[int, Tensor] = {tensor.untyped_storage().data_ptr(): tensor for tensor in held}
        self.at_work = ["loss"]

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Count what is saved inside."""
        handles = []
        for name, module in self.model.named_modules():
            if (part := part_of(name)) is not None:
                handles.append(module.register_forward_pre_hook(lambda *_, part=part: self.at_work.append(part)))
                handles.append(module.register_forward_hook(lambda *_: self.leave()))
        with torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor):
            yield
        for handle in handles:
            handle.remove()

    def leave(self) -> None:
        """A module has done its work."""
        self.at_work.pop()

    def pack(self, tensor: Tensor) -> Tensor:
        """Count a tensor that is saved now."""
        place = tensor.untyped_storage().data_ptr()
        if place not in self.seen:
            self.seen[place] = tensor
            part = self.at_work[-1]
            self.bytes_by_part[part] = self.bytes_by_part.get(part, 0) + bytes_of(tensor)
        return tensor


def part_of(module: str) -> str | None:
    """The part of the model that a module's name belongs to; None for the model and its layers as such.

    >>> part_of("layers.0.attn.qkv_proj"), part_of("layers.0")
    ('attention', None)
    """
    return next((part for name, part in PART_OF_MODULE.items() if name in module.split(".")), None)


def count_flops(config: ModelConfig, batch_size: int) -> dict[str, int]:
    """Count the matrix-multiply FLOPs of a batch with torch: of the forward pass and of the whole step."""
    forward, step = (count_torch_flops(config, batch_size, backward) for backward in (False, True))
    return {"forward_flops": forward, "step_flops": step}


def matmul_flops_per_second(device: torch.device, precision: str) -> float:
    """The most FLOP/s that a product of two large square matrices reaches on the device."""
    side = MATMUL_SIDE[device.type]
    # Random numbers, since a GPU multiplies constant ones faster.
    left, right = (torch.randn((side, side)).to(device, autocast_type(precision) or torch.float32) for _ in range(2))
    seconds: list[float] = []
    while len(seconds) <= FEWEST_PRODUCTS or sum(seconds) < MATMUL_SECONDS:
        started = time.perf_counter()
        # Reading one number of the product waits until a GPU has made it.
        (left @ right)[0, 0].item()
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds[1:])
