"""A study's results folder with a tiny corpus, tokenizer and token files, on which a model trains in a second."""

import random
from pathlib import Path
from typing import Any

from lmpipe.data.encode import encode_file
from lmpipe.study.experiments import PlannedRun
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT
from lmpipe.tokenizer.tokenizer import Tokenizer

MERGES = [(b"t", b"h"), (b" ", b"a"), (b" ", b"th"), (b" th", b"e"), (b" ", b"s"), (b"o", b"n")]
MODEL = {"context_length": 16, "d_model": 16, "d_ff": 32, "num_layers": 2, "num_heads": 2}
TRAINING = {"total_tokens": 16 * 4 * 60, "batch_size": 4, "max_lr": 0.01, "num_evaluations": 4, "eval_tokens": 200}
SENTENCE = "the sun sat on a stone and the moon sang a song then the sea was calm"


def tiny_text(documents: int, seed: int) -> str:
    """Documents of random words, each followed by the delimiter."""
    chooser = random.Random(seed)
    texts = (" ".join(chooser.choices(SENTENCE.split(), k=chooser.randint(5, 30))) for _ in range(documents))
    return "".join(f"{text}.\n{END_OF_TEXT}\n" for text in texts)


def tiny_tokenizer() -> Tokenizer:
    """256 bytes, the end of text and a few merges."""
    vocab = {byte: bytes([byte]) for byte in range(256)} | {256: END_OF_TEXT.encode()}
    vocab |= {257 + rank: left + right for rank, (left, right) in enumerate(MERGES)}
    return Tokenizer(vocab, MERGES, [END_OF_TEXT])


def make_tiny_study(results: Path) -> Path:
    """Write corpora/, tokenizers/ and tokens/ of the corpus `tiny` into a results folder, which is returned."""
    tokenizer = tiny_tokenizer()
    tokenizer.save(results / "tokenizers/tiny")
    (results / "corpora/tiny").mkdir(parents=True)
    for seed, split in enumerate(("valid", "train")):
        text = results / f"corpora/tiny/{split}.txt"
        text.write_text(tiny_text(200 if split == "train" else 10, seed), encoding="utf-8")
        target = results / f"tokens/tiny/{split}.bin"
        encode_file(text, tokenizer, target, target.with_suffix(".json"), "tiny")
    return results


def tiny_run(
    name: str = "baseline",
    *,
    study: str = "test",
    experiment: str = "experiment",
    seed: int = 0,
    overrides: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    **training: Any,
) -> PlannedRun:
    """Return a run on the tiny corpus, with changes of its model and training."""
    return PlannedRun(
        study=study,
        experiment=experiment,
        name=name,
        seed=seed,
        corpus="tiny",
        tokenizer="tiny",
        overrides=overrides or {},
        model=MODEL | (model or {}),
        training=TRAINING | training,
    )
