"""Documents of the measurements of a training step: its profile, and its cost at each batch size. Loads no torch."""

from typing import Literal

from lmpipe.io.documents import Document
from lmpipe.model.accounting import MemoryLine
from lmpipe.model.activation_memory import ActivationAccounting
from lmpipe.study.settings import ModelConfig

# --- model_measurements.json ------------------------------------------------------------------------------------------


class StepCost(Document):
    """Size and work of one training step."""

    parameters: int
    """Number of parameters."""
    parameter_bytes: int
    """Memory of the parameters."""
    gradient_bytes: int
    """Memory of their gradients."""
    moment_bytes: int
    """Memory of AdamW's moments."""
    forward_flops: int
    """Matrix-multiply FLOPs of the forward pass of a batch."""
    step_flops: int
    """Matrix-multiply FLOPs of the forward and the backward pass of a batch."""


class PredictedStep(StepCost):
    """Closed formulas for a step."""

    activations: ActivationAccounting
    """Tensors that the forward pass saves for the backward pass."""


class MeasuredStep(StepCost):
    """Measurement of a step on this machine; FLOPs are counted by torch on the meta device."""

    saved_bytes: int
    """Tensors that autograd saves for the backward pass."""
    saved_bytes_by_component: dict[str, int]
    """The same by component of the model."""
    matmul_flops_per_second: float
    """Fastest product of two large matrices on the device with these threads, in the training's precision."""


class StepProfile(Document):
    """model_measurements.json: one training step of the study's model, predicted and measured."""

    model: ModelConfig
    """The transformer."""
    batch_size: int
    """Sequences of the batch."""
    precision: str
    """Type of matrix products."""
    device: str
    """Model name of the processor or GPU."""
    threads: int
    """Threads of torch."""
    predicted: PredictedStep
    """Closed formulas."""
    measured: MeasuredStep
    """Measurements."""


# --- batch_sizes.json -------------------------------------------------------------------------------------------------

StopReason = Literal["memory", "run", "time"]


class BatchSizeRow(Document):
    """Measurement of one batch size."""

    batch_size: int
    """Sequences of a batch."""
    steps: int
    """Number of timed steps."""
    step_seconds: float
    """Median time of a step."""
    tokens_per_second: float
    """Throughput."""
    memory_bytes: int
    """Peak memory of model, optimizer and step."""


class BatchSizeBenchmark(Document):
    """batch_sizes.json: time and memory of a training step at each batch size.

    Memory is the increase by the model, its optimizer and a step over a process that has only loaded the code.
    """

    model: ModelConfig
    """The transformer."""
    precision: str
    """Type of matrix products."""
    device: str
    """Model name of the processor or GPU."""
    threads: int
    """Threads of torch."""
    memory_limit_bytes: int
    """Memory that a step may take: 80 % of the free memory."""
    predicted: MemoryLine
    """Prediction of lmpipe.model.activation_memory."""
    handout: MemoryLine
    """Prediction of the handout's list of activations."""
    sizes: list[BatchSizeRow]
    """Measurements, the smallest batch first."""
    largest_batch_size: int
    """Largest batch that was measured; 0 if none fits."""
    estimated_largest_batch_size: int
    """Largest batch that fits, extrapolated from the memory of the last two."""
    stop_reason: StopReason
    """Why no larger batch was tried: it would not fit, has more tokens than a run, or would take too long."""
