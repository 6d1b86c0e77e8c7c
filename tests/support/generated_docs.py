"""Documentation that is generated from the models: `python -m tests.support.generated_docs` writes it.

The key reference of config/README.md and config/study.schema.json come from the study's schema, the tables of
results/README.md from the documents and the columns of the table of runs. A test fails if one of them is not current.
"""

import ast
import importlib
import inspect
import json
import re
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from lmpipe.analysis.run_table import table_columns
from lmpipe.io.documents import Document
from lmpipe.study.corpora import (
    CorpusSettings,
    DatasetCorpus,
    DocstringsCorpus,
    FilesCorpus,
    StoriesCorpus,
    TextFile,
    TokenizerSettings,
)
from lmpipe.study.experiments import BestOf, Expect, ExperimentSettings
from lmpipe.study.schema import AccountingSettings, SamplesSettings, Study
from lmpipe.study.settings import ModelSettings, TrainingSettings

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "config" / "study.schema.json"
# Keys of an experiment that are not the model's or the training's.
EXTRA_OVERRIDES = {
    "corpus": "Corpus to train on.",
    "vocab_size": "Token ids of the tokenizer; the corpus's own vocab_size if not set.",
    "max_lr": "Peak learning rate, or the best of another experiment.",
}
# Block of a study file, heading, and the blocks whose keys its table does not repeat.
BLOCKS = (
    (Study, "The study", ()),
    (CorpusSettings, "`corpora`: a corpus of any source", ()),
    (StoriesCorpus, "`source: stories`", (CorpusSettings,)),
    (DocstringsCorpus, "`source: docstrings`", (CorpusSettings,)),
    (FilesCorpus, "`source: files`", (CorpusSettings,)),
    (DatasetCorpus, "`source: dataset`", (CorpusSettings,)),
    (TextFile, "A text of `files` or `valid`: an address alone, or a block", ()),
    (TokenizerSettings, "`tokenizer`", ()),
    (ModelSettings, "`model`", ()),
    (TrainingSettings, "`training`", ()),
    (ExperimentSettings, "`experiments`: any keys of `model` and `training`, and", (ModelSettings, TrainingSettings)),
    (BestOf, "`max_lr` as a block", ()),
    (Expect, "`expect`, of an experiment or of one of its runs", ()),
    (AccountingSettings, "`accounting`", ()),
    (SamplesSettings, "`samples`", ()),
)


