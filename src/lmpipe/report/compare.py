"""Comparing two studies: which settings, code, versions, machines and texts differ, and which findings moved."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired

from lmpipe.analysis.finding import Findings
from lmpipe.analysis.results import is_number
from lmpipe.errors import InputError
from lmpipe.io.files import atomic_write, write_json
from lmpipe.io.formatting import format_bytes, format_int, format_number
from lmpipe.provenance.job_records import CHECKSUM, RECORD, ResultPath
from lmpipe.study.documents import keys, read_shape

COLLECTED = keys(
    study=str,
    settings=dict[str, Any],
    records=dict[
        ResultPath,
        keys(
            code=dict[str, str],
            versions=dict[str, Any],
            hardware=dict[str, Any],
            commit=str | None,
            device=NotRequired[str],
        ),
    ],
    files=dict[ResultPath, CHECKSUM],
)
FINDINGS_FILE = "findings.json"
# Figures of these units, or with these words in their names, tell of the machine and what else it did.
MACHINE_UNITS = ("s", "h", "tokens per second", "bytes per second", "FLOP/s")
MACHINE_NAMES = ("peak_memory", "utilization")
SHOWN_DIGITS = 12
LONGEST_CELL = 60
NOTHING = "–"
FIGURE_HEADS = ("figure", "first", "second", "difference", "percent", "resolved")
EXPLANATION = (
    "Differences are the second minus the first. `yes` says that the two 95 % intervals do not overlap, which is "
    "stricter than a test of the difference; `no` that they do; a dash that a study has no interval (one seed)."
)


def compare(first: str | Path, second: str | Path, output: str | Path | None = None) -> None:
    """Print what differs between two studies' results folders; write it to `output`, a .json or .md file.

    Raises InputError for folders that hold no finished study, and for another kind of file.
    """
    if output is not None and Path(output).suffix not in (".json", ".md"):
        raise InputError(f"--output: expected a name that ends in .json or .md, found {output}; give it one of them")
    compared = comparison(Path(first), Path(second))
    text = as_markdown(compared)
    print(text, end="")
    if output is not None and Path(output).suffix == ".json":
        write_json(output, compared)
    elif output is not None:
        with atomic_write(output) as file:
            file.write(text)


def comparison(first: Path, second: Path) -> dict[str, Any]:
    """What differs between two studies, as plain JSON values: rows of what, first and second, and the findings."""
    collected = [read_study(folder, RECORD, COLLECTED) for folder in (first, second)]
    problems = [read_findings(folder) for folder in (first, second)]
    figures = list(compared_figures(*problems))
    moved = [figure for figure in figures if figure["is_in"] == "both" and figure["first"] != figure["second"]]
    return {
        "first": str(first),
        "second": str(second),
        "settings": differing(*(flat_settings(one["settings"]) for one in collected)),
        "made_by": differing(*(made_by(one["records"]) for one in collected)),
        "texts": differing(*(texts(one["files"]) for one in collected)),
        "statuses": differing(*({name: one["status"] for name, one in found.items()} for found in problems)),
        "findings": [figure for figure in moved if not figure["is_of_the_machine"]],
        "machine": [figure for figure in moved if figure["is_of_the_machine"]],
        "in_one_only": [figure for figure in figures if figure["is_in"] != "both"],
        "equal_figures": sum(figure["is_in"] == "both" for figure in figures) - len(moved),
    }


def read_findings(folder: Path) -> dict[str, Any]:
    """Findings of a finished study by problem."""
    path = folder / FINDINGS_FILE
    if not path.is_file():
        raise no_study(folder, FINDINGS_FILE)
    return Findings.read(path).model_dump(mode="json")["problems"]


def read_study(folder: Path, name: str, kind: Any) -> Any:
    """A file of a finished study; raises InputError where the folder has none, or it is damaged."""
    if not (folder / name).is_file():
        raise no_study(folder, name)
    return read_shape(folder / name, kind)


def no_study(folder: Path, name: str) -> InputError:
    """Error for a folder that lacks a file of a finished study."""
    return InputError(
        folder, f"has no {name}, so it is not a finished study", "check the path, or let snakemake finish the study"
    )


# --- settings and origins --------------------------------------------------------------------------------------------


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each key whose values differ; None stands for a key that one side lacks."""
    return [
        {"what": key, "first": first.get(key), "second": second.get(key)}
        for key in dict.fromkeys([*first, *second])
        if first.get(key) != second.get(key)
    ]


def flat_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a study by their key paths; its name, which always differs, is left out.

    >>> flat_settings({"study": "a", "model": {"d_model": 64}, "seeds": [0]})
    {'model.d_model': 64, 'seeds': [0]}
    """

    def leaves(place: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                yield from leaves(f"{place}.{key}" if place else str(key), inner)
        else:
            yield place, value

    return {place: value for place, value in leaves("", settings) if place != "study"}


def made_by(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What made a study: digests of modules, versions, hardware, devices and commits, each with all that it was."""
    found: dict[str, set[str]] = {}
    for record in records.values():
        facts = {f"code of {name}": digest for name, digest in record["code"].items()}
        facts |= {f"version of {name}": version for name, version in record["versions"].items()}
        facts |= {f"hardware: {name}": value for name, value in record["hardware"].items()}
        facts |= {"commit": (record["commit"] or "none")[:SHOWN_DIGITS], "device": record.get("device")}
        for name, value in facts.items():
            if value is not None:
                found.setdefault(name, set()).add(str(value))
    # A digest names some packages' versions, too.
    repeated = {f"code of {name.removeprefix('version of ')}" for name in found if name.startswith("version of ")}
    return {name: ", ".join(sorted(values)) for name, values in found.items() if name not in repeated}


