"""Mutated study files: each is planned, or refused with one clear line, and what is planned stays where it belongs."""

import copy
import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml
from snakemake.common.configfile import load_configfile
from snakemake.io import PeriodicityDetector
from snakemake.utils import update_config

from benchmarks.faults import Fault, LostError
from benchmarks.mutations import harm_text, harm_value
from benchmarks.pieces import NAMES, TEXTS
from benchmarks.study_pieces import ADDRESSES, LOCAL_TEXTS, PIECES
from lmpipe.cli import main
from lmpipe.errors import InputError
from lmpipe.planning.plan import Plan, load_plan
from lmpipe.planning.stages import records
from lmpipe.study.loader import read_study_file

ROOT = Path(__file__).parent.parent
STUDY_FILE = "study.yaml"
LONGEST_MESSAGE = 2000
COMPONENT = re.compile(r"[A-Za-z0-9._=+-]+")
# Systems allow 255 bytes; what is being written has a longer name for a while.
LONGEST_COMPONENT = 255 - len(".tmp-12345678")
LONGEST_PATH = 1000
# Snakemake takes names that it calls periodic for an endless loop of rules.
PERIODICITY = PeriodicityDetector()
TEXT = "one\n<|endoftext|>\ntwo\n<|endoftext|>\n"


def study_text(random: Random, folder: Path) -> str:
    """Harm the text of a study that is shipped."""
    make_texts(folder)
    text = random.choice(list(shipped_texts().values()))
    (folder / STUDY_FILE).write_bytes(harm_text(random, text))
    return judge(random)


def study_values(random: Random, folder: Path) -> str:
    """Harm the values of a study that is shipped, and write them as JSON or YAML."""
    make_texts(folder)
    study = copy.deepcopy(random.choice(list(shipped_values().values())))
    for _ in range(random.choice([0, 1, 1, 3])):
        grow(random, study)
    if random.random() < 0.5:
        study = harm_value(random, study, PIECES)
    try:
        text = json.dumps(study) if random.random() < 0.5 else yaml.dump(study, allow_unicode=random.random() < 0.5)
    except (TypeError, ValueError):  # what neither format can hold is no file
        return "unwritable"
    (folder / STUDY_FILE).write_text(text, encoding="utf-8", errors="surrogatepass")
    return judge(random)


def grow(random: Random, study: dict[str, Any]) -> None:
    """Add a block to a study, or put it in the place of one, under a nasty name."""
    runs = [experiment["runs"] for experiment in study["experiments"].values() if "runs" in experiment]
    block = random.choice([study["corpora"], study["experiments"], study["accounting"]["models"], *runs])
    piece = copy.deepcopy(random.choice([random.choice(PIECES), random.choice(list(block.values()))]))
    block[random.choice([*NAMES, *block])] = piece


@cache
def shipped_texts() -> dict[str, str]:
    """The texts of the shipped studies, by the names of their files."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "config").glob("*.yaml"))}


@cache
def shipped_values() -> dict[str, Any]:
    """The values of the shipped studies, by the names of their files."""
    return {name: yaml.safe_load(text) for name, text in shipped_texts().items()}


def make_texts(folder: Path) -> None:
    """Put the files that studies name into a folder, and a pipe that nobody writes to."""
    for name in ("sub/x", "a/b.txt", *LOCAL_TEXTS):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TEXT)
    os.mkfifo(folder / "pipe")


def load_study(path: str) -> Plan:
    """A study as the workflow loads it: our check, Snakemake's reader, the plan."""
    read_study_file(path)
    config: dict[str, Any] = {}
    update_config(config, load_configfile(path))
    return load_plan(config, path)


def judge(random: Random) -> str:
    """Load the study of this folder; raises LostError for an unclear message or a plan that breaks a promise."""
    try:
        plan = load_study(STUDY_FILE)
    except InputError as error:
        check_message(str(error), STUDY_FILE)
        return "refused"
    check_paths(plan)
    return "planned"


def check_message(message: str, place: str) -> None:
    """Raise LostError unless a message is one plain line that begins with the place and holds a remedy."""
    if not message.isprintable() or len(message) > LONGEST_MESSAGE:
        raise LostError(f"expected one printable line of at most {LONGEST_MESSAGE} characters, found {message!r:.500}")
    if not message.startswith(place) or "; " not in message:
        raise LostError(f"expected {place} and a remedy in the message, found {message!r}")


def paths_of(plan: Plan) -> list[str]:
    """Every file that a plan makes, below the folder where snakemake runs: its records tell of each job."""
    study = plan.study.study
    return [*(f"results/{study}/{path}" for path in records(plan)), *plan.downloads()]


