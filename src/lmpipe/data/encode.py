"""Encoding text files into token files with all cores, in order and in constant memory; at once or shard by shard."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmpipe.data.token_dataset import CHUNK_TOKENS, DTYPES, TokenArray, TokenDataset
from lmpipe.errors import InputError
from lmpipe.io.files import EarlyFlush, atomic_write, check_no_overwrite, write_json
from lmpipe.io.progress import progress
from lmpipe.io.validation import short_repr
from lmpipe.study.documents import TOKEN_SHARD, read_shape
from lmpipe.tokenizer.parallel_encoding import encode_blocks
from lmpipe.tokenizer.pretoken_counts import shard_bounds
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT
from lmpipe.tokenizer.tokenizer import Tokenizer


def encode_file(
    text_path: str | Path,
    tokenizer: Tokenizer,
    bin_path: str | Path,
    json_path: str | Path,
    name: str,
    shard: int = 0,
    shards: int = 1,
) -> dict[str, Any]:
    """Encode a text file into token ids, little endian, and describe them in a .json, which is returned.

    uint16 holds vocabularies of up to 65,536 ids, uint32 larger ones. Streams in constant memory; both files depend on
    the text and the tokenizer alone. `name` is the tokenizer's. Of `shards` shards, as `shard_bounds` cuts them, only
    the one numbered `shard` is encoded, which may be empty; `concat_shards` joins them. Raises InputError for an
    empty text, and for shards where the tokenizer cannot tell documents apart.
    """
    check_no_overwrite([text_path], [bin_path, json_path])
    check_shard(tokenizer, shard, shards)
    start, stop = shard_bounds(text_path, shards)[shard]
    digest = hashlib.sha256()
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    with atomic_write(bin_path, "wb") as file:
        flush = EarlyFlush(file)
        for ids in encode_blocks(text_path, tokenizer, f"encoding {text_path}", counts, start, stop):
            digest.update(ids)
            file.write(ids)
            flush.after_write()
        if shards == 1 and not counts.any():
            raise InputError(f"{text_path}: expected text to encode, found an empty file; give the corpus documents")
        file.flush()
        encoding = {
            "dtype": tokenizer.encoder.dtype.name,
            "vocab_size": tokenizer.vocab_size,
            "tokenizer": {"name": name, "sha256": tokenizer.sha256},
        }
        info = token_metadata(counts, digest.hexdigest(), stop - start, encoding)
        if shards > 1:
            info |= {"shard": shard, "shards": shards}
        # Before the ids get their name: where it cannot be written, an earlier pair stays whole.
        write_json(json_path, info)
    return info


def check_shard(tokenizer: Tokenizer, shard: int, shards: int) -> None:
    """Raise InputError where there is no such shard, or where cutting after a document could change the ids."""
    if not 0 <= shard < shards:
        raise InputError(f"--shard: expected a number from 0 to {shards - 1}, found {shard}; correct it")
    if shards > 1 and tokenizer.special_tokens != [END_OF_TEXT]:
        found = ", ".join(map(short_repr, tokenizer.special_tokens)) or "none"
        raise InputError(
            f"--shards: expected a tokenizer with the special token {END_OF_TEXT} alone, after which a text is cut, "
            f"found {found}; encode the text at once"
        )


def token_metadata(counts: np.ndarray, sha256: str, text_bytes: int, encoding: Mapping[str, Any]) -> dict[str, Any]:
    """What the .json of a token file says of ids that occur `counts` (vocab,) times, all or none of them."""
    return {
        "tokens": int(counts.sum()),
        "dtype": encoding["dtype"],
        "max_id": int(counts.nonzero()[0][-1]) if counts.any() else None,
        "sha256": sha256,
        "text_bytes": text_bytes,
        "vocab_size": encoding["vocab_size"],
        "tokenizer": encoding["tokenizer"],
        "unigram_entropy": unigram_entropy(counts),
    }


def concat_shards(shard_bins: Sequence[str | Path], bin_path: str | Path, json_path: str | Path) -> dict[str, Any]:
    """Join the token files of all shards of a text, in their order; returns what the .json says.

    Both files are the same bytes as those of the whole text encoded at once. Streams in constant memory. Raises
    InputError where a shard is missing, damaged or out of its place, or of another tokenizer than the first.
    """
    paths = list(map(Path, shard_bins))
    check_no_overwrite([*paths, *(path.with_suffix(".json") for path in paths)], [bin_path, json_path])
    infos = [shard_info(path) for path in paths]
    for number, (path, info) in enumerate(zip(paths, infos, strict=True)):
        check_shard_index(path, info, number, len(paths))
        check_same_tokenizer(path, info, paths[0], infos[0])
    total = sum(info["tokens"] for info in infos)
    if not total:
        raise InputError(
            f"{paths[0]}: expected tokens in one of {len(paths)} shards, found none; give the corpus documents"
        )
    digest = hashlib.sha256()
    counts = np.zeros(1 + max(info["max_id"] for info in infos if info["tokens"]), np.int64)
    size = total * DTYPES[infos[0]["dtype"]].itemsize
    with atomic_write(bin_path, "wb", size) as file, progress(f"joining {bin_path}", total, "tokens") as bar:
        for path, info in zip(paths, infos, strict=True):
            for ids in shard_blocks(path, info):
                digest.update(ids)
                file.write(ids)
                counts += np.bincount(ids, minlength=len(counts))
                bar.advance(len(ids))
        file.flush()
        joined = token_metadata(counts, digest.hexdigest(), sum(info["text_bytes"] for info in infos), infos[0])
        # Before the ids get their name: where it cannot be written, an earlier pair stays whole.
        write_json(json_path, joined)
    return joined


def shard_info(path: Path) -> dict[str, Any]:
    """The .json of a shard whose ids were looked at; raises InputError where one is missing or damaged."""
    info = read_shape(path.with_suffix(".json"), TOKEN_SHARD)
    if info["tokens"]:
        return TokenDataset.open(path).info
    size = path.stat().st_size if path.exists() else None
    if size != 0:
        found = "no file" if size is None else f"{size} bytes"
        raise InputError(f"{path}: size: expected 0 tokens, found {found}; delete it and encode the shard again")
    return info


def check_shard_index(path: Path, info: Mapping[str, Any], number: int, shards: int) -> None:
    """Raise InputError unless a token file is the shard of this number, from 0, of so many; a whole text is one."""
    found = (info.get("shard", 0), info.get("shards", 1))
    if found != (number, shards):
        raise InputError(
            f"{path}: expected shard {number} of {shards}, counted from 0, found {found[0]} of {found[1]}; "
            "name all shards of a text in their order"
        )


def check_same_tokenizer(path: Path, info: Mapping[str, Any], first_path: Path, first: Mapping[str, Any]) -> None:
    """Raise InputError unless two shards were encoded with the same tokenizer."""
    for key in ("tokenizer", "vocab_size", "dtype"):
        if info[key] != first[key]:
            raise InputError(
                f"{path}: {key}: expected {short_repr(first[key])}, as in {first_path}, found {short_repr(info[key])}; "
                "encode all shards with one tokenizer"
            )


def shard_blocks(path: Path, info: Mapping[str, Any]) -> Iterator[np.ndarray]:
    """The ids of a shard in order, in arrays (tokens,); raises InputError where they are not those once written."""
    tokens, digest = TokenArray(path, DTYPES[info["dtype"]]), hashlib.sha256()
    for start in range(0, info["tokens"], CHUNK_TOKENS):
        ids = tokens[start : start + CHUNK_TOKENS]
        digest.update(ids)
        yield ids
    if digest.hexdigest() != info["sha256"]:
        raise InputError(
            f"{path}: expected ids with sha256 {info['sha256']}, found {digest.hexdigest()}; "
            "delete it and encode the shard again"
        )


def unigram_entropy(counts: np.ndarray) -> float:
    """Entropy in nats per token of ids that occur `counts` (vocab,) times: the least loss without any context.

    >>> round(unigram_entropy(np.array([1, 1, 0, 2])), 4)
    1.0397
    """
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
