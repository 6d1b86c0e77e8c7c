"""Mutated study files: each is planned or refused in one line, and all planned paths are in the study's folder."""

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

from benchmarks.endurance.faults import Fault, LossError
from benchmarks.endurance.mutations import NAUGHTY, mutate_value, mutate_yaml
from benchmarks.endurance.processes import ROOT, snakemake
from lmpipe.cli.main import make_parser
from lmpipe.errors import InputError
from lmpipe.planning.plan import Plan, load_plan
from lmpipe.planning.stages import records
from lmpipe.study.loader import read_study_file

STUDY_FILE = "study.yaml"
MAX_MESSAGE, MAX_PATH, MAX_NAME = 2000, 1000, 255 - len(".tmp-12345678")
COMPONENT = re.compile(r"[A-Za-z0-9._=+-]+")
PERIODICITY = PeriodicityDetector()  # Snakemake takes names that it calls periodic for an endless loop of rules
TEXT = "one\n<|endoftext|>\ntwo\n<|endoftext|>\n"
FILES, ADDRESSES = NAUGHTY["local_texts"], NAUGHTY["addresses"]
TOKENIZER = {"tokenizer": {"vocab_size": 300}}
# Blocks that are valid, or nearly so, and lead further than random values.
BLOCKS: list[Any] = [
    *ADDRESSES,
    *({"source": "files", "files": [f"{name}"], "valid_fraction": 0.1, **TOKENIZER} for name in FILES),
    *({"source": "files", "files": [address], "valid": "a.txt", **TOKENIZER} for address in ADDRESSES),
    *({"source": "docstrings", "packages": [name], **TOKENIZER} for name in ("sys", "json", "os.path", "this.x")),
    *({"source": "stories", "documents": 100, "tokenizer": {"vocab_size": size}} for size in (257, 2**31, 2**31 + 1)),
    {"source": "stories", "documents": 2**53, "shards": 2**53, **TOKENIZER},
    {"corpus": "stories", "sweep": {key: list(range(1, 40)) for key in ("d_ff", "batch_size", "eval_tokens", "eps")}},
    {"corpus": "stories", "sweep": {"max_lr": list(range(1, 3000))}},
    {"corpus": "stories", "seeds": list(range(4000))},
    {"corpus": "stories", "sweep": {"vocab_size": [300, 301], "betas": [[0.1, 0.2], [0.3, 0.4]], "norm": ["pre"]}},
    {"corpus": "stories", "sweep": {key: [0.123456789012345] for key in ("max_lr", "eps", "rope_theta")}},
    {"corpus": "stories", "max_lr": {"best_of": "learning_rate", "factor": 5e-324}, "runs": {"a": {}, "A": {}}},
    {"corpus": "stories", "runs": {"a": {"sweep": {"max_lr": [0.1]}}, "a_max_lr": {}}},
]


@cache
def shipped_studies() -> dict[str, str]:
    """Texts of the shipped studies by name."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "config").glob("*.yaml"))}


def study_text(random: Random, folder: Path) -> str:
    """Mutate the text of a shipped study."""
    make_files(folder)
    (folder / STUDY_FILE).write_bytes(mutate_yaml(random, random.choice(list(shipped_studies().values()))))
    return load_and_check()


def study_values(random: Random, folder: Path) -> str:
    """Mutate the values of a shipped study and write them as JSON or YAML."""
    make_files(folder)
    study = yaml.safe_load(random.choice(list(shipped_studies().values())))
    models = study.setdefault("accounting", {}).setdefault("models", {"small": study["model"] | {"vocab_size": 300}})
    for _ in range(random.choice([0, 1, 1, 3])):
        runs = [experiment["runs"] for experiment in study["experiments"].values() if "runs" in experiment]
        block = random.choice([study["corpora"], study["experiments"], models, *runs])
        new = copy.deepcopy(random.choice([random.choice(BLOCKS), random.choice(list(block.values()))]))
        block[random.choice([*NAUGHTY["names"], *block])] = new
    if random.random() < 0.5:
        study = mutate_value(random, study, BLOCKS)
    try:
        text = json.dumps(study) if random.random() < 0.5 else yaml.dump(study, allow_unicode=random.random() < 0.5)
    except (TypeError, ValueError):
        return "not writable"  # neither format can hold it
    (folder / STUDY_FILE).write_text(text, encoding="utf-8", errors="surrogatepass")
    return load_and_check()


def make_files(folder: Path) -> None:
    """Make the files that studies name, and a pipe without a writer."""
    for name in ("sub/x", "a/b.txt", *FILES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(TEXT)
    os.mkfifo(folder / "pipe")


def load_study(path: str) -> Plan:
    """Load a study as the workflow does: our check, Snakemake's reader, the plan."""
    read_study_file(path)
    config: dict[str, Any] = {}
    update_config(config, load_configfile(path))
    return load_plan(config, path)


def load_and_check() -> str:
    """Load the study of this folder; raise LossError for an unclear message or a path outside the study's folders."""
    try:
        plan = load_study(STUDY_FILE)
    except InputError as error:
        check_message(str(error))
        return "refused"
    study = plan.study.study
    check_paths([*(f"results/{study}/{path}" for path in records(plan)), *plan.downloads()])
    return "planned"


