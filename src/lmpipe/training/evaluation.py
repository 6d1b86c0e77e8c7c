"""The loss of a model on held-out tokens: curves over fixed windows, and the whole split in nats and bits."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lmpipe.data.token_dataset import Tokens, validation_windows
from lmpipe.model.functional import autocast_type
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import EVAL_BATCH_TOKENS
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT
from lmpipe.tokenizer.vocabulary import Vocabulary


@dataclass(frozen=True)
class Evaluation:
    """What the whole validation split says of a model. Losses are in nats.

    `validation_tokens` counts all targets; bytes and bits leave out the delimiters between documents.
    """

    loss: float
    bits_per_byte: float
    validation_tokens: int
    validation_bytes: int


def next_token_losses(model: TransformerLM, inputs: Tensor, targets: Tensor, precision: str) -> Tensor:
    """The loss of each target in nats, float32 (batch * seq,), for token ids (batch, seq).

    With precision `bfloat16` the matrix products are made in it, and the logits' softmax still in float32.
    """
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=autocast_type(precision) is not None):
        logits = model(inputs)
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")


def window_batches(
    tokens: Tokens, context_length: int, limit_tokens: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The fixed validation windows in batches (batch, seq) of equal length; a shorter last window comes alone."""
    at_once = max(1, EVAL_BATCH_TOKENS // context_length)
    held: list[tuple[np.ndarray, np.ndarray]] = []
    for window in validation_windows(tokens, context_length, limit_tokens):
        if held and (len(held) == at_once or len(window[0]) != len(held[0][0])):
            yield stacked(held)
            held = []
        held.append(window)
    yield stacked(held)


def stacked(windows: list[tuple[np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor]:
    """Windows of one length as inputs and targets (batch, seq)."""
    inputs, targets = zip(*windows, strict=True)
    return torch.from_numpy(np.stack(inputs)), torch.from_numpy(np.stack(targets))


@torch.inference_mode()
def losses_by_batch(
    model: TransformerLM, batches: Iterator[tuple[Tensor, Tensor]] | list[tuple[Tensor, Tensor]], precision: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Targets and their losses (batch * seq,) for each batch, float64 on the CPU, where sums do not round."""
    device = model.lm_head.weight.device
    for inputs, targets in batches:
        losses = next_token_losses(model, inputs.to(device), targets.to(device), precision)
        yield targets.flatten(), losses.cpu().double()


def mean_loss(model: TransformerLM, batches: list[tuple[Tensor, Tensor]], precision: str) -> float:
    """Nats per token over all targets of the batches."""
    total = sum(losses.sum().item() for _, losses in losses_by_batch(model, batches, precision))
    return total / sum(targets.numel() for _, targets in batches)


def text_bytes_of(tokenizer: Vocabulary) -> Tensor:
    """How many bytes of text each id stands for, int64 (vocab,): none for the delimiter between documents."""
    lengths = torch.zeros(tokenizer.vocab_size, dtype=torch.int64)
    for token_id, token in tokenizer.vocab.items():
        lengths[token_id] = 0 if token == END_OF_TEXT.encode() else len(token)
    return lengths


def evaluate(
    model: TransformerLM,
    tokens: Tokens,
    text_bytes: Tensor,
    precision: str,
    after_batch: Callable[[int], None],
) -> Evaluation:
    """The loss on a whole split, and per byte of its text; `after_batch` hears the targets of each batch.

    `text_bytes` (vocab,) comes from `text_bytes_of`. The first token is no target, so its bytes do not count.
    """
    nats = text_nats = 0.0
    targets_seen = bytes_seen = 0
    for targets, losses in losses_by_batch(model, window_batches(tokens, model.config.context_length), precision):
        lengths = text_bytes[targets]
        nats += losses.sum().item()
        text_nats += losses[lengths > 0].sum().item()
        targets_seen += targets.numel()
        bytes_seen += int(lengths.sum())
        after_batch(targets.numel())
    bits_per_byte = text_nats / math.log(2) / bytes_seen if bytes_seen else math.nan
    return Evaluation(nats / targets_seen, bits_per_byte, targets_seen, bytes_seen)
