"""Parsers: one for each subcommand, with its help, an example and typed arguments."""

import argparse
import math
import sys
from collections.abc import Callable
from textwrap import fill
from typing import Any, NoReturn

from lmpipe.io.files import MAX_INT_DIGITS
from lmpipe.io.progress import log

Args = argparse.Namespace
Commands = Any  # the subparsers of the main parser, whose type argparse does not publish


def fail(message: str) -> NoReturn:
    """Log a message as one line and end the process with exit code 1."""
    log("\\n".join(message.splitlines()))
    sys.exit(1)


class Parser(argparse.ArgumentParser):
    """A parser that reports wrong arguments in one line, with exit code 1."""

    def error(self, message: str) -> NoReturn:
        """Report the error, and the command that shows the help."""
        fail(f"{self.prog}: {message}; see {self.prog} --help")


def add_command(
    commands: Commands, name: str, run: Callable[[Args], Any], description: str, *examples: str
) -> argparse.ArgumentParser:
    """Add the parser of a subcommand; the first sentence of `description` is its line in `lmpipe --help`."""
    epilog = "\n".join([f"example{'s' if len(examples) > 1 else ''}:", *(f"  {example}" for example in examples)])
    parser = commands.add_parser(
        name,
        help=description.split(". ")[0].rstrip("."),
        description=fill(description, 100),
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, parser=parser)
    return parser


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add the results folder of a study, which study commands read its settings from."""
    parser.add_argument("results", help="results folder of the study, such as results/laptop")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the threads and the device of commands that compute with torch."""
    parser.add_argument("--threads", type=positive_int, default=1, help="CPU threads (default 1; changes last digits)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 or mps (default: the best available one)")


def add_shard(parser: argparse.ArgumentParser) -> None:
    """Add the shard of a text that a command processes."""
    parser.add_argument("--shard", type=int, default=0, help="index of the shard, from 0 (default 0)")
    parser.add_argument("--shards", type=positive_int, default=1, help="number of shards (default 1: the whole text)")


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