def check_message(message: str) -> None:
    """Raise LossError unless a message is one printable line that names the study file and a remedy."""
    if not message.isprintable() or len(message) > MAX_MESSAGE:
        raise LossError(f"not one printable line of at most {MAX_MESSAGE} characters: {message!r:.500}")
    if not message.startswith(STUDY_FILE) or "; " not in message:
        raise LossError(f"the message lacks {STUDY_FILE} or a remedy: {message!r}")


def check_paths(paths: list[str]) -> None:
    """Raise LossError unless paths are plain, short, inside results/ and resources/, and no two the same."""
    for path in paths:
        top, *components = path.split("/")
        is_plain = all(COMPONENT.fullmatch(name) and name.strip(".") and name[0] != "-" for name in components)
        is_plain &= not any(map(PERIODICITY.is_periodic, components)) and os.path.normpath(path) == path
        is_short = max(map(len, components)) <= MAX_NAME and len(path) <= MAX_PATH
        if top not in ("results", "resources") or not is_plain or not is_short:
            raise LossError(f"not a plain path inside the study's folders: {path!r}")
    files = Counter(path.casefold() for path in paths)
    folders = {str(parent).casefold() for path in paths for parent in Path(path).parents}
    if len(files) != len(paths) or folders & files.keys():
        raise LossError(f"two results share a path: {files.most_common(1)} or {folders & files.keys()}")


def study_commands(random: Random, folder: Path) -> str:
    """Let snakemake plan a study with naughty but valid names; check its commands as a shell parses them."""
    make_files(folder)
    (folder / STUDY_FILE).write_text(json.dumps(naughty_study(random)), encoding="utf-8")
    plan, parser = load_study(STUDY_FILE), make_parser()
    commands = [parser.parse_args(shell_arguments(line, folder)) for line in printed_commands()]
    trained = {args.run_id for args in commands if args.command == "train"}
    if missing := {run.id for run in plan.runs} - trained:
        raise LossError(f"no command trains {sorted(missing)[:3]}")
    return "planned"


def naughty_study(random: Random) -> dict[str, Any]:
    """Return the smoke study with a corpus, prompts and runs whose allowed names and texts try a shell."""
    study = yaml.safe_load(shipped_studies()["smoke"])
    files = random.sample([f"{name}" for name in FILES if is_allowed(f"{name}")], 4)
    texts = [address for address in ADDRESSES if isinstance(address, str)]
    addresses = [address for address in texts if address.startswith("http") and is_allowed(address)]
    name = random.choice(["a-1", "0", "a.1b", "-".join("abc"), "vocab_size-1", "abcdefghi_" * 9])
    valid = [files[3], random.choice(addresses)]
    study["corpora"][name] = {"source": "files", "files": files[:3], "valid": valid, "shards": 12, **TOKENIZER}
    study["experiments"][f"{name}_"] = {"corpus": name, "sweep": {"vocab_size": [400], "max_lr": [1e-05, 1e16]}}
    study["samples"]["prompts"] = random.sample([text for text in NAUGHTY["texts"] if "\ud800" not in text], 5)
    study["seeds"] = [random.randrange(2**32)]
    return study


def is_allowed(address: str) -> bool:
    """Return whether a study may name an address."""
    study = yaml.safe_load(shipped_studies()["smoke"])
    study["corpora"]["mine"] = {"source": "files", "files": [address], "valid_fraction": 0.1, **TOKENIZER}
    try:
        load_plan(study, STUDY_FILE)
    except InputError:
        return False
    return True


def printed_commands() -> list[str]:
    """Shell commands of all jobs of the study in this folder, as a dry run prints them."""
    call = [sys.executable, "-m", *snakemake(STUDY_FILE, "--cores", "1", "--dry-run", "--printshellcmds")]
    result = subprocess.run(call, capture_output=True, text=True, errors="surrogateescape")
    if result.returncode:
        raise LossError(f"snakemake cannot plan it: {(result.stdout + result.stderr)[-500:]}")
    jobs = re.split(r"^\[\w{3} \w{3} +\d+ [\d:]+ \d{4}\]\n", result.stdout + result.stderr, flags=re.MULTILINE)[1:]
    commands = [job.partition("\nShell command: ")[2].rpartition(".log")[0] for job in jobs]
    return [f"{command}.log" for command in commands if command]


def shell_arguments(command: str, folder: Path) -> list[str]:
    """Arguments that a shell passes to lmpipe; raise LossError if it passes none or runs something else."""
    log = folder / shlex.split(command)[-1]
    log.parent.mkdir(parents=True, exist_ok=True)
    script = f"lmpipe() {{ printf '%s\\0' \"$@\"; }}\n{command}"
    result = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True)
    if result.returncode or result.stderr or log.read_text():
        raise LossError(f"not one command of lmpipe: {command!r:.300}: {result.stderr or log.read_text()}")
    return result.stdout.split("\0")[:-1]


FAULTS = (
    Fault("study text", 1200, study_text),
    Fault("study values", 1200, study_values),
    Fault("study commands", 20, study_commands),
)
