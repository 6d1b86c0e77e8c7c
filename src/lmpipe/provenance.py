"""What made a result: a digest of the code that computes, package versions, hardware, and the commit."""

import ast
import hashlib
import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = Path(__file__).parent
# Modules that parse, write and report, but never change a number: editing them must rerun nothing.
BESIDE_THE_NUMBERS = {
    "cli",
    "complaints",
    "costs",
    "device_locks",
    "downloads",
    "estimate",
    "files",
    "partial",
    "problem_shapes",
    "progress",
    "provenance",
    "records",
    "remedies",
    "run_progress",
    "shapes",
    "verify",
}
TRACKED_PACKAGES = {"torch", "numpy", "regex", "numba", "pydantic", "matplotlib", "jinja2"}
# What does the work of each verb that makes results: modules, and data files or folders of the package.
COMPUTED_BY = {
    "make-corpus": ("corpora",),
    "count-pretokens": ("counting",),
    "train-bpe": ("bpe",),
    "encode-corpus": ("encoding",),
    "join-tokens": ("encoding",),
    "compare-tokenizers": ("compression",),
    "explore-unicode": ("unicode",),
    "account-model": ("accounting",),
    "measure-model": ("measurement",),
    "tune-sgd-toy": ("optim",),
    "measure-batch-sizes": ("batch_sizes",),
    "train": ("train",),
    "select-best": ("results",),
    "generate": ("generate",),
    "plot-experiment": ("experiment_plots",),
    "find": ("problems", "problems/writeup.json"),
    "report": ("report", "templates"),
}


def code_of(verb: str) -> dict[str, str]:
    """The digest of the code behind a verb: the rules hand it to Snakemake, and the records of provenance name it."""
    return code_digest(*COMPUTED_BY[verb])


def code_digest(*names: str) -> dict[str, str]:
    """Digest the modules that do a piece of work, everything they import inside lmpipe, and the packages that compute.

    A name is a module (`"train"`, `"problems.learning_rate"`) or a data file or folder of the package
    (`"templates/report.html.j2"`). Comments, layout and docstrings do not count, so editing them reruns nothing.

    >>> sorted(code_digest("settings"))
    ['pydantic', 'settings']
    """
    modules: set[str] = set()
    digests = {}
    packages: set[str] = set()
    for name in names:
        path = PACKAGE / name
        if path.suffix or (path.is_dir() and not (path / "__init__.py").exists()):
            digests[name] = data_digest(path)
        else:
            import_closure(name, modules)
    for module in sorted(modules):
        source = read_source(module_path(module))
        digests[module] = source.digest
        packages |= source.packages & TRACKED_PACKAGES
    return digests | {package: package_version(package) for package in sorted(packages)}


def module_path(module: str) -> Path:
    """The source file of a module of lmpipe; `problems` is a folder, `problems.generate` a file in it."""
    path = PACKAGE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


class Source(NamedTuple):
    """What counts of a source file: the digest of its meaning, and what it imports anywhere in it.

    `modules` are those of lmpipe, `packages` the top-level names outside it.
    """

    digest: str
    modules: set[str]
    packages: set[str]


@cache
def read_source(path: Path) -> Source:
    """Parse a source file, which is done once: it is the greater part of a digest's time."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules: set[str] = set()
    packages: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules |= imported_modules(node)
            packages |= imported_packages(node)
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            remove_docstring(node)
    return Source(hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16], modules, packages)


def remove_docstring(node: ast.AST) -> None:
    """Take the docstring out of a module, class or function, leaving a body that can still be written out."""
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        node.body = node.body[1:] or [ast.Pass()]


def import_closure(module: str, seen: set[str]) -> None:
    """Add a module and all that it imports inside lmpipe to `seen`."""
    if module in seen or module in BESIDE_THE_NUMBERS:
        return
    path = module_path(module)
    if not path.exists():
        raise ValueError(f"lmpipe has no module {module!r}")
    seen.add(module)
    source, inside = read_source(path), set()
    if path.name == "__init__.py" and "importlib" in source.packages:
        # A package that loads its modules by name, which the source does not show: all of them count.
        inside = {f"{module}.{file.stem}" for file in path.parent.glob("*.py")} - {f"{module}.__init__"}
    for imported in source.modules | inside:
        import_closure(imported, seen)


def imported_packages(node: ast.Import | ast.ImportFrom) -> set[str]:
    """Top-level names of what a statement imports from elsewhere than its own package."""
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    return {node.module.split(".")[0]} if node.module and not node.level else set()


def imported_modules(node: ast.Import | ast.ImportFrom) -> set[str]:
    """Names of the modules of lmpipe that a statement imports."""
    if isinstance(node, ast.Import):
        return {alias.name.removeprefix("lmpipe.") for alias in node.names if alias.name.startswith("lmpipe.")}
    if (node.module or "").split(".")[0] != "lmpipe":
        return set()
    parent = node.module.removeprefix("lmpipe").lstrip(".")
    children = {f"{parent}.{alias.name}".lstrip(".") for alias in node.names}
    return {child for child in children if module_path(child).exists()} | ({parent} if parent else set())


@cache
def data_digest(path: Path) -> str:
    """The digest of a data file, or of every file below a folder with its name."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(f"{file.relative_to(path.parent).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


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