def texts(files: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The texts and vocabularies of a study: losses per token compare only between equal ones."""
    named = (path for path in files if path.startswith(("corpora/", "tokenizers/")))
    chosen = (path for path in named if path.endswith((".txt", "/vocab.json")) and not path.endswith("merges.txt"))
    return {
        path: f"{format_bytes(files[path]['bytes'])}, sha256 {files[path]['sha256'][:SHOWN_DIGITS]}" for path in chosen
    }


# --- findings --------------------------------------------------------------------------------------------------------


def compared_figures(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every figure that either study has, in the order of the problems, with how far it moved."""
    for problem in dict.fromkeys([*first, *second]):
        ours, theirs = (found.get(problem, {}).get("metrics", {}) for found in (first, second))
        for name in dict.fromkeys([*ours, *theirs]):
            yield {"problem": problem, "figure": name, **compared(ours.get(name), theirs.get(name), name)}


def compared(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    """One figure of both studies; None where a study lacks it. `is_resolved` is None where that cannot be told."""
    is_in = "second" if first is None else "first" if second is None else "both"
    absent = {"value": None, "interval": None}
    values = [(side or absent)["value"] for side in (first, second)]
    intervals = [(side or absent)["interval"] for side in (first, second)]
    unit = (second or first)["unit"]
    have_numbers = all(map(is_number, values))
    difference = values[1] - values[0] if have_numbers else None
    return {
        "unit": unit,
        "is_in": is_in,
        "first": values[0],
        "second": values[1],
        "first_interval": intervals[0],
        "second_interval": intervals[1],
        "difference": difference,
        "percent": 100 * difference / abs(values[0]) if have_numbers and values[0] else None,
        "is_resolved": are_apart(*intervals) if have_numbers and all(intervals) else None,
        "is_of_the_machine": unit in MACHINE_UNITS or any(word in name for word in MACHINE_NAMES),
    }


def are_apart(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether two intervals have no point in common.

    >>> are_apart([3.1, 3.2], [3.3, 3.4]), are_apart([3.1, 3.3], [3.3, 3.4])
    (True, False)
    """
    return first[1] < second[0] or second[1] < first[0]


# --- as text ---------------------------------------------------------------------------------------------------------


def as_markdown(found: Mapping[str, Any]) -> str:
    """A comparison as Markdown whose tables can be read as they are."""
    sides = ["first", "second"]
    names = [[found["first"], found["second"]]]
    parts = ["# Two studies compared", "", *aligned(sides, names)]
    for title, key, what in (
        ("Settings that differ", "settings", "setting"),
        ("What made them, where it differs", "made_by", "what"),
        ("Texts and vocabularies that differ", "texts", "file"),
        ("Problems of another status", "statuses", "problem"),
    ):
        rows = [[row["what"], *(value_text(row[side]) for side in sides)] for row in found[key]]
        parts += section(title, [what, *sides], rows)
    parts += section("Findings that moved", FIGURE_HEADS, map(figure_row, found["findings"]), EXPLANATION)
    parts += section("Times, speeds and memory", FIGURE_HEADS, map(figure_row, found["machine"]))
    parts += section(
        "Figures of one study only", FIGURE_HEADS[:3], (figure_row(one)[:3] for one in found["in_one_only"])
    )
    parts += ["", f"{format_int(found['equal_figures'])} figures are equal."]
    return "\n".join(parts) + "\n"


def section(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]], note: str = "") -> list[str]:
    """A heading with its table, or with a word where it has no rows."""
    rows = list(rows)
    return [
        "",
        f"## {title}",
        "",
        *([note, ""] if note and rows else []),
        *(aligned(heads, rows) if rows else ["None."]),
    ]


def aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, its columns as wide as their cells."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in [heads, *rows]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]


def figure_row(figure: Mapping[str, Any]) -> list[str]:
    """The cells of a figure."""
    unit = f" ({figure['unit']})" if figure["unit"] else ""
    difference, percent = figure["difference"], figure["percent"]
    return [
        f"{figure['problem']}: {figure['figure']}{unit}",
        *(with_interval(figure[side], figure[f"{side}_interval"]) for side in ("first", "second")),
        NOTHING if difference is None else signed(difference),
        NOTHING if percent is None else f"{signed(percent)} %",
        {True: "yes", False: "no", None: NOTHING}[figure["is_resolved"]],
    ]


def with_interval(value: Any, interval: Sequence[float] | None) -> str:
    """A value, and its interval behind it."""
    return value_text(value) + (f" ({' to '.join(map(value_text, interval))})" if interval else "")


def signed(value: float) -> str:
    """A number with its sign.

    >>> signed(0.031), signed(-2.5), signed(0)
    ('+0.031', '-2.5', '0')
    """
    return f"{'+' if value > 0 else ''}{format_number(value)}"


def value_text(value: Any) -> str:
    """A value in a cell, cut where it is long."""
    match value:
        case None:
            return NOTHING
        case bool():
            return "yes" if value else "no"
        case int():
            return format_int(value)
        case float():
            return format_number(value, 5)
        case str():
            text = "".join(character if character.isprintable() else " " for character in value)
        case _:
            text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_CELL else f"{text[: LONGEST_CELL - 3]}..."