@cache
def attribute_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstring below each key of a model, those of its bases included, as one line."""
    texts = dict(EXTRA_OVERRIDES) if issubclass(model, ExperimentSettings) else {}
    for cls in [ModelSettings, TrainingSettings, *reversed(model.__mro__)]:
        if not issubclass(cls, BaseModel) or not cls.__module__.startswith("lmpipe") or cls.__name__ == "Overrides":
            continue
        texts |= own_docstrings(cls)
    return texts | (EXTRA_OVERRIDES if issubclass(model, ExperimentSettings) else {})


@cache
def own_docstrings(cls: type[BaseModel]) -> dict[str, str]:
    """Return the docstring below each key that a model adds to its bases."""
    (definition,) = ast.parse(inspect.getsource(cls).strip()).body
    return {
        statement.target.id: " ".join(ast.literal_eval(below.value).split())
        for statement, below in pairwise(definition.body)
        if isinstance(statement, ast.AnnAssign) and isinstance(below, ast.Expr)
    }


def study_schema() -> dict[str, Any]:
    """Return the JSON Schema of study files, with a description of each key."""
    schema = Study.model_json_schema()
    models = {model.__name__: model for model in all_subclasses(BaseModel)}
    for name, definition in [("Study", schema), *schema["$defs"].items()]:
        for key, field in definition.get("properties", {}).items():
            field.pop("title", None)
            if description := attribute_docstrings(models[name]).get(key):
                field["description"] = description
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def all_subclasses(base: type) -> list[type]:
    """Return the imported subclasses of a class of lmpipe, direct or not.

    A module that was imported again leaves classes of the same name, until the garbage collector finds them.
    """
    classes = [sub for cls in base.__subclasses__() for sub in [cls, *all_subclasses(cls)]]
    own = [cls for cls in dict.fromkeys(classes) if cls.__module__.startswith("lmpipe")]
    return [cls for cls in own if getattr(sys.modules.get(cls.__module__), cls.__name__, None) is cls]


# --- tables


def table(columns: str, rows: list[list[str]]) -> str:
    """Return a table in Markdown; `columns` are the headings, separated by |."""
    lines = [columns.split("|"), ["---"] * len(columns.split("|")), *rows]
    return "\n".join("| " + " | ".join(cell.strip() for cell in line) + " |" for line in lines)


def key_reference() -> str:
    """Return the key reference of config/README.md: a table for each block of a study file."""
    sections = []
    for model, heading, omitted in BLOCKS:
        properties = model.model_json_schema()["properties"]
        rows = [
            [f"`{key}`", type_words(properties[key]), default_words(model, key), attribute_docstrings(model)[key]]
            for key in sorted(model.model_fields, key=lambda key: not model.model_fields[key].is_required())
            if not any(key in block.model_fields for block in omitted) or key in EXTRA_OVERRIDES
        ]
        sections.append(f"### {heading}\n\n{table('key | type | default | meaning', rows)}")
    return "\n\n".join(sections)


def type_words(schema: dict[str, Any]) -> str:
    """Return the type of a key in words, from its JSON Schema."""
    match schema:
        case {"anyOf": members} | {"oneOf": members}:
            words = [type_words(member) for member in members if member.get("type") != "null"]
            return " or ".join(dict.fromkeys(words))
        case {"enum": words}:
            return " \\| ".join(f"`{word}`" for word in words)
        case {"const": word}:
            return f"`{word}`"
        case {"type": "array", "prefixItems": items}:
            return f"list of {len(items)} {type_words(items[0])}s"
        case {"type": "array", "items": items}:
            return f"list of {type_words(items)}s".replace("texts", "text")
        case {"type": "object"}:
            return "blocks by name"
        case {"type": "integer"}:
            return "integer"
        case {"type": "number"}:
            return "number"
        case {"type": "string"}:
            return "text"
        case {"type": "boolean"}:
            return "true \\| false"
        case {"$ref": _} | {"allOf": _}:
            return "block"
    return "value"


def default_words(model: type[BaseModel], key: str) -> str:
    """Return the default of a key as a study file writes it."""
    field = model.model_fields[key]
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined or isinstance(value, BaseModel) or value == {}:
        return "–"
    return f"`{json.dumps(value)}`".replace('"', "")


def documents() -> list[type[Document]]:
    """Return the document of each JSON file, in the order of their paths: all that name a file in their docstring."""
    for path in sorted((ROOT / "src" / "lmpipe").rglob("*.py")):
        if "lmpipe.io.documents import" in path.read_text(encoding="utf-8"):
            importlib.import_module(".".join(path.relative_to(ROOT / "src").with_suffix("").parts))
    return sorted(filter(filename, all_subclasses(Document)), key=filename)


def filename(document: type[Document]) -> str:
    """Return the file of a document, by the first line of its docstring; empty for a part of another document."""
    match = re.search(r"[\w./]+\.json", (document.__doc__ or "").splitlines()[0])
    return match[0] if match else ""


def document_tables() -> str:
    """Return the tables of results/README.md: the keys of each JSON file."""
    sections = []
    for document in documents():
        summary = " ".join((document.__doc__ or "").partition("\n\n")[0].split())
        rows = table("key | type | meaning", list(document_rows(document, "")))
        sections.append(f"### {filename(document)}\n\n{summary}\n\n{rows}")
    return "\n\n".join(sections)


def document_rows(model: type[BaseModel], prefix: str):
    """Yield the rows of a document's keys; parts are listed by their path, `[]` is an item and `.NAME` any key."""
    schema = model.model_json_schema(mode="serialization")
    properties = schema.get("properties") or schema["$defs"][model.__name__]["properties"]  # of a recursive model
    for key, field in model.model_fields.items():
        yield [f"`{prefix}{key}`", type_words(properties[key]), attribute_docstrings(model).get(key, "")]
        for document, suffix in documents_in(field.annotation):
            if not (issubclass(document, Document) and filename(document)) and document not in (
                ModelSettings,
                TrainingSettings,
            ):
                yield from document_rows(document, f"{prefix}{key}{suffix}.")


def documents_in(annotation: Any, suffix: str = ""):
    """Yield the documents inside the type of a key, with the path that leads to them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if issubclass(annotation, Document):
            yield annotation, suffix
        return
    origin = getattr(annotation, "__origin__", None)
    inner = {dict: ".NAME", list: "[]", tuple: "[]"}.get(origin, "")
    documents = [document for argument in get_args(annotation) for document in documents_in(argument, suffix + inner)]
    yield from dict.fromkeys(documents)


def column_table() -> str:
    """Return the table of results/README.md with the columns of runs.csv and runs.parquet."""
    rows = [
        [f"`{name}`", column.dtype, attribute_docstrings(column.document)[column.key]]
        for name, column in table_columns().items()
    ]
    rows.append(["`path`", "str", "Folder of the run, below the results folder."])
    return table("column | type | meaning", rows)


def between(text: str, name: str, content: str) -> str:
    """Return a text with new content between the markers of a generated part."""
    start, end = f"<!-- {name}: generated by python -m tests.support.generated_docs -->", f"<!-- end of {name} -->"
    before, _, rest = text.partition(start)
    _, marker, after = rest.partition(end)
    assert marker, f"no markers for {name}"
    return f"{before}{start}\n\n{content}\n\n{end}{after}"


def generated() -> dict[Path, str]:
    """Return the generated content of each file."""
    config, results = ROOT / "config" / "README.md", ROOT / "results" / "README.md"
    return {
        SCHEMA: json.dumps(study_schema(), indent=2) + "\n",
        config: between(config.read_text(encoding="utf-8"), "keys", key_reference()),
        results: between(
            between(results.read_text(encoding="utf-8"), "columns", column_table()), "documents", document_tables()
        ),
    }


if __name__ == "__main__":
    for target, text in generated().items():
        target.write_text(text, encoding="utf-8")
