"""Environment of a result: package versions, hardware, memory, commit."""

import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lmpipe.io.documents import Document

PACKAGE = Path(__file__).parent.parent


class Hardware(Document):
    """The machine that computed a result."""

    processor: str
    """Model name of the processor."""
    cores: int | None
    """Logical cores."""
    memory_bytes: int | None
    """Main memory."""
    system: str
    """Operating system and architecture."""


class Environment(Document):
    """Versions, hardware and commit that a reader needs to repeat a result."""

    versions: dict[str, str]
    """Version of Python, lmpipe and each package that computes."""
    hardware: Hardware
    """The machine."""
    commit: str | None
    """Commit of the code; null if it is not in a git checkout."""
    changed: bool | None
    """Whether the checkout has uncommitted changes; null if it is not in a git checkout."""


@cache
def package_version(package: str) -> str:
    """The installed version of a package, or "absent"; reads metadata, imports nothing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def peak_memory_bytes() -> int:
    """The most memory that this process has held at once, in bytes.

    Linux's VmHWM, because ru_maxrss of a child starts from its parent's peak.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def hardware() -> dict[str, Any]:
    """The machine, in words and numbers: processor, cores, memory in bytes, operating system."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def processor_name() -> str:
    """The processor's own name, where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def commit() -> dict[str, Any]:
    """The commit of the code and whether its tree was changed; both null for a package that no checkout tracks."""
    try:
        # A package in an environment that lies inside another project's checkout is none of that project's files.
        git("ls-files", "--error-unmatch", "__init__.py")
        head = git("rev-parse", "HEAD")
        return {"commit": head, "changed": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "changed": None}


def git(*arguments: str) -> str:
    """Ask git about the checkout that holds this package."""
    # Many jobs ask at once, and none of them should hold the index against the others, or the user.
    command = ["git", "--no-optional-locks", *arguments]
    result = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, check=True, timeout=10)
    return result.stdout.strip()


def environment(*packages: str) -> dict[str, Any]:
    """Everything about this process that a reader needs to repeat its numbers."""
    names = packages or ("torch", "numpy", "regex")
    versions = {"python": platform.python_version()} | {name: package_version(name) for name in ("lmpipe", *names)}
    return {"versions": versions, "hardware": hardware(), **commit()}
