"""A call of the workflow that is part of this package, and the studies and profiles that it ships."""

import os
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from lmpipe.errors import InputError
from lmpipe.planning.plan import nearest_names
from lmpipe.study.loader import read_study_file

# In a clone, config/, profiles/ and workflow/ of the package are links to the folders beside src/.
PACKAGE = Path(__file__).parents[1]
FIRST_STUDY = Path(__file__).with_name("first_study.yaml")
STUDY_FILE = "study.yaml"
DEFAULT_PROFILE = "default"
# config.yaml is the laptop study.
STUDIES = {path.stem.replace("config", "laptop"): path for path in sorted((PACKAGE / "config").glob("*.yaml"))}
PROFILES = {path.parent.name: path.parent for path in sorted((PACKAGE / "profiles").glob("*/profile.yaml"))}


def copy_shipped(name: str | None) -> Path:
    """Copy a shipped study or profile to the current folder, by default the first study; return the copy.

    Raises InputError if there is none of this name, or if the copy exists already.
    """
    if name is None:
        source, target = FIRST_STUDY, Path(STUDY_FILE)
    elif name in STUDIES:
        source, target = STUDIES[name], Path(f"{name}.yaml")
    elif name in PROFILES:
        source, target = PROFILES[name], Path("profiles", name)
    else:
        remedy = nearest_names(name, [*STUDIES, *PROFILES])
        raise InputError(f"lmpipe ships no study or profile named {name}", remedy=remedy)
    if target.exists():
        raise InputError(target, "exists already", "remove it, or work in another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
    return target


def find_profile(name: str) -> Path:
    """Return the folder of a profile: a path, a name in ./profiles, or a shipped one.

    Raises InputError if there is none, or if its executor is not installed.
    """
    candidates = [Path(name), Path("profiles", name), PROFILES.get(Path(name).name, Path(name))]
    folder = next((path for path in candidates if (path / "profile.yaml").is_file()), None)
    if folder is None:
        raise InputError("--profile", f"there is no profile {name}", nearest_names(name, PROFILES))
    check_executor(read_profile(folder).get("executor", "local"))
    return folder


def check_executor(name: str) -> None:
    """Raise InputError for an executor that is not installed, with the package to install."""
    if name != "local" and find_spec(f"snakemake_executor_plugin_{name.replace('-', '_')}") is None:
        remedy = f"pip install snakemake-executor-plugin-{name}"
        raise InputError(f"the executor {name} of the profile is not installed", remedy=remedy)


def read_profile(folder: Path) -> dict[str, Any]:
    """Return the options of a profile; raise InputError if it is not valid YAML."""
    try:
        return yaml.safe_load((folder / "profile.yaml").read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(folder / "profile.yaml", f"is not valid YAML ({' '.join(str(error).split())})") from None


def run_workflow(
    study_file: str,
    targets: Sequence[str],
    options: Sequence[str] = (),
    *,
    cores: int | None = None,
    profile: str = DEFAULT_PROFILE,
    is_dry_run: bool = False,
) -> None:
    """Carry out a study in the current folder, or list its jobs.

    `options` are further ones of Snakemake. Without `cores`, jobs on this machine use all of them. Raises InputError if
    the study file or the profile cannot be read, and SystemExit if a job fails.
    """
    read_study_file(study_file)
    check_cache()
    folder = find_profile(profile)
    if cores is None and not {"executor", "cores", "jobs"} & read_profile(folder).keys():
        cores = os.cpu_count() or 1
    arguments = ["--snakefile", str(PACKAGE / "workflow/Snakefile"), "--workflow-profile", str(folder)]
    arguments += ["--cores", str(cores)] if cores else []
    arguments += ["--dry-run"] if is_dry_run else []
    # The study file is last: Snakemake takes every word after --configfile as one more.
    call_snakemake(targets, [*arguments, *options, "--configfile", study_file])


def check_cache() -> None:
    """Raise InputError if Snakemake cannot write its cache, on which it ends with a traceback (9.27)."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser(), "snakemake")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_writable = os.access(folder, os.W_OK)
    except OSError:
        is_writable = False
    if not is_writable:
        raise InputError(folder, "cannot be written, and Snakemake needs it", "set XDG_CACHE_HOME to another folder")


def call_snakemake(targets: Sequence[str], arguments: Sequence[str]) -> None:
    """Call Snakemake in this process with the messages of `workflow_log`; raise SystemExit if it fails."""
    from snakemake.cli import main
    from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

    from lmpipe.planning import workflow_log
    from lmpipe.planning.dry_run import print_jobs

    LoggerPluginRegistry().register_plugin("snakemake_logger_plugin_lmpipe", workflow_log)
    try:
        main([*targets, "--logger", "lmpipe", *arguments])
    except SystemExit as end:
        if end.code:
            raise
    handler = workflow_log.LogHandler.current
    if handler is not None and handler.is_dry_run and handler.labels:
        print_jobs(handler.workflow)
