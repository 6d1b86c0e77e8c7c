"""Training of byte-level BPE by lmpipe or a peer: python -m benchmarks.trainers NAME CORPUS VOCAB_SIZE.

Prints peak memory and the tokens in the order of the merges as JSON: {"peak_memory_bytes", "tokens": [latin-1]}.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
END_OF_TEXT = "<|endoftext|>"
BLOCK_BYTES = 1 << 24


def texts(corpus: str) -> Iterator[str]:
    """Yield the texts between the separators of a corpus, also empty ones, for peers that read no files."""
    rest = b""
    with open(corpus, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            *complete, rest = (rest + block).split(END_OF_TEXT.encode())
            yield from (text.decode() for text in complete)
    yield rest.decode()


@cache
def printable_bytes() -> dict[str, int]:
    """Byte of each character of GPT-2's bytes_to_unicode."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + index): byte for index, byte in enumerate(rest)}


def unicode_to_bytes(token: list[str] | str) -> bytes:
    """Bytes of a token in GPT-2's characters, or of a merge as a pair or line."""
    return bytes(printable_bytes()[character] for character in "".join(token).replace(" ", ""))


def lmpipe(corpus: str, vocab_size: int) -> list[bytes]:
    """Train with lmpipe."""
    from lmpipe.tokenizer.bpe_training import train_bpe

    return [left + right for left, right in train_bpe(corpus, vocab_size, [END_OF_TEXT])[1]]


def ffbpe(corpus: str, vocab_size: int) -> list[bytes]:
    """Train with ffbpe, which has lmpipe's rule for ties: all merges must be the same."""
    from ffbpe.pretokenizer import PreTokenizer
    from ffbpe.trainer import BpeTrainer

    counter = PreTokenizer([END_OF_TEXT], eot_token=END_OF_TEXT, pat_str=PATTERN).word_counter()
    counter.add_source(filter(None, texts(corpus)), max_records=4096, max_bytes=64 << 20, prefetch=1)
    trainer = BpeTrainer([END_OF_TEXT], unit="byte", tie_break="largest_content")
    trainer.add_word_counter(counter)
    trainer.train(vocab_size)
    return sorted(trainer.vocab, key=trainer.vocab.get)[257:]


def gigatoken(corpus: str, vocab_size: int) -> list[bytes]:
    """Train with Gigatoken, which reads the file itself."""
    from gigatoken.gigatoken_rs import train_bpe

    _, merges = train_bpe(corpus, vocab_size, [END_OF_TEXT], "assembled_bytes", END_OF_TEXT.encode())
    return [bytes(left) + bytes(right) for left, right in merges]


def gigabpe(corpus: str, vocab_size: int) -> list[bytes]:
    """Train with Gigabpe, which reads the file itself."""
    import gigabpe

    options = {"pretokenizer": "bytelevel", "special_tokens": [END_OF_TEXT]}
    _, merges = gigabpe.train_bpe([corpus], vocab_size=vocab_size, **options)
    return [unicode_to_bytes(merge) for merge in merges]


def rustbpe(corpus: str, vocab_size: int) -> list[bytes]:
    """Train with Karpathy's rustbpe, which has no special tokens."""
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(filter(None, texts(corpus)), vocab_size - 1, pattern=PATTERN)
    return [bytes(token) for token, _ in tokenizer.get_mergeable_ranks()][256:]


def tokenizers(corpus: str, vocab_size: int) -> list[bytes]:
    """Train with Hugging Face tokenizers."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(filter(None, texts(corpus)), trainer)
    return [unicode_to_bytes(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]


TRAINERS: dict[str, Callable[[str, int], list[bytes]]] = {
    trainer.__name__: trainer for trainer in (lmpipe, ffbpe, gigatoken, gigabpe, rustbpe, tokenizers)
}


def peak_memory_bytes() -> int:
    """Peak memory of this process (Linux)."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def train(name: str, corpus: str, vocab_size: int) -> dict[str, Any]:
    """Train once; return peak memory and tokens."""
    tokens = [token.decode("latin-1") for token in TRAINERS[name](corpus, vocab_size)]
    return {"peak_memory_bytes": peak_memory_bytes(), "tokens": tokens}


def print_json(compute: Callable[[], dict[str, Any]]) -> None:
    """Print a result as JSON and nothing else: what peers print goes to standard error."""
    with os.fdopen(os.dup(1), "w") as output:
        os.dup2(2, 1)
        json.dump(compute(), output)


if __name__ == "__main__":
    name, corpus, vocab_size = sys.argv[1:]
    print_json(lambda: train(name, corpus, int(vocab_size)))