def check_paths(plan: Plan) -> None:
    """Raise LostError unless all paths are plain, short, inside the study's folders, and no two the same."""
    paths = paths_of(plan)
    for path in paths:
        top, *components = path.split("/")
        plain = all(COMPONENT.fullmatch(part) and part.strip(".") and part[0] != "-" for part in components)
        plain &= not any(map(PERIODICITY.is_periodic, components))
        short = max(map(len, components)) <= LONGEST_COMPONENT and len(path) <= LONGEST_PATH
        if top not in ("results", "resources") or os.path.normpath(path) != path or not plain or not short:
            raise LostError(f"expected a plain path inside the study's folders, found {path!r}")
    files = Counter(path.casefold() for path in paths)
    folders = {str(parent).casefold() for path in paths for parent in Path(path).parents}
    if len(files) != len(paths) or folders & files.keys():
        raise LostError(f"expected paths of their own, found {files.most_common(1)} or {folders & files.keys()}")


# --- the commands that snakemake makes of a study


def commands(random: Random, folder: Path) -> str:
    """Let snakemake itself plan a study of nasty but valid texts, and look at what a shell makes of its commands."""
    make_texts(folder)
    (folder / STUDY_FILE).write_text(json.dumps(nasty_study(random)), encoding="utf-8")
    load_study(STUDY_FILE)
    found = Counter()
    for command in printed_commands():
        arguments = seen_by_a_shell(command, folder)
        given = main.make_parser().parse_args(arguments)
        found[given.command] += 1
    for verb in ("make-corpus", "train", "analyze", "report"):
        if not found[verb]:
            raise LostError(f"expected a command {verb}, found none")
    return "planned"


def nasty_study(random: Random) -> dict[str, Any]:
    """The smoke study with a corpus, prompts and runs whose names and texts try a shell, as far as they are allowed."""
    study = copy.deepcopy(shipped_values()["smoke"])
    files = [f"file:{name}" for name in random.sample([name for name in LOCAL_TEXTS if is_allowed(f"file:{name}")], 4)]
    addresses = [each for each in ADDRESSES if isinstance(each, str) and each.startswith("http") and is_allowed(each)]
    name = random.choice(["a-1", "0", "a.1b", "-".join("abc"), "vocab_size-1", "abcdefghi_" * 9])
    study["corpora"][name] = {
        "source": "url",
        "files": files[:3],
        "valid": [files[3], random.choice(addresses)],
        "tokenizer": {"vocab_size": 300},
        "shards": 12,
    }
    study["experiments"][f"{name}_"] = {"corpus": name, "sweep": {"vocab_size": [400], "max_lr": [1e-05, 1e16]}}
    study["samples"]["prompts"] = random.sample([text for text in TEXTS if "\ud800" not in text], 5)
    study["seeds"] = [random.randrange(2**32)]
    return study


def is_allowed(address: str) -> bool:
    """Whether a study may name an address."""
    try:
        load_plan(url_study(address), STUDY_FILE)
    except InputError:
        return False
    return True


def url_study(address: str) -> dict[str, Any]:
    """A small study on one text."""
    smoke = shipped_values()["smoke"]
    corpus = {"source": "url", "files": [address], "valid_fraction": 0.1, "tokenizer": {"vocab_size": 300}}
    kept = {key: smoke[key] for key in ("study", "seeds", "model", "training")}
    return kept | {"corpora": {"mine": corpus}, "experiments": {"one": {"corpus": "mine"}}}


def printed_commands() -> list[str]:
    """The shell commands of all jobs of the study in this folder, as a dry run prints them."""
    call = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--cores", "1", "--dry-run"]
    call += ["--printshellcmds", "--configfile", STUDY_FILE]
    result = subprocess.run(list(map(str, call)), capture_output=True, text=True, errors="surrogateescape")
    if result.returncode:
        raise LostError(f"expected snakemake to plan it, found {(result.stdout + result.stderr)[-500:]}")
    jobs = re.split(r"^\[\w{3} \w{3} +\d+ [\d:]+ \d{4}\]\n", result.stdout + result.stderr, flags=re.MULTILINE)[1:]
    found = [job.partition("\nShell command: ")[2].rpartition(".log")[0] for job in jobs]
    return [f"{command}.log" for command in found if command]


def seen_by_a_shell(command: str, folder: Path) -> list[str]:
    """The arguments that a shell hands to lmpipe; raises LostError where it hands none or runs something else."""
    stub = folder / "bin" / "lmpipe"
    if not stub.exists():
        stub.parent.mkdir()
        stub.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
        stub.chmod(0o755)
    log = shlex.split(command)[-1]
    (folder / log).parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PATH": f"{stub.parent}:{os.environ['PATH']}"}
    result = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)
    told = (folder / log).read_text()
    if result.returncode or result.stderr or told:
        raise LostError(f"expected a command, found {command!r:.300}: {result.stderr or told}")
    return result.stdout.split("\0")[:-1]


FAULTS = (
    Fault("study text", 1200, study_text),
    Fault("study values", 1200, study_values),
    Fault("study commands", 20, commands),
)
