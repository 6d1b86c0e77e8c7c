"""Entry point of the command line: parsing, exit codes, errors in one line, records of provenance."""

import errno
import io
import os
import signal
import sys
from collections.abc import Sequence
from functools import cache

from lmpipe import __version__
from lmpipe.cli import report_commands, study_commands, tokenizer_commands, training_commands
from lmpipe.cli.arguments import Args, Command, Parser, fail
from lmpipe.errors import InputError
from lmpipe.io.files import DISK_FULL_ERRNOS, STANDARD_OUTPUT
from lmpipe.io.progress import log

COMMAND_MODULES = (study_commands, tokenizer_commands, training_commands, report_commands)
# How long threads that wait spin: iterations for GNU's OpenMP, milliseconds for LLVM's and Intel's. By their defaults,
# milliseconds, two threads train up to 20 times slower when other programs keep the cores busy. With one core busy they
# now keep more than half of their idle speed, of which the short wait takes a fifth
# (python -m benchmarks.training --only lmpipe-eager --threads 2 --busy-cores 1).
SPINNING = {"GOMP_SPINCOUNT": "1500", "KMP_BLOCKTIME": "1"}
# Problem and remedy of the system's errors.
SYSTEM_ERRORS = {
    errno.ENOENT: "does not exist; check the path",
    errno.EISDIR: "is a directory; name a file",
    errno.ENOTDIR: "is below a file; name another path",
    errno.EEXIST: "is a file; name a folder",
    errno.EACCES: "may not be accessed; change its permissions with chmod, or name another path",
    errno.EPERM: "may not be accessed; change its permissions with chmod, or name another path",
    errno.EROFS: "is on a read-only disk; name another path",
    errno.ENAMETOOLONG: "has a name of more than 255 bytes; shorten it",
    errno.ENOSPC: "does not fit on the disk, which is full; free some space and repeat the command",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one subcommand. Bad input ends the process with one line on standard error and exit code 1."""
    prepare_streams()
    limit_spinning()
    name = "lmpipe"
    try:
        try:
            args = parse(sys.argv[1:] if arguments is None else arguments)
            name = f"lmpipe {args.command}"
            run_command(args)
        finally:
            sys.stdout.flush()  # the interpreter's own flush would fail with exit code 120
    except InputError as error:
        fail(f"{name}: {error}")
    except KeyboardInterrupt:
        log("interrupted")
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        discard_standard_output()
        sys.exit(1)
    except OSError as error:
        # An error about a file names it.
        where = error.filename or (STANDARD_OUTPUT if error.errno in DISK_FULL_ERRNOS else "")
        if where == STANDARD_OUTPUT:
            discard_standard_output()
        problem = SYSTEM_ERRORS.get(error.errno, error.strerror or str(error))
        fail(": ".join(filter(None, [name, str(where), problem])))


def parse(arguments: Sequence[str]) -> Args:
    """Parse a command line; of `lmpipe run`, words may follow options, and those after `--` are Snakemake's options."""
    if arguments[:1] != ["run"]:
        return make_parser().parse_args(arguments)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    args, more = make_parser().parse_known_args(arguments[:end])
    if unknown := [word for word in more if word.startswith("-")]:
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}; options of Snakemake follow after --")
    args.words += more
    args.options = arguments[end + 1 :]
    return args


@cache
def make_parser() -> Parser:
    """Return the parser with all subcommands."""
    parser = Parser(
        prog="lmpipe",
        description="From raw text to a finished study of small language models. `lmpipe run` carries out a study, as "
        "`snakemake --cores N` does in a clone. For use by hand: init, run, estimate, status, report, compare, log, "
        "evaluate, generate, tokenize, export, adopt, prune and verify. The other commands are steps of a study.",
    )
    parser.add_argument("--version", action="version", version=f"lmpipe {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in COMMAND_MODULES:
        for member in vars(module).values():
            if isinstance(member, Command):
                member.add_parser(commands)
    return parser


def run_command(args: Args) -> None:
    """Run a subcommand; one that makes results leaves a record of provenance beside them."""
    from lmpipe.planning.stages import BY_COMMAND

    stage = BY_COMMAND.get(args.command)
    if stage is None or not stage.code:
        args.run(args)
        return
    from lmpipe.provenance.job_records import run_with_record

    values = {name: value for name, value in vars(args).items() if name not in ("command", "run", "parser")}
    changed = {name: value for name, value in values.items() if value != args.parser.get_default(name)}
    run_with_record(args.command, changed, stage.code, lambda: args.run(args))


def prepare_streams() -> None:
    """Connect standard streams that the caller closed (`>&-`) to /dev/null; let standard output take any character.

    A file that is opened later would otherwise get the number of a closed stream, and receive what is written to it.
    Characters outside the encoding of standard output, and bytes of a path that are not UTF-8, become question marks.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # and not a caller's io.StringIO, which takes any character
        sys.stdout.reconfigure(errors="replace")


def limit_spinning() -> None:
    """Let threads of OpenMP sleep soon when they wait for each other, unless the environment says how they wait."""
    if "OMP_WAIT_POLICY" not in os.environ:
        for name, value in SPINNING.items():
            os.environ.setdefault(name, value)


def discard_standard_output() -> None:
    """Let the output that is still buffered go nowhere, without an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
