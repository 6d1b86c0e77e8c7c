"""Loss of a model on held-out tokens: strided windows for learning curves, the whole split for the final result."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lmpipe.data.token_dataset import Tokens, validation_windows
from lmpipe.errors import InputError
from lmpipe.io.validation import short_repr
from lmpipe.model.functional import reduced_dtype
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import EVAL_BATCH_TOKENS, GPU_EVAL_LOGITS


@dataclass(frozen=True)
class Evaluation:
    """Loss on the whole validation split, in nats per token and bits per byte.

    `loss_se` is the standard error of the loss over documents. `validation_tokens` counts all targets; bytes and bits
    leave out the end-of-text tokens between documents.
    """

    loss: float
    loss_se: float
    bits_per_byte: float
    validation_tokens: int
    validation_bytes: int


def next_token_losses(model: TransformerLM, inputs: Tensor, targets: Tensor, precision: str) -> Tensor:
    """Return the loss of each target in nats, float32 (batch * seq,), for token ids (batch, seq).

    With precision `bfloat16` the matrix products use it, the softmax still float32.
    """
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=reduced_dtype(precision) is not None):
        logits = model(inputs)
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")


def eval_batch_tokens(model: TransformerLM) -> int:
    """Return the number of validation tokens to compute at once; 2,048 leave most of a GPU idle."""
    weight = model.lm_head.weight
    return max(EVAL_BATCH_TOKENS, GPU_EVAL_LOGITS // len(weight)) if weight.device.type == "cuda" else EVAL_BATCH_TOKENS


def window_batches(
    tokens: Tokens, context_length: int, limit_tokens: int | None = None, batch_tokens: int = EVAL_BATCH_TOKENS
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the validation windows as (inputs, targets), each (batch, seq); a shorter last window comes alone."""
    batch_size = max(1, batch_tokens // context_length)
    windows = validation_windows(tokens, context_length, limit_tokens)
    for _, equally_long in groupby(windows, key=lambda window: len(window[0])):
        while batch := list(islice(equally_long, batch_size)):
            inputs, targets = zip(*batch, strict=True)
            yield torch.from_numpy(np.stack(inputs)), torch.from_numpy(np.stack(targets))


@torch.inference_mode()
def losses_by_batch(
    model: TransformerLM, batches: Iterator[tuple[Tensor, Tensor]] | list[tuple[Tensor, Tensor]], precision: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield targets and losses of each batch, both (batch * seq,); losses are float64, whose sums round less."""
    device = model.lm_head.weight.device
    for inputs, targets in batches:
        losses = next_token_losses(model, inputs.to(device), targets.to(device), precision)
        yield targets.flatten(), losses.cpu().double()


def mean_loss(model: TransformerLM, batches: list[tuple[Tensor, Tensor]], precision: str) -> float:
    """Return the mean loss over all targets of the batches, in nats per token."""
    total = sum(losses.sum().item() for _, losses in losses_by_batch(model, batches, precision))
    return total / sum(targets.numel() for _, targets in batches)


def evaluate(
    model: TransformerLM,
    tokens: Tokens,
    byte_lengths: np.ndarray,
    precision: str,
    after_batch: Callable[[int], None] = lambda targets: None,
) -> Evaluation:
    """Evaluate a whole split; `after_batch(n)` is called after each batch with its number of targets.

    `byte_lengths` (vocab,) are a vocabulary's. The first token is not a target, so its bytes do not count.
    """
    text_nats, bytes_seen = 0.0, 0
    documents = DocumentLosses()
    windows = window_batches(tokens, model.config.context_length, batch_tokens=eval_batch_tokens(model))
    for targets, losses in losses_by_batch(model, windows, precision):
        lengths = torch.from_numpy(byte_lengths[targets.numpy()])
        documents.add(losses.numpy(), (lengths == 0).numpy())
        text_nats += losses[lengths > 0].sum().item()
        bytes_seen += int(lengths.sum())
        after_batch(targets.numel())
    bits_per_byte = text_nats / math.log(2) / bytes_seen if bytes_seen else math.nan
    return Evaluation(documents.mean, documents.standard_error, bits_per_byte, int(documents.targets), bytes_seen)


@torch.no_grad()
def logits_of(model: TransformerLM, ids: Sequence[int] | Sequence[Sequence[int]] | Tensor) -> Tensor:
    """Return the logits of ids (seq,) or (batch, seq), checked before: (..., seq, vocab_size), on the model's device.

    Raises InputError for ids that the model does not have, and for more positions than it has.
    """
    config = model.config
    try:
        ids = torch.as_tensor(ids, device=model.lm_head.weight.device)
    except (TypeError, ValueError, RuntimeError):
        raise InputError("ids", f"are {short_repr(ids)}", "pass a list or a tensor of token ids") from None
    if ids.dim() not in (1, 2) or not ids.numel() or ids.is_floating_point() or ids.dtype == torch.bool:
        problem = f"have shape {tuple(ids.shape)} and type {ids.dtype}"
        raise InputError("ids", problem, "pass whole numbers, (seq,) or (batch, seq)")
    ids = ids.long()
    if ids.min() < 0 or ids.max() >= config.vocab_size:
        problem = f"are from {ids.min()} to {ids.max()}, but the model has {config.vocab_size} token ids"
        raise InputError("ids", problem, "encode the text with the tokenizer of the run")
    return model(ids[None])[0] if ids.dim() == 1 else model(ids)


class DocumentLosses:
    """Losses of a text in order, summed by document: the tokens up to an end-of-text token, that one included."""

    def __init__(self) -> None:
        self.counts, self.sums = np.zeros(1), np.zeros(1)

    def add(self, losses: np.ndarray, is_end: np.ndarray) -> None:
        """Add the next losses, (tokens,) float64, and which of their targets end a document."""
        document = np.cumsum(is_end) - is_end
        counts, sums = np.bincount(document).astype(float), np.bincount(document, losses)
        counts[0] += self.counts[-1]
        sums[0] += self.sums[-1]
        opened = [0.0] if is_end[-1] else []
        self.counts = np.concatenate((self.counts[:-1], counts, opened))
        self.sums = np.concatenate((self.sums[:-1], sums, opened))

    @property
    def targets(self) -> float:
        """Number of losses."""
        return self.counts.sum()

    @property
    def mean(self) -> float:
        """Mean of all losses, in nats per token."""
        return float(self.sums.sum() / self.targets)

    @property
    def standard_error(self) -> float:
        """Standard error of the mean, with documents as clusters (ratio estimator; Cochran 1977, section 6.4)."""
        counts, sums = self.counts[self.counts > 0], self.sums[self.counts > 0]
        if len(counts) < 2:
            return math.nan
        residuals = sums - self.mean * counts
        return math.sqrt(len(counts) / (len(counts) - 1) * float(residuals @ residuals)) / self.targets
