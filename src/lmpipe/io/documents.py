"""JSON documents: each file format is one frozen pydantic model, which its writer constructs and its readers get."""

import contextlib
import json
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from lmpipe.errors import BUILD, REBUILD, InputError
from lmpipe.io.files import write_json
from lmpipe.io.validation import first_violation


class Document(BaseModel):
    """A JSON file with a fixed schema; subclasses declare its keys, each with a docstring of its meaning.

    Unknown keys, missing keys, values of another type, NaN and infinity are refused. The tables in results/README.md
    are generated from the subclasses.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @classmethod
    def read(cls, path: str | Path, remedy: str = REBUILD) -> Self:
        """Read the document at `path`; raise InputError, with `remedy`, if it is missing or damaged."""
        try:
            data = Path(path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(path, "is missing", BUILD) from None
        try:
            return cls.model_validate_json(data, strict=True)
        except ValidationError as error:
            content = None
            with contextlib.suppress(ValueError, RecursionError):
                content = json.loads(data)
            raise first_violation(error, content).damage(path, remedy) from None

    def write(self, path: str | Path) -> None:
        """Write the document as indented JSON, atomically."""
        write_json(path, self.model_dump(mode="json"))
