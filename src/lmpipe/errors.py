"""InputError: every error of a user's input; packages that only some commands need."""

from importlib import import_module
from os import PathLike
from types import ModuleType

# Remedies for a result of the workflow that is missing or damaged.
BUILD = "check the path, or make it by snakemake or lmpipe run"
REBUILD = "delete it and run snakemake again"


class InputError(Exception):
    """Bad input, shown to the user as one sentence without a traceback: `WHERE: PROBLEM; REMEDY`.

    `where` names the file, option or key; `problem` says what is wrong there, as the end of a natural sentence;
    `remedy` says what to do, as an imperative.

    >>> str(InputError("study.yaml", "model.num_heads is 7, which does not divide d_model = 64", "use 1, 2, 4 or 8"))
    'study.yaml: model.num_heads is 7, which does not divide d_model = 64; use 1, 2, 4 or 8'
    """

    def __init__(self, where: str | PathLike[str], problem: str = "", remedy: str = ""):
        super().__init__(where, problem, remedy)
        self.where, self.problem, self.remedy = str(where), problem, remedy

    def __str__(self) -> str:
        text = ": ".join(filter(None, [self.where, self.problem]))
        return "; ".join(filter(None, [text, self.remedy]))


def import_extra(package: str, use: str) -> ModuleType:
    """Import a package of an optional extra, which `use` needs; raise InputError if it is not installed."""
    try:
        return import_module(package)
    except ModuleNotFoundError:
        raise InputError(
            use, f"needs the package {package}, which is not installed", f"pip install {package}"
        ) from None
