"""Tensor files (safetensors), read without trust and without torch."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from lmpipe.errors import BUILD, REBUILD, InputError


@contextlib.contextmanager
def open_tensors(path: str | Path, framework: str = "numpy") -> Iterator[Any]:
    """Open a safetensors file for the block; raise InputError if it is missing, or damaged where the block reads it."""
    try:
        # safetensors names no file in an error of the system, and is unclear about a directory.
        with open(path, "rb"), safe_open(path, framework=framework) as file:
            yield file
    except FileNotFoundError:
        raise InputError(path, "is missing", BUILD) from None
    except SafetensorError as error:
        raise InputError(path, f"is not a complete safetensors file ({error})", REBUILD) from None


def read_weights(path: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Return the float32 tensors of these names and shapes; raise InputError if the file has others."""
    with open_tensors(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        actual = {name: (tuple(tensor.get_shape()), tensor.get_dtype()) for name, tensor in slices.items()}
        expected = {name: (shape, "F32") for name, shape in shapes.items()}
        # Compared before anything is read: a model of another size may be of any size.
        if different := sorted(dict(expected.items() ^ actual.items())):
            name = different[0]
            raise InputError(
                path,
                f"has {describe_tensor(actual.get(name))} for {name}, not {describe_tensor(expected.get(name))}",
                "use the weights and the config.json of one run",
            )
        return {name: file.get_tensor(name) for name in shapes}


def describe_tensor(tensor: tuple[tuple[int, ...], str] | None) -> str:
    """Return a tensor's shape and type in words.

    >>> describe_tensor(((2, 3), "F32")), describe_tensor(None)
    ('shape (2, 3) of F32', 'no tensor')
    """
    return "no tensor" if tensor is None else f"shape {tensor[0]} of {tensor[1]}"
