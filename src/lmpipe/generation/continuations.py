"""Continuations of a user's prompts by a trained run, as text or as JSON Lines."""

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from lmpipe.data.sources.readers import split_lines, unpacked_blocks, without_mark
from lmpipe.errors import InputError
from lmpipe.generation.inference import load_run
from lmpipe.generation.sampling import (
    SampleRequest,
    check_sampling,
    decode_samples,
    end_of_text_id,
    start_samples,
    stream,
    write_stdout,
)
from lmpipe.io.files import atomic_write
from lmpipe.io.progress import progress
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT, encode_utf8


def read_prompts(path: str | Path) -> list[str]:
    """Return the lines of a file that are not empty; raise InputError if there are none, or if it is not UTF-8."""
    prompts: list[str] = []
    for number, line in enumerate(split_lines(without_mark(unpacked_blocks(str(path)))), 1):
        try:
            prompts += [text] if (text := line.decode().rstrip("\r")) else []
        except UnicodeDecodeError:
            raise InputError(path, f"line {number} is not UTF-8", "save the file as UTF-8") from None
    if not prompts:
        raise InputError(path, "has no prompt", "write one in each line")
    return prompts


def continue_prompts(
    run_folder: str | Path,
    prompts: Sequence[str],
    samples: int,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    seed: int,
    output: str | Path | None,
) -> None:
    """Write `samples` continuations of each prompt to a file, or to standard output.

    A file that ends in .jsonl has an object for each text: prompt, text, tokens, reached_eos. Otherwise a text follows
    its prompt, with the end-of-text token between several texts, as in a corpus; a single one is written to standard
    output while it is decoded. Raises InputError for settings that are not possible.
    """
    try:
        check_sampling(prompts, max_new_tokens, temperature, top_p, seed)
    except InputError as error:
        raise InputError(f"--{error.where.replace('_', '-')}", error.problem, error.remedy) from None
    model, tokenizer = load_run(run_folder)
    requests = [SampleRequest(prompt, temperature, top_p, seed) for prompt in prompts for _ in range(samples)]
    if output is None and len(requests) == 1:
        for piece in chain(prompts, stream(model, tokenizer, requests[0], max_new_tokens), "\n"):
            write_stdout(piece)
        return
    texts = start_samples(tokenizer, requests, model.config.context_length)
    with progress("generating", max_new_tokens * len(texts), "tokens") as bar:
        for new_tokens in decode_samples(model, texts, max_new_tokens, end_of_text_id(tokenizer)):
            bar.advance(new_tokens)
    continued = [(text.request.prompt, tokenizer.decode(text.new_ids), text) for text in texts]
    if str(output).endswith(".jsonl"):
        rows = [
            {"prompt": prompt, "text": text, "tokens": len(sample.new_ids), "reached_eos": sample.reached_eos}
            for prompt, text, sample in continued
        ]
        content = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        content = f"{END_OF_TEXT}\n".join(f"{prompt}{text}\n" for prompt, text, _ in continued)
    if output is None:
        write_stdout(content)
        return
    with atomic_write(output, "wb") as file:
        file.write(encode_utf8(content))
