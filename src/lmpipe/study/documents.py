"""Schemas of JSON files that have no document yet: the keys that a reader relies on.

A shape names the keys that some reader relies on, and their kinds; files may hold more. What does not fit is one line
that names the place, so that no reader has to expect anything but what its shape promises.
"""

from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from lmpipe.errors import REBUILD
from lmpipe.io.files import read_json
from lmpipe.io.validation import first_violation


def read_shape(path: str | Path, kind: Any, remedy: str = "") -> Any:
    """Read a JSON file of a shape; raises InputError where it is missing, damaged, or holds something else.

    `remedy` says what to do with a damaged file that no rule makes.
    """
    return check_shape(read_json(path, remedy), kind, str(path), remedy or REBUILD)


def check_shape(value: Any, kind: Any, place: str, remedy: str) -> Any:
    """The value as it is, if it has the shape; raises InputError with the first key that is wrong."""
    try:
        adapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        raise first_violation(error, value).damage(place, remedy) from None
    return value


@cache
def adapter(kind: Any) -> TypeAdapter:
    """What checks a shape; building it takes longer than using it."""
    return TypeAdapter(kind)


def keys(**kinds: Any) -> Any:
    """The shape of an object that has these keys, and maybe others."""
    return TypedDict("keys", kinds)


Whole = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
