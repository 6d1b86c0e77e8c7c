"""Equality of two results folders of one study, byte for byte where determinism is promised.

    python -m benchmarks.byte_check results/laptop ../before/results/laptop --rename "sqrt_rule=>sqrt_batch_size"

It compares vocabularies, merges, token files, every tensor of every model, metrics.csv without its time columns, and
the texts of all samples. JSON keys may differ. `--rename "OLD=>NEW"` maps folder names of the second folder.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import safe_open

TIME_COLUMNS = ["wall_seconds"]


def tensors(path: Path) -> dict[str, Any]:
    """Name, dtype, shape and bytes of every tensor of a safetensors file."""
    with safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in sorted(file.keys())}
    return {name: (str(array.dtype), array.shape, array.tobytes()) for name, array in arrays.items()}


def metrics(path: Path) -> str:
    """Cells of metrics.csv without its time columns, as they are written."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return table.drop(columns=TIME_COLUMNS, errors="ignore").to_csv(index=False)


def samples(path: Path) -> list[tuple[Any, ...]]:
    """Prompt, text and token ids of every sample, wherever the file holds them."""
    return list(sample_values(json.loads(path.read_text(encoding="utf-8"))))


def sample_values(value: Any) -> Iterator[tuple[Any, ...]]:
    """Walk a JSON value and yield the prompt, text and token ids of each object that has a text."""
    if isinstance(value, dict):
        if "text" in value:
            yield tuple(value.get(key) for key in ("prompt", "text", "token_ids", "ids", "tokens"))
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from sample_values(item)


READERS: dict[str, Callable[[Path], Any]] = {
    "tokenizers/*/vocab.json": Path.read_bytes,
    "tokenizers/*/merges.txt": Path.read_bytes,
    "tokens/*/*.bin": Path.read_bytes,
    "runs/*/*/*/model.safetensors": tensors,
    "runs/*/*/*/metrics.csv": metrics,
    "samples/*.json": samples,
}


def differences(first: Path, second: Path, renames: list[tuple[str, str]]) -> Iterator[str]:
    """Yield a line for each file that only one folder has, or whose content differs."""

    def renamed(name: str) -> str:
        for old, new in renames:
            name = name.replace(old, new)
        return name

    for pattern, read in READERS.items():
        actual = {path.relative_to(first).as_posix(): path for path in first.glob(pattern)}
        expected = {renamed(path.relative_to(second).as_posix()): path for path in second.glob(pattern)}
        if not actual:
            yield f"{pattern}: no such file in {first}"
        for name in sorted(actual.keys() | expected.keys()):
            if name not in actual or name not in expected:
                yield f"{name}: only in {first if name in actual else second}"
            elif read(actual[name]) != read(expected[name]):
                yield f"{name}: differs"


def main() -> None:
    """Compare two folders; exit with 1 if they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--rename", action="append", default=[], metavar="OLD=>NEW", help="part of a folder's name")
    args = parser.parse_args()
    different = list(differences(args.first, args.second, [tuple(pair.split("=>")) for pair in args.rename]))
    compared = sum(len(list(args.first.glob(pattern))) for pattern in READERS)
    print("\n".join([*different, f"{compared} files compared, {len(different)} differ"]))
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
