"""What the JSON must hold that passes between the steps: the files of a study, and the `--settings` of the verbs.

A shape names the keys that some reader relies on, and their kinds; files may hold more. What does not fit is one line
that names the place, so that no reader has to expect anything but what its shape promises.
"""

import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from lmpipe.errors import REBUILD, InputError
from lmpipe.io.files import read_json
from lmpipe.io.validation import InvalidValueError, first_violation, short_repr
from lmpipe.study.fields import Name, Settings

# Names of runs contain the values of their sweep: `max_lr=0.003`.
RUN_NAME = re.compile(r"[A-Za-z0-9._=+-]{1,255}")


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


def model_of_settings(model: type[Settings], block: str, values: dict[str, Any]) -> Any:
    """A block of --settings as its model; raises InputError with the first thing that is wrong."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        error = first_violation(error, values).below(block)
        raise InputError("--settings", f"{error.key} {error.problem}", error.remedy) from None


def keys(**kinds: Any) -> Any:
    """The shape of an object that has these keys, and maybe others."""
    return TypedDict("keys", kinds)


def written_from(model: type[Settings]) -> Any:
    """The shape of what a settings model writes: every key is there, and nothing has to be converted."""

    def check(value: dict[str, Any]) -> dict[str, Any]:
        try:
            written = model.model_validate(value).model_dump(mode="json")
        except ValidationError as error:
            raise first_violation(error, value).below("") from None
        for key in written:
            if key not in value or value[key] != written[key]:
                raise InvalidValueError(f"is {short_repr(value.get(key))}, not {written[key]!r}", "correct it", key=key)
        return value

    return Annotated[dict[str, Any], AfterValidator(check)]


def run_and_seed(pair: list[Any]) -> list[Any]:
    """The name of a run and its seed, as the plan names them."""
    kinds = [type(part) for part in pair]
    if kinds != [str, int] or not RUN_NAME.fullmatch(pair[0]) or pair[1] < 0:
        raise InvalidValueError(f"is {short_repr(pair)}", "use the name and the seed of a run, such as ['baseline', 0]")
    return pair


Whole = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
# A corpus's own tokenizer bears its name; one of another size says so behind it.
TokenizerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(-vocab_size=[0-9]+)?$")]
FilePath = Annotated[str, Field(pattern=r"^[^\x00]+$")]
# JSON has no NaN and no infinity: a loss that was not finite is null.
Loss = float | None


# --- what is under way

PROCESS = keys(host=str, pid_namespace=str | None, pid=Count, create_time=float)
BEGUN = keys(study=dict[str, Any], command=str, cores=Count | None, begun=str, process=PROCESS)

# --- the verbs' --settings

ADDRESS = keys(url=str)
MODEL_TO_ACCOUNT = keys(name=Name, model=dict[str, Any], device_memory_gb=Positive)
BATCHES_TO_MEASURE = keys(model=dict[str, Any], training=dict[str, Any])
COMPARED = keys(
    corpora=Annotated[list[Name], Field(min_length=1)],
    tokenizers=Annotated[dict[TokenizerName, Name], Field(min_length=1)],
)
RUNS = keys(
    experiment=Name,
    runs=Annotated[list[Annotated[list[Any], AfterValidator(run_and_seed)]], Field(min_length=1)],
)
# A study is checked by lmpipe.study.schema, key by key.
STUDY = dict[str, Any]
SETTINGS = {
    "download": ADDRESS,
    "make-corpus": STUDY,
    "compare-tokenizers": COMPARED,
    "account-model": MODEL_TO_ACCOUNT,
    "measure-batch-sizes": BATCHES_TO_MEASURE,
    "measure-model": BATCHES_TO_MEASURE,
    "train": STUDY,
    "select-best": RUNS,
    "plot-experiment": RUNS,
    "generate": STUDY,
    "find": STUDY,
    "report": STUDY,
    "collect-provenance": STUDY,
}
