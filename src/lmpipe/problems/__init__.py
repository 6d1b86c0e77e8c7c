"""The problems of the write-up, one module each: its question, its figures from the results, its sentences, its plots.

A problem's module has `ID`, `TITLE`, `QUESTION` and `find(results) -> Finding`. Everything a reader sees of a problem
comes from its Finding; the report only lays it out.
"""

from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any, Literal

from lmpipe.results import Results

# In the order of the report. Each is a module of this package; only adamwAccounting's file follows Python's naming.
PROBLEMS = (
    "unicode1",
    "unicode2",
    "train_bpe_tinystories",
    "train_bpe_expts_owt",
    "tokenizer_experiments",
    "transformer_accounting",
    "adamwAccounting",
    "learning_rate_tuning",
    "learning_rate",
    "batch_size_experiment",
    "generate",
    "layer_norm_ablation",
    "pre_norm_ablation",
    "no_pos_emb",
    "swiglu_ablation",
    "main_experiment",
    "experiment_log",
)


@dataclass(frozen=True)
class Figure:
    """One number (or short text) of a finding.

    `source` is the result file, below the study's folder, that it was read or computed from; `interval` a 95 %
    interval. None as value means undefined; then `reason` says why.
    """

    value: float | int | str | bool | None
    unit: str = ""
    source: str = ""
    interval: tuple[float, float] | None = None
    reason: str = ""


@dataclass(frozen=True)
class Table:
    """A table of raw values; the report formats numbers, aligns and makes it sortable.

    None is shown as a dash, and `missing` says why there are some. `code` names the columns whose texts are code.
    """

    caption: str
    columns: list[str]
    rows: list[list[Any]]
    missing: str = ""
    code: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plot:
    """An SVG below the study's folder, with its caption and a text that stands in for it."""

    path: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Text:
    """A piece of text shown as it is: code with its output, a derivation, or a sample of prose."""

    caption: str
    text: str
    kind: Literal["code", "prose"] = "code"


@dataclass
class Finding:
    """What a study found for one problem. `sentences` answer the question; the first one is the short answer."""

    status: Literal["answered", "partial", "absent"]
    figures: dict[str, Figure] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)


def absent(reason: str) -> Finding:
    """The finding of a problem that this study has no results for, with the reason and remedy as its sentence."""
    return Finding("absent", sentences=[reason])


def module_of(problem: str) -> Any:
    """The module of a problem id."""
    return import_module(f"lmpipe.problems.{'adamw_accounting' if problem == 'adamwAccounting' else problem}")


def find_all(results: Results) -> dict[str, dict[str, Any]]:
    """The findings of every problem, and of every other experiment of the study, ready for findings.json."""
    from lmpipe.problems import general_experiment

    (results.folder / "figures").mkdir(exist_ok=True)
    findings = {}
    for problem in PROBLEMS:
        module = module_of(problem)
        findings[problem] = entry(problem, module.TITLE, module.QUESTION, module.find(results), results)
    for name in results.plan:
        if name not in PROBLEMS:
            title, question = general_experiment.heading(results, name)
            findings[name] = entry(name, title, question, general_experiment.find(results, name), results)
    return findings


def entry(problem: str, title: str, question: str, finding: Finding, results: Results) -> dict[str, Any]:
    """One entry of findings.json, with the study's own target and the write-up's figures for the same problem."""
    from lmpipe.problems.reference import beside_write_up
    from lmpipe.problems.target import add_target

    add_target(finding, results, problem)
    reference = beside_write_up(problem, finding, results)
    return {"title": title, "question": question, **asdict(finding), "reference": reference}
