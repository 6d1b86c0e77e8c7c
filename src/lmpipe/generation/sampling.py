"""Sampling from a trained model: temperature, nucleus sampling, and texts that are decoded together or streamed."""

import codecs
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from random import Random
from typing import NamedTuple

import numpy as np

from lmpipe.errors import InputError
from lmpipe.generation.inference import CompiledLM
from lmpipe.io.files import STANDARD_OUTPUT
from lmpipe.io.validation import short_repr
from lmpipe.model.architecture import derive_seed
from lmpipe.study.fields import MAX_SEED
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT, encode_utf8
from lmpipe.tokenizer.tokenizer import Tokenizer

# Samples that are decoded together. Their number changes none of them; it bounds the memory of their KV caches.
BATCH_SIZE = 64


class SampleRequest(NamedTuple):
    """Prompt and sampling settings of a text to generate; temperature 0 is greedy."""

    prompt: str
    temperature: float
    top_p: float
    seed: int


@dataclass
class Sample:
    """Text being generated: its request, the context that the model sees, and the new tokens so far.

    `num_cached` tokens of the context are in the KV cache. `context_truncations` are the positions, prompt included,
    at which the context was full and its first half was dropped.
    """

    request: SampleRequest
    prompt_ids: list[int]
    random: Random
    context: list[int]
    num_cached: int = 0
    new_ids: list[int] = field(default_factory=list)
    reached_eos: bool = False
    context_truncations: list[int] = field(default_factory=list)

    def append(self, token_id: int, context_length: int) -> None:
        """Append a new token; a full context is cut to its last half first, which the model then recomputes."""
        if len(self.context) == context_length:
            self.context_truncations.append(len(self.prompt_ids) + len(self.new_ids))
            del self.context[: context_length - context_length // 2]
            self.num_cached = 0
        self.context.append(token_id)
        self.new_ids.append(token_id)


# --- one token -------------------------------------------------------------------------------------------------------


def sample_token(logits: np.ndarray, temperature: float, top_p: float, random: Random) -> int:
    """Draw a token id from logits (vocab,); temperature 0 takes the likeliest, of equal ones the first."""
    max_logit = logits.max()
    if not np.isfinite(max_logit):
        # Weights of a diverged run may overflow; samples of it are still shown.
        logits = np.nan_to_num(logits, posinf=1e30, neginf=-1e30)
        max_logit = logits.max()
    if temperature == 0:
        return int(logits.argmax())
    # Relative to the largest logit, so that a tiny temperature gives no infinities that cancel.
    with np.errstate(over="ignore"):
        weights = np.exp((logits.astype(np.float64) - max_logit) / temperature)
    if top_p < 1:
        weights = nucleus(weights, top_p)
    sums = weights.cumsum()
    # A draw is below the last sum, however it rounds, because random() is at most 1 - 2^-53.
    return int(sums.searchsorted(random.random() * sums[-1], side="right"))


def nucleus(weights: np.ndarray, top_p: float) -> np.ndarray:
    """Return weights (vocab,) with all but the nucleus set to 0 (Holtzman et al. 2020, section 3.1).

    The nucleus is the smallest set of likeliest tokens that have `top_p` of the total weight or more. The weights need
    not sum to 1; of equal tokens the first are in it.
    """
    total = weights.sum()
    # All tokens below this limit have less than 1 - top_p together, so the nucleus ends before them.
    ordered = np.sort(weights[weights >= (1 - top_p) * total / len(weights)])[::-1]
    before = ordered.cumsum() - ordered
    count = np.count_nonzero(before < top_p * total)
    smallest = ordered[count - 1]
    is_in_nucleus = weights >= smallest
    if surplus := np.count_nonzero(is_in_nucleus) - count:
        is_in_nucleus[np.flatnonzero(weights == smallest)[-surplus:]] = False
    return np.where(is_in_nucleus, weights, 0.0)


# --- whole texts -----------------------------------------------------------------------------------------------------


def start_samples(tokenizer: Tokenizer, requests: Sequence[SampleRequest], context_length: int) -> list[Sample]:
    """Return a sample for each request; an empty prompt starts a new document.

    Of a long prompt the model sees the last context_length tokens. Common random numbers: the k-th sample of any
    settings uses the k-th stream, so that differences between settings are not sampling noise.
    """
    samples = []
    repeats: Counter[SampleRequest] = Counter()
    for request in requests:
        random = Random(derive_seed(request.seed, f"sample {repeats[request]}"))
        repeats[request] += 1
        prompt_ids = tokenizer.encode(request.prompt or END_OF_TEXT)
        samples.append(Sample(request, prompt_ids, random, prompt_ids[-context_length:]))
    return samples


def decode_samples(
    model: CompiledLM, samples: Sequence[Sample], max_new_tokens: int, eos_id: int | None
) -> Iterator[int]:
    """Decode all samples to their end; yield the number of new tokens after each step.

    A sample ends with the end-of-text token, which does not become part of it, or after `max_new_tokens`.
    """
    for first in range(0, len(samples), BATCH_SIZE):
        active = [(sample, model.new_cache()) for sample in samples[first : first + BATCH_SIZE]]
        for _ in range(max_new_tokens):
            if not active:
                break
            new_ids = [sample.context[sample.num_cached :] for sample, _ in active]
            caches, starts = [cache for _, cache in active], [sample.num_cached for sample, _ in active]
            for (sample, _), logits in zip(active, model.forward(caches, starts, new_ids), strict=True):
                sample.num_cached = len(sample.context)
                token_id = sample_token(logits, sample.request.temperature, sample.request.top_p, sample.random)
                if token_id == eos_id:
                    sample.reached_eos = True
                else:
                    sample.append(token_id, model.config.context_length)
            yield len(active)
            active = [(sample, cache) for sample, cache in active if not sample.reached_eos]


def end_of_text_id(tokenizer: Tokenizer) -> int | None:
    """Return the id that ends a document; None for a tokenizer without one."""
    token_ids = tokenizer.encode(END_OF_TEXT)
    return token_ids[0] if len(token_ids) == 1 else None


def check_sampling(prompts: Sequence[str], max_new_tokens: int, temperature: float, top_p: float, seed: int) -> None:
    """Raise InputError for arguments of `generate` that it cannot take."""
    are_texts = isinstance(prompts, Sequence) and all(isinstance(prompt, str) for prompt in prompts)
    is_count = isinstance(max_new_tokens, Integral) and max_new_tokens > 0
    is_temperature = isinstance(temperature, Real) and 0 <= temperature < math.inf
    is_probability = isinstance(top_p, Real) and 0 < top_p <= 1
    for where, value, is_valid, expected in (
        ("prompt", prompts, are_texts, "a str, or a list of them"),
        ("max_new_tokens", max_new_tokens, is_count, "a whole number above 0"),
        ("temperature", temperature, is_temperature, "a number of 0 or more"),
        ("top_p", top_p, is_probability, "a number above 0 and up to 1"),
        ("seed", seed, isinstance(seed, Integral) and 0 <= seed < MAX_SEED, f"a whole number from 0 to {MAX_SEED - 1}"),
    ):
        if not is_valid:
            raise InputError(where, f"is {short_repr(value)}", f"pass {expected}")


def generate(
    model: CompiledLM,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 256,
    seed: int = 0,
) -> list[Sample]:
    """Continue all prompts together; the same seed gives the same texts.

    Exact up to context_length; beyond it the context is cut to its last half, at the positions `context_truncations`.
    """
    requests = [SampleRequest(prompt, temperature, top_p, seed) for prompt in prompts]
    samples = start_samples(tokenizer, requests, model.config.context_length)
    for _ in decode_samples(model, samples, max_new_tokens, end_of_text_id(tokenizer)):
        pass
    return samples


def stream(model: CompiledLM, tokenizer: Tokenizer, request: SampleRequest, max_new_tokens: int) -> Iterator[str]:
    """Yield the continuation of a prompt in pieces of whole characters as they are decoded."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    [sample] = start_samples(tokenizer, [request], model.config.context_length)
    for _ in decode_samples(model, [sample], max_new_tokens, end_of_text_id(tokenizer)):
        if not sample.reached_eos:
            yield decoder.decode(tokenizer.token_bytes(sample.new_ids[-1]))
    yield decoder.decode(b"", final=True)


def write_stdout(text: str) -> None:
    """Write a text to standard output at once; bytes of the command line that are not UTF-8 are written unchanged."""
    try:
        sys.stdout.buffer.write(encode_utf8(text))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, STANDARD_OUTPUT) from None
