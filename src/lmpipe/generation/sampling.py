"""Generating text from a trained model: sampling, streams of text, and the grid of samples that the report shows."""

import codecs
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from lmpipe.errors import InputError
from lmpipe.generation.inference import CompiledLM
from lmpipe.generation.text_metrics import figures_of, held_out_figures, known_words
from lmpipe.io.files import STANDARD_OUTPUT, read_json, write_json
from lmpipe.io.hints import command, make_again
from lmpipe.io.progress import progress
from lmpipe.io.tensor_files import read_weights
from lmpipe.kernels.runtime.buffers import Buffer
from lmpipe.model.architecture import derive_seed, weight_shapes
from lmpipe.study.documents import RUN_CONFIG, RUN_SUMMARY, read_shape
from lmpipe.study.paths import CONFIG, SUMMARY, WEIGHTS
from lmpipe.study.planned_run import PlannedRun
from lmpipe.study.schema import SamplesSettings
from lmpipe.study.settings import ModelConfig
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT, encode_utf8
from lmpipe.tokenizer.tokenizer import Tokenizer

# Samples that are continued together. Which ones are changes none of them; it bounds the memory of their caches.
BATCH = 64


@dataclass
class Sample:
    """One text being generated: how it is drawn, what the model sees of it, and what has come so far.

    `read` counts the tokens of the context that the model has read. `context_cuts` are the positions, prompt included,
    at which the context was full and its first half was dropped.
    """

    prompt_ids: list[int]
    temperature: float
    top_p: float
    random: Random
    context: list[int]
    read: int = 0
    new_ids: list[int] = field(default_factory=list)
    ended: bool = False
    context_cuts: list[int] = field(default_factory=list)

    def add(self, token_id: int, context_length: int) -> None:
        """Add a new token; a full context is cut to its last half first, which the model then reads anew."""
        if len(self.context) == context_length:
            self.context_cuts.append(len(self.prompt_ids) + len(self.new_ids))
            del self.context[: context_length - context_length // 2]
            self.read = 0
        self.context.append(token_id)
        self.new_ids.append(token_id)


def next_logits(model: CompiledLM, samples: Sequence[Sample], caches: Sequence[Buffer]) -> np.ndarray:
    """Let the model read what is new of each sample; the logits of the token after it: (samples, vocab), float32."""
    starts = [sample.read for sample in samples]
    logits = model.forward(caches, starts, [sample.context[sample.read :] for sample in samples])
    for sample in samples:
        sample.read = len(sample.context)
    return logits


def choose_token(logits: np.ndarray, temperature: float, top_p: float, random: Random) -> int:
    """Draw one token id from logits (vocab,); temperature 0 takes the likeliest, of equal ones the first."""
    highest = logits.max()
    if not np.isfinite(highest):
        # Weights of a run that diverged may overflow; samples of it are still to be seen.
        logits = np.nan_to_num(logits, posinf=1e30, neginf=-1e30)
        highest = logits.max()
    if temperature == 0:
        return int(logits.argmax())
    # Taken from the largest, so that a temperature next to 0 makes no infinities that cancel.
    with np.errstate(over="ignore"):
        weights = np.exp((logits.astype(np.float64) - highest) / temperature)
    if top_p < 1:
        weights = nucleus(weights, top_p)
    sums = weights.cumsum()
    # A draw is below the last sum, however it rounds, because random() is at most 1 - 2^-53.
    return int(sums.searchsorted(random.random() * sums[-1], side="right"))


def nucleus(weights: np.ndarray, top_p: float) -> np.ndarray:
    """The smallest set of likeliest tokens that have top_p of all weight (vocab,) or more; the others become 0.

    Nucleus sampling (Holtzman et al. 2020, section 3.1). The weights need not sum to 1. Of equal tokens the first are
    kept.
    """
    total = weights.sum()
    # All that lie below this limit have less than 1 - top_p together, so the nucleus ends before them.
    ordered = np.sort(weights[weights >= (1 - top_p) * total / len(weights)])[::-1]
    before = ordered.cumsum() - ordered
    count = np.count_nonzero(before < top_p * total)
    least = ordered[count - 1]
    kept = weights >= least
    if surplus := np.count_nonzero(kept) - count:
        kept[np.flatnonzero(weights == least)[-surplus:]] = False
    return np.where(kept, weights, 0.0)


def begin_samples(
    tokenizer: Tokenizer, wanted: Sequence[tuple[str, float, float]], context_length: int, seed: int
) -> list[Sample]:
    """Samples of (prompt, temperature, top_p). Each has random numbers of its own, so that none depends on the others.

    An empty prompt starts a new document; of a long one the model sees the last context_length tokens. Equal wishes
    get different numbers, wishes that differ the same ones: so the settings of a grid are compared, not their luck.
    """
    samples = []
    for place, (prompt, temperature, top_p) in enumerate(wanted):
        again = wanted[:place].count((prompt, temperature, top_p))
        random = Random(derive_seed(seed, f"sample {again}"))
        prompt_ids = tokenizer.encode(prompt or END_OF_TEXT)
        samples.append(Sample(prompt_ids, temperature, top_p, random, prompt_ids[-context_length:]))
    return samples


def continue_samples(
    model: CompiledLM, samples: Sequence[Sample], max_new_tokens: int, end_id: int | None
) -> Iterator[int]:
    """Give each sample its next token again and again, until all have ended; yields how many tokens came each time.

    A sample ends with the end of text, which does not become part of it, or after max_new_tokens.
    """
    for first in range(0, len(samples), BATCH):
        yield from continue_batch(model, samples[first : first + BATCH], max_new_tokens, end_id)


def continue_batch(
    model: CompiledLM, samples: Sequence[Sample], max_new_tokens: int, end_id: int | None
) -> Iterator[int]:
    """As `continue_samples`, all at once."""
    active = [(sample, model.new_cache()) for sample in samples]
    for _ in range(max_new_tokens):
        if not active:
            return
        for (sample, _), logits in zip(active, next_logits(model, *zip(*active, strict=True)), strict=True):
            token_id = choose_token(logits, sample.temperature, sample.top_p, sample.random)
            if token_id == end_id:
                sample.ended = True
            else:
                sample.add(token_id, model.config.context_length)
        yield len(active)
        active = [(sample, cache) for sample, cache in active if not sample.ended]


def end_of_text_id(tokenizer: Tokenizer) -> int | None:
    """The id that ends a document; None for a tokenizer without one."""
    token_ids = tokenizer.encode(END_OF_TEXT)
    return token_ids[0] if len(token_ids) == 1 else None


def text_of(tokenizer: Tokenizer, token_ids: Sequence[int]) -> str:
    """The text of token ids; bytes that are no UTF-8 become U+FFFD."""
    return b"".join(map(tokenizer.token_bytes, token_ids)).decode("utf-8", "replace")


def generate(
    model: CompiledLM,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 256,
    seed: int = 0,
) -> list[Sample]:
    """Continue prompts, all at once. Temperature 0 is greedy; the same seed gives the same texts.

    Exact up to context_length; beyond it the last half of the context is kept, and the sample says where.
    """
    wanted = [(prompt, temperature, top_p) for prompt in prompts]
    samples = begin_samples(tokenizer, wanted, model.config.context_length, seed)
    for _ in continue_samples(model, samples, max_new_tokens, end_of_text_id(tokenizer)):
        pass
    return samples


def stream(
    model: CompiledLM,
    tokenizer: Tokenizer,
    prompt: str,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 256,
    seed: int = 0,
) -> Iterator[str]:
    """The continuation of a prompt in pieces, as they come; a character is never cut."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    [sample] = begin_samples(tokenizer, [(prompt, temperature, top_p)], model.config.context_length, seed)
    for _ in continue_samples(model, [sample], max_new_tokens, end_of_text_id(tokenizer)):
        if not sample.ended:
            yield decoder.decode(tokenizer.token_bytes(sample.new_ids[-1]))
    yield decoder.decode(b"", final=True)


def stream_to_stdout(
    run_folder: str | Path, prompt: str, temperature: float, top_p: float, max_new_tokens: int, seed: int
) -> None:
    """Write a prompt and its continuation to standard output as it comes: the text alone, and a line end."""
    if not 0 <= temperature < math.inf:
        raise InputError(f"--temperature: expected 0 or more, found {temperature}; 0 takes the likeliest token")
    if not 0 < top_p <= 1:
        raise InputError(f"--top-p: expected a number above 0 and up to 1, found {top_p}; 1 keeps every token")
    model, tokenizer = load_run(run_folder)
    write_out(prompt)
    for piece in stream(model, tokenizer, prompt, temperature, top_p, max_new_tokens, seed):
        write_out(piece)
    write_out("\n")


def write_out(text: str) -> None:
    """Write a text to standard output at once; bytes of the command line that were no UTF-8 come out as they came."""
    try:
        sys.stdout.buffer.write(encode_utf8(text))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, STANDARD_OUTPUT) from None


def load_run(run_folder: str | Path) -> tuple[CompiledLM, Tokenizer]:
    """The trained model of a run, ready to generate, and its tokenizer; raises InputError as `read_run` does."""
    config, weights, tokenizer = read_run(run_folder)
    return CompiledLM(config, weights), tokenizer


def read_run(run_folder: str | Path) -> tuple[ModelConfig, dict[str, np.ndarray], Tokenizer]:
    """The model of a run, its trained weights and its tokenizer.

    Raises InputError where files are missing or damaged, or the tokenizer is not the one that the run was trained with.
    """
    folder = Path(run_folder)
    config = read_shape(folder / CONFIG, RUN_CONFIG)
    named = config["tokenizer"]
    place = os.path.normpath(folder / named["path"])
    tokenizer = Tokenizer.from_folder(place)
    if tokenizer.sha256 != named["sha256"]:
        raise InputError(
            f"{place}: expected the tokenizer {named['sha256'][:12]} of {folder}, found "
            f"{tokenizer.sha256[:12]}; train the run again ({command(folder / CONFIG)})"
        )
    model_config = ModelConfig.model_validate(config["model"])
    if model_config.vocab_size != tokenizer.vocab_size:
        raise InputError(
            f"{folder / CONFIG}: model.vocab_size: expected the {tokenizer.vocab_size} ids of the tokenizer, "
            f"found {model_config.vocab_size}; {make_again(folder / CONFIG)}"
        )
    return model_config, read_weights(folder / WEIGHTS, weight_shapes(model_config)), tokenizer


def sample_grid(settings: SamplesSettings) -> list[tuple[str, float, float]]:
    """Every (prompt, temperature, top_p) of the settings, each once; at temperature 0 top_p changes nothing."""
    grid = [
        (prompt, float(temperature), 1.0 if temperature == 0 else float(top_p))
        for prompt in settings.prompts
        for temperature in settings.temperature
        for top_p in settings.top_p
    ]
    return list(dict.fromkeys(grid))


def write_samples(
    settings: SamplesSettings,
    run: PlannedRun,
    run_folder: str | Path,
    train_text: str | Path,
    valid_text: str | Path,
    output: str | Path,
) -> None:
    """Generate the grid of samples of a corpus and write it with figures of fluency, beside those of held-out text.

    `run` is the planned run whose files are in `run_folder`.
    """
    model, tokenizer = load_run(run_folder)
    samples, grid = generate_grid(model, tokenizer, settings, run.seed)
    known, known_from_bytes = known_words(train_text)
    records = [
        sample_record(tokenizer, prompt, sample, known) for (prompt, _, _), sample in zip(grid, samples, strict=True)
    ]
    summary = read_shape(Path(run_folder) / SUMMARY, RUN_SUMMARY)
    result = {
        "corpus": run.corpus,
        "run": f"{run.experiment}/{run.name}",
        "run_status": summary["status"],
        "validation_loss": summary["validation_loss"],
        "tokenizer": read_json(Path(run_folder) / CONFIG)["tokenizer"]["name"],
        "prompts": settings.prompts,
        "seed": run.seed,
        "max_new_tokens": settings.max_new_tokens,
        "context_length": model.config.context_length,
        "samples": records,
        "reference": held_out_figures(valid_text, [record["words"] for record in records], known),
        "known_words": len(known),
        "known_words_from_bytes": known_from_bytes,
    }
    write_json(output, result)


def generate_grid(
    model: CompiledLM, tokenizer: Tokenizer, settings: SamplesSettings, seed: int
) -> tuple[list[Sample], list[tuple[str, float, float]]]:
    """The samples of the whole grid, made in one batch, and the grid."""
    grid = sample_grid(settings)
    samples = begin_samples(tokenizer, grid, model.config.context_length, seed)
    limit = settings.max_new_tokens
    with progress("generating", limit * len(grid), "tokens") as shown:
        for made in continue_samples(model, samples, limit, end_of_text_id(tokenizer)):
            shown.advance(made)
    return samples, grid


def sample_record(tokenizer: Tokenizer, prompt: str, sample: Sample, known: set[str]) -> dict[str, Any]:
    """A finished sample as samples/CORPUS.json keeps it; `text` is the continuation alone."""
    text = text_of(tokenizer, sample.new_ids)
    return {
        "prompt": prompt,
        "temperature": sample.temperature,
        "top_p": sample.top_p,
        "text": text,
        "tokens": len(sample.new_ids),
        "ended": sample.ended,
        "context_cuts": sample.context_cuts,
        **figures_of(text, known),
    }
