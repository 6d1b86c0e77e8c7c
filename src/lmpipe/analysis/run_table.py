"""Table of a study's runs: one row a run with every setting and final metric, as runs.csv and runs.parquet have it.

In a study under way, runs without results have rows with their settings and their state.
"""

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel

from lmpipe.analysis.run_states import RunState, StudyFiles
from lmpipe.analysis.runs import Run
from lmpipe.io.files import atomic_write
from lmpipe.planning.session import StudySession
from lmpipe.study.paths import StudyPaths
from lmpipe.study.settings import ModelConfig, ModelSettings, TrainingSettings
from lmpipe.training.run_documents import RunConfig, RunSummary, TokenizerReference

if TYPE_CHECKING:
    import pandas as pd

DTYPES = {"integer": "Int64", "number": "float64", "boolean": "boolean"}  # by type of JSON; all others are str
OUTCOME = ("status", "reason")
BLOCKS = ("init_digests", "code", "environment")  # of summary.json, which do not fit into a cell


class Column(NamedTuple):
    """A column of the table: the document and the key that it is read from, and the type of its cells in pandas."""

    document: type[BaseModel]
    key: str
    dtype: str


def table_columns() -> dict[str, Column]:
    """Return the columns by name, in their order; `path`, the last column of the table, is from no document.

    Settings have their keys in a study file, but betas are two columns. A figure with the key of a setting, such as
    the micro_batch_size that `auto` chose, is `used_KEY`.
    """
    columns: dict[str, Column] = {}

    def add(document: type[BaseModel], *keys: str) -> None:
        properties = document.model_json_schema()["properties"]
        for key in keys:
            # A type that may be null is a list of types.
            types = {member.get("type") for member in properties[key].get("anyOf", [properties[key]])} - {"null"}
            dtype = DTYPES.get(types.pop(), "str") if len(types) == 1 else "str"
            if key == "betas":
                columns.update(dict.fromkeys(("beta1", "beta2"), Column(document, key, "float64")))
            else:
                columns[f"used_{key}" if key in columns else key] = Column(document, key, dtype)

    add(RunConfig, "experiment", "run", "seed")
    add(RunSummary, *OUTCOME)
    add(RunConfig, "corpus")
    columns["tokenizer"] = Column(TokenizerReference, "name", "str")
    add(ModelConfig, "vocab_size", *ModelSettings.model_fields)
    add(TrainingSettings, *TrainingSettings.model_fields)
    add(RunSummary, *(key for key in RunSummary.model_fields if key not in OUTCOME + BLOCKS))
    return columns


def run_row(run: Run) -> dict[str, Any]:
    """Return the row of a run that has results."""
    config = run.config
    names = {"experiment": config.experiment, "run": config.run, "seed": config.seed, "corpus": config.corpus}
    names |= {"tokenizer": config.tokenizer.name, "path": "/".join(run.folder.parts[-4:])}
    settings = config.model.model_dump() | training_cells(config.training.model_dump())
    figures = run.summary.model_dump(exclude=set(BLOCKS))
    return names | settings | {f"used_{key}" if key in settings else key: figures[key] for key in figures}


def planned_row(state: RunState, vocab_size: int) -> dict[str, Any]:
    """Return the row of a run without results; its best_of rate is not known yet."""
    run = state.run
    names = {"experiment": run.experiment, "run": run.name, "seed": run.seed, "corpus": run.corpus}
    names |= {"tokenizer": run.tokenizer, "vocab_size": vocab_size, "path": run.folder}
    names |= {"status": state.state, "reason": state.remark or None}
    training = run.training.model_dump() | ({"max_lr": None} if run.best_of else {})
    return names | run.model.model_dump() | training_cells(training)


def training_cells(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a training run with one value each."""
    beta1, beta2 = training["betas"]
    # A number or `auto`: a column has one type.
    return {**training, "beta1": beta1, "beta2": beta2, "micro_batch_size": str(training["micro_batch_size"])}


def make_table(rows: Iterable[Mapping[str, Any]]) -> "pd.DataFrame":
    """Return rows as a table whose columns and types do not depend on the rows."""
    import pandas as pd

    dtypes = {name: column.dtype for name, column in table_columns().items()} | {"path": "str"}
    return pd.DataFrame(list(rows), columns=list(dtypes), dtype=object).astype(dtypes)


def study_table(study: StudySession) -> "pd.DataFrame":
    """Return the table of all runs of a study in its order, finished or not.

    A run without results of its settings has the status `waiting`, `running`, `stopped` or `failed`, as in
    `lmpipe status`.
    """
    rows = []
    for state in StudyFiles(study).snapshot(time.time()).runs:
        _, vocab_size = study.plan.tokenizers[state.run.tokenizer]
        rows.append(run_row(state.result) if state.result else planned_row(state, vocab_size))
    return make_table(rows)


def write_tables(runs: Iterable[Run], paths: StudyPaths) -> None:
    """Write runs.csv and runs.parquet of a finished study."""
    table = make_table(map(run_row, runs))
    with atomic_write(paths.runs_table) as file:
        table.to_csv(file, index=False, lineterminator="\n")
    with atomic_write(paths.runs_parquet, "wb") as file:
        file.write(table.to_parquet(index=False))
