"""Files of tensors (safetensors), read without trust and without torch: a model's weights as NumPy arrays."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from lmpipe.errors import InputError
from lmpipe.io.hints import make_again, make_first


@contextlib.contextmanager
def open_tensors(path: str | Path, framework: str = "numpy") -> Iterator[Any]:
    """A safetensors file while the block runs; raises InputError where it is missing or damaged, inside it too."""
    try:
        # safetensors names no file in an error of the system, and says nothing clear of a folder.
        with open(path, "rb"), safe_open(path, framework=framework) as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {make_first(path)}") from None
    except SafetensorError as error:
        raise InputError(f"{path}: expected safetensors, found a damaged file ({error}); {make_again(path)}") from None


def read_weights(path: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The float32 tensors of these names and shapes; raises InputError for a file that holds anything else."""
    with open_tensors(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        found = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
        expected = {name: (shape, "F32") for name, shape in shapes.items()}
        # Before anything is read: a model of another size may be of any size.
        if wrong := sorted(dict(expected.items() ^ found.items())):
            raise InputError(
                f"{path}: {wrong[0]}: expected {told(expected.get(wrong[0]))}, found {told(found.get(wrong[0]))}; "
                "use the weights and the config.json of one run"
            )
        return {name: file.get_tensor(name) for name in shapes}


def told(tensor: tuple[tuple[int, ...], str] | None) -> str:
    """A tensor's shape and kind in words.

    >>> told(((2, 3), "F32")), told(None)
    ('shape (2, 3) of F32', 'none')
    """
    return "none" if tensor is None else f"shape {tensor[0]} of {tensor[1]}"
