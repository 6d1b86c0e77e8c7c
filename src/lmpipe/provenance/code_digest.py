"""Digest of the code that computes a result: comments, layout and docstrings do not count."""

import ast
import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from lmpipe.provenance.environment import PACKAGE, package_version

# Packages and modules that parse, write and report, but never change a number: editing them must rerun nothing. Package
# `__init__`s do not count either.
NON_NUMERIC = {
    "cli",
    "data.download",
    "errors",
    "io",
    "planning",
    "provenance",
    "study.corpora",
    "study.experiments",
    "study.fields",
    "study.loader",
    "study.paths",
    "study.schema",
    "study.text_files",
    "training.interruption",
    "training.progress",
}
TRACKED_PACKAGES = {"torch", "numpy", "regex", "numba", "pydantic", "matplotlib", "jinja2"}


def code_digest(*names: str) -> dict[str, str]:
    """Digest the modules that do a piece of work, everything they import inside lmpipe, and the packages that compute.

    A name is a module (`"training.run"`), a package for all of its modules (`"analysis.problems"`), or, with a slash, a
    data file or folder (`"report/templates"`). Comments, layout, docstrings and the `__init__` of a package do not
    count, so editing them reruns nothing.

    >>> sorted(code_digest("study.settings"))
    ['pydantic', 'study.settings']
    """
    modules: set[str] = set()
    digests = {}
    packages: set[str] = set()
    for name in names:
        if "/" in name:
            digests[name] = data_digest(PACKAGE / name)
        else:
            for module in modules_named(name):
                import_closure(module, modules)
    for module in sorted(modules):
        source = read_source(module_path(module))
        digests[module] = source.digest
        packages |= source.packages & TRACKED_PACKAGES
    return digests | {package: package_version(package) for package in sorted(packages)}


def module_path(module: str) -> Path:
    """Return the source file of a module of lmpipe, given its dotted name below the package."""
    return PACKAGE.joinpath(*module.split(".")).with_suffix(".py")


def modules_named(name: str) -> list[str]:
    """Modules of a dotted name: itself, or those of a package; raises ValueError for an unknown name."""
    if module_path(name).exists():
        return [name]
    folder = PACKAGE.joinpath(*name.split("."))
    modules = [f"{name}.{file.stem}" for file in sorted(folder.glob("*.py")) if file.stem != "__init__"]
    if not modules:
        raise ValueError(f"lmpipe has no module {name!r}")
    return modules


class ModuleSource(NamedTuple):
    """Digest of a source file without comments and docstrings, and everything that it imports.

    `modules` are those of lmpipe, `packages` all top-level names.
    """

    digest: str
    modules: set[str]
    packages: set[str]


@cache
def read_source(path: Path) -> ModuleSource:
    """Parse a source file, which is done once: it is the greater part of a digest's time."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "KERNEL_MODULE":
            names.add(ast.literal_eval(node.value))  # loaded by name
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            # Those below the fields of a class are docstrings, too.
            node.body = [statement for statement in node.body if not is_docstring(statement)] or [ast.Pass()]
    inside = {name.removeprefix("lmpipe.") for name in names if name.startswith("lmpipe.")}
    modules = {name for name in inside if module_path(name).exists()}  # packages themselves do not count
    packages = {name.partition(".")[0] for name in names}
    return ModuleSource(hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16], modules, packages)


def is_docstring(statement: ast.stmt) -> bool:
    """Return True if a statement is a string alone, which computes nothing."""
    is_constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_constant and isinstance(statement.value.value, str)


def import_closure(module: str, seen: set[str]) -> None:
    """Add a module and all that it imports inside lmpipe to `seen`, but those in NON_NUMERIC."""
    if module in seen or any(f"{module}.".startswith(f"{name}.") for name in NON_NUMERIC):
        return
    seen.add(module)
    for imported in read_source(module_path(module)).modules:
        import_closure(imported, seen)


@cache
def data_digest(path: Path) -> str:
    """Return the digest of a data file, or of every file below a folder with its name."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(f"{file.relative_to(path.parent).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
