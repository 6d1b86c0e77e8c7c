"""Loader of study files: plain YAML of bounded size, checked before anything else reads the file."""

import re
from pathlib import Path
from typing import Any

import yaml

from lmpipe.errors import InputError
from lmpipe.io.validation import InvalidValueError, format_key, short_repr
from lmpipe.study.schema import Study

MAX_FILE_BYTES = 250_000
MAX_EXPANDED_BYTES = 1_000_000  # with every alias written out: a few lines can mean more than any memory holds
MAX_DEPTH = 30
TOO_DEEP = f"is nested deeper than {MAX_DEPTH} levels", "flatten it"
MERGE_TAG = "tag:yaml.org,2002:merge"
NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
AMBIGUOUS_NUMBER = re.compile("[-+]?0[0-9_]+|.*:.*")  # octal, or in base 60, by YAML 1.1 and no longer by YAML 1.2


def read_study_file(path: str | Path) -> dict[str, Any]:
    """Return the values of a study file, whose top-level keys are those of a study.

    Raises InputError if the file is missing, too large, not plain YAML, or repeats a key.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "is not a file" if path.exists() else "is missing", "check the path of the study file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise InputError(path, f"is larger than {MAX_FILE_BYTES // 1000} kB", "split the study into several")
    try:
        return Study.check_keys(parse_yaml(path.read_bytes().decode()))
    except InvalidValueError as error:
        raise error.at(path) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(path, f"line {line} is not UTF-8", "save the file as UTF-8") from None


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text; raise InvalidValueError if it is not plain YAML of a reasonable size."""
    try:
        loader = StudyLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        check_node(root, {})
        return loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = format_key(" ".join(filter(None, (error.problem, error.context))))
        problem = f"line {mark.line + 1}, column {mark.column + 1} is not valid YAML: {reason}"
        raise InvalidValueError(problem, "correct the line") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InvalidValueError(f"line {line} contains {chr(error.character)!r}", "remove that character") from None


class StudyLoader(yaml.SafeLoader):
    """YAML's safe loader, with every unreadable value reported with its line, and deep nesting refused when met."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        """Return the next node; raise InvalidValueError if it is nested too deeply."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise InvalidValueError(*TOO_DEEP)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return the value of a node; raise InvalidValueError for a number that looks like another one."""
        try:
            value = super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception:  # PyYAML raises half a dozen types for dates and numbers that it cannot read
            reason = f"{short_repr(node.value)} is not a valid {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, reason, node.start_mark) from None
        if node.tag in NUMBER_TAGS and AMBIGUOUS_NUMBER.fullmatch(node.value):
            problem = f"line {node.start_mark.line + 1}: YAML reads {node.value} as {value}"
            raise InvalidValueError(problem, f"write {value}, or put {node.value} in quotes if it is a text")
        return value


def check_node(node: yaml.Node, checked: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Return the depth and the size of a node with its aliases written out.

    Raises InvalidValueError if either is too large, or if a block repeats a key. `checked` has the results so far, by
    the id of the node.
    """
    if id(node) in checked:
        return checked[id(node)]
    checked[id(node)] = MAX_DEPTH, 0  # of a node inside itself
    if isinstance(node, yaml.ScalarNode):
        sizes, size = [], 1 + len(node.value)
    else:
        is_mapping = isinstance(node, yaml.MappingNode)
        sizes = [check_node(child, checked) for item in node.value for child in (item if is_mapping else [item])]
        size = 1 + sum(child_size for _, child_size in sizes)
        keys = set()
        for key, _ in node.value if is_mapping else []:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE_TAG:
                if key.value in keys:
                    problem = f"line {key.start_mark.line + 1} repeats the key {format_key(key.value)}"
                    raise InvalidValueError(problem, "keep one of the two")
                keys.add(key.value)
    checked[id(node)] = 1 + max((depth for depth, _ in sizes), default=0), size
    if checked[id(node)][0] > MAX_DEPTH:
        raise InvalidValueError(*TOO_DEEP)
    if size > MAX_EXPANDED_BYTES:
        raise InvalidValueError(f"expands to more than {MAX_EXPANDED_BYTES // 10**6} MB", "use fewer aliases")
    return checked[id(node)]
