"""Accounting of a model, checked against torch: its parameters and FLOPs counted on lmpipe's own model."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from lmpipe.model.accounting import (
    FLOAT32_BYTES,
    ModelAccounting,
    ModelCounts,
    compare_adamw,
    component_shares,
    count_flops,
    count_parameters,
    expected_counts,
    matmuls,
)
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.editions import AdamWQuestion
from lmpipe.study.settings import ModelConfig


def count_torch_flops(config: ModelConfig, batch_size: int, backward: bool = False) -> int:
    """Count the matrix-multiply FLOPs of a batch, of the forward pass or of both passes, with FlopCounterMode.

    The model is on the meta device, which computes nothing, and on which scaled_dot_product_attention falls apart into
    the multiplies that the counter sees; on the CPU it would leave them out.
    """
    model = TransformerLM(config, device="meta")
    token_ids = torch.empty((batch_size, config.context_length), dtype=torch.long, device="meta")
    with torch.set_grad_enabled(backward), FlopCounterMode(display=False) as counter:
        logits = model(token_ids)
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


def count_with_torch(config: ModelConfig) -> ModelCounts:
    """Count the parameters and the forward FLOPs of lmpipe's own model."""
    parameters = TransformerLM(config, device="meta").parameters()
    return ModelCounts(
        parameters=sum(parameter.numel() for parameter in parameters), forward_flops=count_torch_flops(config, 1)
    )


def account_model(name: str, config: ModelConfig, question: AdamWQuestion) -> ModelAccounting:
    """Return the accounting of a model; raise RuntimeError if torch counts otherwise than the formulas."""
    parameters, torch_counts = count_parameters(config), count_with_torch(config)
    if (formulas := expected_counts(config)) != torch_counts:
        raise RuntimeError(f"accounting of {name}: the formulas give {formulas}, but torch counts {torch_counts}")
    return ModelAccounting(
        name=name,
        config=config,
        parameters=parameters,
        parameter_bytes=FLOAT32_BYTES * parameters.total,
        matmuls=matmuls(config),
        flops=count_flops(config),
        shares=component_shares(config),
        torch_counts=torch_counts,
        adamw=compare_adamw(config, question),
    )
