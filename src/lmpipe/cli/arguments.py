"""Subcommands: the function of each, with its arguments, the examples of its help, and its parser."""

import argparse
import math
import re
import sys
from collections.abc import Callable
from textwrap import fill
from typing import Any, NamedTuple, NoReturn

from lmpipe.io.progress import log

MAX_INT_DIGITS = 40  # longer than any count
MISSING_VALUE = re.compile("argument (?:-[a-z]/)?(--[a-z-]+): expected one argument")  # argparse's message
Args = argparse.Namespace
Run = Callable[[Args], Any]
Argument = Callable[[argparse.ArgumentParser], Any]  # adds the argument to a parser


def fail(message: str) -> NoReturn:
    """Log a message as one line and end the process with exit code 1."""
    log("\\n".join(message.splitlines()))
    sys.exit(1)


class Parser(argparse.ArgumentParser):
    """A parser that reports wrong arguments in one line, with exit code 1."""

    def error(self, message: str) -> NoReturn:
        """Report the error, and the command that shows the help."""
        if option := MISSING_VALUE.search(message):
            message += f" (one that starts with - is written {option[1]}=-x)"
        fail(f"{self.prog}: {message}; see {self.prog} --help")


class Command(NamedTuple):
    """A subcommand named like its function, whose docstring describes it."""

    run: Run
    arguments: tuple[Argument, ...]
    examples: tuple[str, ...]

    def add_parser(self, commands: Any) -> None:
        """Add its parser to the subparsers of the main one, whose type argparse does not publish."""
        docstring = self.run.__doc__ or ""
        parser = commands.add_parser(
            self.run.__name__.replace("_", "-"),
            help=docstring.partition("\n")[0].rstrip("."),
            description=fill(" ".join(docstring.split()), 100),
            epilog="\n  ".join([f"example{'s' if len(self.examples) > 1 else ''}:", *self.examples]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for add_to in self.arguments:
            add_to(parser)
        parser.set_defaults(run=self.run, parser=parser)


def argument(*names: str, **options: Any) -> Argument:
    """Return an argument of a subcommand; the parameters are those of `add_argument`."""
    return lambda parser: parser.add_argument(*names, **options)


def command(*arguments: Argument, examples: str) -> Callable[[Run], Command]:
    """Make a subcommand of a function; `examples` has a line each."""
    return lambda run: Command(run, arguments, tuple(examples.splitlines()))


def positive_int(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not text.isdecimal() or len(text) > MAX_INT_DIGITS or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text[:MAX_INT_DIGITS]!r} is not a whole number of at least 1")
    return int(text)


def non_negative_seconds(text: str) -> float:
    """Parse a time in seconds."""
    try:
        if 0 <= (value := float(text)) < math.inf:
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text[:MAX_INT_DIGITS]!r} is not a time in seconds")


RESULTS = argument("results", help="results folder of the study, such as results/laptop")
EXPERIMENT = argument("experiment", help="name of the experiment")
# Of commands that compute with torch.
DEVICE = (
    argument(
        "--threads", type=positive_int, default=1, help="CPU threads (default 1; results differ in their last digits)"
    ),
    argument("--device", help="cpu, cuda, cuda:1 or mps (default: the best available one)"),
)
# Of commands that process one shard of a text.
SHARD = (
    argument("--shard", type=int, default=0, help="index of the shard, from 0 (default 0)"),
    argument("--shards", type=positive_int, default=1, help="number of shards (default 1: the whole text)"),
)
