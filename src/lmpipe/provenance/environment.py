"""Environment of a result: package versions, hardware, memory, commit."""

import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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
    dirty: bool | None
    """True if the checkout has uncommitted changes; null if it is not in a git checkout."""


@cache
def package_version(package: str) -> str:
    """Return the installed version of a package, or "absent"; imports nothing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def peak_memory_bytes() -> int:
    """Return the peak memory of this process in bytes.

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


def hardware() -> Hardware:
    """Return a description of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    return Hardware(
        processor=processor_name(),
        cores=os.cpu_count(),
        memory_bytes=memory,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
    )


def processor_name() -> str:
    """Return the model name of the processor, or its architecture if the system does not report it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@cache
def commit() -> tuple[str | None, bool | None]:
    """Return the commit of the code, and whether its tree has changes; None for a package that git does not track."""
    try:
        # An environment inside another project's checkout has a package that is not one of that project's files.
        git("ls-files", "--error-unmatch", "__init__.py")
        head = git("rev-parse", "HEAD")
        return head, bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def git(*arguments: str) -> str:
    """Return the output of git in the checkout of this package."""
    # Many jobs call git at once; none may lock the index against the others or the user.
    command = ["git", "--no-optional-locks", *arguments]
    result = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, check=True, timeout=10)
    return result.stdout.strip()


def environment(*packages: str) -> Environment:
    """Return the environment of this process, with the versions of `packages`."""
    names = packages or ("torch", "numpy", "regex")
    versions = {"python": platform.python_version()} | {name: package_version(name) for name in ("lmpipe", *names)}
    head, dirty = commit()
    return Environment(versions=versions, hardware=hardware(), commit=head, dirty=dirty)
