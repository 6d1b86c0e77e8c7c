"""Reading study files strictly, before Snakemake does.

Snakemake's own reader keeps the last of two equal keys, runs code that a file may hold (`__use_yte__`), acts on a key
of its own (`pathvars`), and meets some damage with a traceback.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lmpipe.errors import InputError
from lmpipe.io.validation import format_key, short_repr
from lmpipe.study.schema import Study

LARGEST_FILE_BYTES = 250_000
# With aliases written out: a few lines of them can stand for more than any memory holds.
MOST_CHARACTERS = 1_000_000
DEEPEST = 30
MERGE_TAG = "tag:yaml.org,2002:merge"


def read_study_file(path: str | Path) -> dict[str, Any]:
    """The values of a study file: plain YAML whose top holds keys of a study, and nothing else.

    Raises InputError with one line that names the file, the place, what was found and the remedy.
    """
    try:
        return Study.check_keys(read_yaml(study_text(Path(path))))
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def study_text(path: Path) -> str:
    """The text of a study file; raises ValueError where there is none, or it is too large or not UTF-8."""
    if not path.is_file():
        raise ValueError("expected a study file, found none; check the path")
    size = path.stat().st_size
    if size > LARGEST_FILE_BYTES:
        raise ValueError(f"expected at most {LARGEST_FILE_BYTES:,} bytes, found {size:,}; make several studies of it")
    data = path.read_bytes()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line}: expected UTF-8, found {error.reason}; save the file as UTF-8") from None


def read_yaml(text: str) -> Any:
    """The value of a YAML text; raises ValueError, in one line, where it is not plain YAML."""
    try:
        check_extent(yaml.parse(text, yaml.SafeLoader))
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        check_node(loader, root)
        return loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        told = " ".join(filter(None, (error.problem, error.context)))
        raise wrong(error.problem_mark or error.context_mark, f"expected YAML: {format_key(told)}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(f"line {line}: expected text, found {chr(error.character)!r}; remove it") from None


def wrong(mark: yaml.Mark, message: str) -> ValueError:
    """What is wrong at a place of the text."""
    return ValueError(f"line {mark.line + 1}, column {mark.column + 1}: {message}; correct the line")


@dataclass
class Extent:
    """A value of the text, as large as it is with aliases written out: its characters, and the levels inside it."""

    anchor: str | None
    characters: int = 1
    levels: int = 0

    def add(self, part: "Extent") -> None:
        """Count a value inside this one."""
        self.characters += part.characters
        self.levels = max(self.levels, part.levels + 1)


def check_extent(events: Iterable[yaml.Event]) -> None:
    """Raise ValueError where a text is nested too deeply, or too large with aliases written out."""
    around = [Extent(None)]
    anchored: dict[str | None, Extent] = {}
    for event in events:
        match event:
            case yaml.CollectionStartEvent():
                around.append(Extent(event.anchor))
            case yaml.CollectionEndEvent():
                ended = around.pop()
                anchored[ended.anchor] = ended
                around[-1].add(ended)
            case yaml.ScalarEvent():
                anchored[event.anchor] = Extent(event.anchor, 1 + len(event.value))
                around[-1].add(anchored[event.anchor])
            case yaml.AliasEvent():
                if event.anchor not in anchored:
                    raise wrong(event.start_mark, f"expected a whole value named &{format_key(event.anchor)} before it")
                around[-1].add(anchored[event.anchor])
        if len(around) + around[-1].levels > DEEPEST:
            raise wrong(event.start_mark, f"expected at most {DEEPEST} levels, found more")
        if around[-1].characters > MOST_CHARACTERS:
            raise wrong(event.start_mark, f"expected at most {MOST_CHARACTERS:,} characters with aliases, found more")


def check_node(loader: yaml.SafeLoader, node: yaml.Node) -> None:
    """Raise ValueError where a value cannot be read, or a key comes twice."""
    if node.tag == MERGE_TAG:
        return
    if isinstance(node, yaml.ScalarNode):
        try:
            loader.construct_object(node)
        except yaml.YAMLError:
            raise
        except Exception:  # PyYAML lets half a dozen kinds out for dates and numbers that are none
            kind = node.tag.rpartition(":")[2]
            raise wrong(node.start_mark, f"expected a value of kind {kind}, found {short_repr(node.value)}") from None
    elif isinstance(node, yaml.SequenceNode):
        for part in node.value:
            check_node(loader, part)
    else:
        check_keys(node)
        for pair in node.value:
            for part in pair:
                check_node(loader, part)


def check_keys(node: yaml.MappingNode) -> None:
    """Raise ValueError where a key comes twice in one block: the first would be lost without a word."""
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != MERGE_TAG:
            if key.value in lines:
                first = f"the first one is in line {lines[key.value]}"
                raise wrong(key.start_mark, f"expected each key once, found {format_key(key.value)} again ({first})")
            lines[key.value] = key.start_mark.line + 1
