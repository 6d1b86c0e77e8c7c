"""Encoding of text files into token files: at once, or shard by shard and concatenated."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lmpipe.data.documents import TokenFileInfo, TokenizerReference
from lmpipe.data.token_dataset import CHUNK_TOKENS, DTYPES, TokenArray, TokenDataset
from lmpipe.errors import InputError
from lmpipe.io.files import atomic_write, check_no_overwrite
from lmpipe.io.progress import progress
from lmpipe.io.validation import short_repr
from lmpipe.study.corpora import hides_end_of_text
from lmpipe.tokenizer.parallel_encoding import encode_blocks
from lmpipe.tokenizer.pretoken_counts import shard_range
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT
from lmpipe.tokenizer.tokenizer import Tokenizer


def encode_file(
    text_path: str | Path,
    tokenizer: Tokenizer,
    bin_path: str | Path,
    json_path: str | Path,
    name: str,
    shard: int = 0,
    num_shards: int = 1,
) -> TokenFileInfo:
    """Encode a text file into token ids, little endian, and describe them in a .json file; return the description.

    The ids are uint16 for vocabularies of up to 65,536 ids, else uint32. Memory is constant, and both files depend on
    the text and the tokenizer alone. `name` is the tokenizer's. With `num_shards`, only the range `shard` of
    `shard_bounds` is encoded, which may be empty; `concat_shards` joins them. Raises InputError for an empty text, and
    for shards if the tokenizer could merge across the end of a document.
    """
    check_no_overwrite([text_path], [bin_path, json_path])
    others = [token for token in tokenizer.special_tokens if token != END_OF_TEXT]
    # A cut after a document could change the ids.
    if num_shards > 1 and (len(others) == len(tokenizer.special_tokens) or any(map(hides_end_of_text, others))):
        names = ", ".join(map(short_repr, others)) or "none"
        problem = f"need a tokenizer with {END_OF_TEXT} and no token that overlaps it, but this one has {names}"
        raise InputError("--shards", problem, "encode the text at once")
    start, stop = shard_range(text_path, shard, num_shards)
    digest = hashlib.sha256()
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    with atomic_write(bin_path, "wb") as file:
        for ids in encode_blocks(text_path, tokenizer, f"encoding {text_path}", counts, start, stop):
            digest.update(ids)
            file.write(ids)
        if num_shards == 1 and not counts.any():
            raise InputError(text_path, "is empty", "give the corpus documents")
        file.flush()
        info = TokenFileInfo(
            **statistics(counts),
            dtype=tokenizer.encoder.dtype.name,
            sha256=digest.hexdigest(),
            text_bytes=stop - start,
            vocab_size=tokenizer.vocab_size,
            tokenizer=TokenizerReference(name=name, sha256=tokenizer.sha256),
            shard=shard,
            num_shards=num_shards,
        )
        # Written before the ids get their name: if it cannot be, an earlier pair stays whole.
        info.write(json_path)
    return info


def statistics(counts: np.ndarray) -> dict[str, int | float | None]:
    """Summarize token frequencies `counts`, int64 (vocab,), for TokenFileInfo."""
    return {
        "tokens": int(counts.sum()),
        "max_id": int(counts.nonzero()[0][-1]) if counts.any() else None,
        "unigram_entropy": unigram_entropy(counts),
    }


def unigram_entropy(counts: np.ndarray) -> float:
    """Return the entropy of token frequencies `counts` (vocab,) in nats per token: the least loss without context.

    >>> round(unigram_entropy(np.array([1, 1, 0, 2])), 4)
    1.0397
    """
    probs = counts[counts > 0] / counts.sum()
    return float(-(probs * np.log(probs)).sum())


# --- shards


def concat_shards(shard_bins: Sequence[str | Path], bin_path: str | Path, json_path: str | Path) -> TokenFileInfo:
    """Concatenate the token files of all shards of a text, in order; return the description.

    Both files are the same bytes as those of the whole text encoded at once. Memory is constant. Raises InputError if
    a shard is missing, damaged, out of order, or made by another tokenizer than the first.
    """
    paths = list(map(Path, shard_bins))
    check_no_overwrite([*paths, *(path.with_suffix(".json") for path in paths)], [bin_path, json_path])
    infos = [shard_info(path) for path in paths]
    check_shards(paths, infos)
    total = sum(info.tokens for info in infos)
    if not total:
        raise InputError(paths[0], "has no tokens, nor has any other shard", "give the corpus documents")
    digest = hashlib.sha256()
    counts = np.zeros(1 + max(info.max_id for info in infos if info.tokens), np.int64)
    size = total * DTYPES[infos[0].dtype].itemsize
    with atomic_write(bin_path, "wb", size) as file, progress(f"concatenating {bin_path}", total, "tokens") as bar:
        for path, info in zip(paths, infos, strict=True):
            for ids in read_shard(path, info):
                digest.update(ids)
                file.write(ids)
                counts += np.bincount(ids, minlength=len(counts))
                bar.advance(len(ids))
        file.flush()
        text_bytes = sum(info.text_bytes for info in infos)
        whole = {"sha256": digest.hexdigest(), "text_bytes": text_bytes, "shard": 0, "num_shards": 1}
        joined = infos[0].model_copy(update=statistics(counts) | whole)
        # Written before the ids get their name: if it cannot be, an earlier pair stays whole.
        joined.write(json_path)
    return joined


def shard_info(path: Path) -> TokenFileInfo:
    """Read and check the description of a shard; raise InputError if it or the shard is missing or damaged."""
    info = TokenFileInfo.read(path.with_suffix(".json"))
    if info.tokens:
        return TokenDataset.open(path).info
    size = path.stat().st_size if path.exists() else None
    if size != 0:
        problem = "is missing" if size is None else f"has {size} bytes, but no tokens according to its .json"
        raise InputError(path, problem, "delete it and encode the shard again")
    return info


def check_shards(paths: Sequence[Path], infos: Sequence[TokenFileInfo]) -> None:
    """Raise InputError unless token files are all shards of a text, in order, from one tokenizer."""
    for index, (path, info) in enumerate(zip(paths, infos, strict=True)):
        if (info.shard, info.num_shards) != (index, len(paths)):  # a whole text is shard 0 of 1
            problem = f"is shard {info.shard} of {info.num_shards}, in the place of shard {index} of {len(paths)}"
            raise InputError(path, problem, "name all shards of a text in order, from 0")
        for key in ("tokenizer", "vocab_size", "dtype"):
            value, first_value = getattr(info, key), getattr(infos[0], key)
            if value != first_value:
                problem = f"{key} is {short_repr(value)}, but {short_repr(first_value)} in {paths[0]}"
                raise InputError(path, problem, "encode all shards with one tokenizer")


def read_shard(path: Path, info: TokenFileInfo) -> Iterator[np.ndarray]:
    """Yield the ids of a shard in order, in arrays (tokens,); raise InputError if their checksum is wrong."""
    tokens, digest = TokenArray(path, DTYPES[info.dtype]), hashlib.sha256()
    for start in range(0, info.tokens, CHUNK_TOKENS):
        ids = tokens[start : start + CHUNK_TOKENS]
        digest.update(ids)
        yield ids
    if digest.hexdigest() != info.sha256:
        problem = f"has sha256 {digest.hexdigest()}, but {info.sha256} according to its .json"
        raise InputError(path, problem, "delete it and encode the shard again")
