"""Docstrings of installed packages: a corpus of technical prose that needs no download.

Packages are read, not imported.
"""

import ast
import hashlib
import inspect
import os
import re
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from lmpipe.errors import InputError
from lmpipe.io.progress import track
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT

SURROGATE = re.compile("[\ud800-\udfff]")
TEST_FOLDERS = {"test", "tests", "testing"}  # their docstrings describe tests, not the package


def docstrings(packages: Sequence[str], processes: int) -> list[str]:
    """Return the different docstrings of the packages' modules, classes and functions.

    They are sorted by their checksums, which mixes the packages, so the validation split resembles the training split.
    Raises InputError for a package that is not installed or has no Python source.
    """
    sources = [source for package in packages for source in package_sources(package)]
    texts: set[str] = set()
    with ProcessPoolExecutor(processes) as pool:
        documents = pool.map(docstrings_of, sources, chunksize=16)
        texts.update(*track(documents, "reading docstrings", len(sources), "files"))
    return sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest())


def package_sources(package: str) -> list[Path]:
    """List the Python files of an installed package, without its tests."""
    remedy = "take it off the list"
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):  # a module in a package that is missing, or the program itself
        spec = None
    if spec is None:
        raise InputError("packages", f"{package!r} is not installed", f"install it with pip, or {remedy}")
    if not spec.submodule_search_locations:
        if not os.path.isfile(spec.origin or "") or Path(spec.origin).suffix != ".py":
            raise InputError("packages", f"{package!r} has no Python source", remedy)
        return [Path(spec.origin)]
    folders = [Path(location) for location in spec.submodule_search_locations]
    files = [(folder, file) for folder in folders for file in sorted(folder.rglob("*.py"))]
    return [file for folder, file in files if not TEST_FOLDERS.intersection(file.relative_to(folder).parts)]


def docstrings_of(path: Path) -> list[str]:
    """Return the docstrings of one source file; none if this version of Python cannot parse it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            return []
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = (ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, documented))
    cleaned = (inspect.cleandoc(text) for text in texts if text)
    # A document contains no delimiter, and no surrogate, which UTF-8 cannot encode.
    return [text for text in cleaned if text and END_OF_TEXT not in text and not SURROGATE.search(text)]
