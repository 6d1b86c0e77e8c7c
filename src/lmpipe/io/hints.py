"""What to do about a result that is missing or damaged: the command that makes it, for the study that it belongs to."""

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

# What a call of the workflow leaves in its study's folder; `lmpipe.planning.session` writes it.
STUDY_FILE = "session.json"
# Options of snakemake that say which study is carried out, each with the values after it.
STUDY_OPTIONS = ("--configfile", "--configfiles", "--config", "-C")


def make_first(path: str | Path) -> str:
    """The remedy for a result that is not there."""
    return f"make it first ({command(path)})"


def make_again(path: str | Path) -> str:
    """The remedy for a damaged result."""
    return f"delete the file and make it again ({command(path)})"


def command(path: str | Path) -> str:
    """The command that makes a result, given where it lies: with the options of the last call that began its study.

    Where no call left word of itself, the study file has to be named by who reads this.
    """
    absolute = Path(os.path.abspath(path))
    folder = next((folder for folder in absolute.parents if (folder / STUDY_FILE).is_file()), None)
    options = None if folder is None else options_in(folder / STUDY_FILE)
    if folder is None or options is None:
        return shlex.join(["snakemake", "--cores", "1", str(path), "--configfile", "STUDY.yaml"])
    # A folder of links to a study's files (lmpipe.report.partial) stands for the study's own.
    study = (folder / STUDY_FILE).resolve().parent
    # Results lie in results/STUDY below the folder where snakemake runs, and are its targets by their paths from there.
    root = study.parent.parent
    target = os.path.relpath(study / absolute.relative_to(folder), root)
    made = shlex.join(["snakemake", "--cores", "1", target, *options])
    return made if root == Path.cwd() else f"cd {shlex.quote(str(root))} && {made}"


def options_in(study_file: Path) -> list[str] | None:
    """The options that say which study the call was for; None where the file does not tell."""
    try:
        told = json.loads(study_file.read_text(encoding="utf-8"))["command"]
        return study_options(shlex.split(told)[1:]) if isinstance(told, str) else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def study_options(arguments: Sequence[str]) -> list[str]:
    """Of a call's arguments those that say which study it is for.

    >>> study_options(["--cores", "2", "--configfile", "a.yaml", "--config", "seeds=[0]", "study=x", "-n"])
    ['--configfile', 'a.yaml', '--config', 'seeds=[0]', 'study=x']
    >>> study_options(["--configfile=a.yaml", "all"])
    ['--configfile=a.yaml']
    """
    chosen, inside = [], False
    for word in arguments:
        if word.startswith("-"):
            name, joined, _ = word.partition("=")
            is_chosen = name in STUDY_OPTIONS
            inside = is_chosen and not joined
            chosen += [word] if is_chosen else []
        elif inside:
            chosen.append(word)
    return chosen
