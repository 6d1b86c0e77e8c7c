"""The report: findings and plots laid out as one self-contained HTML page that requests nothing from anywhere."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from lmpipe import InputError
from lmpipe.colours import ON_A_PAGE
from lmpipe.files import atomic_write, make_again
from lmpipe.plan import load_plan
from lmpipe.problem_shapes import FINDINGS
from lmpipe.problems.reference import PLACES, stands_for
from lmpipe.problems.wording import bytes_text, count, listing, number, percent, seconds_text
from lmpipe.provenance import PACKAGE, TRACKED_PACKAGES
from lmpipe.results import Results, is_number
from lmpipe.shapes import read_shape

# Figures shown large at the top: problem, figure, and the words under it.
TILES = (
    ("experiment_log", "distinct_runs", "models trained"),
    ("experiment_log", "total_tokens", "training tokens in all"),
    ("experiment_log", "total_wall_seconds", "training time in all"),
    ("tokenizer_experiments", "bytes_per_token_simple_own", "bytes per token, {simple}"),
    ("learning_rate", "best_max_lr", "best peak learning rate"),
    ("main_experiment", "simple_bits_per_byte", "bits per byte, {simple}"),
    ("main_experiment", "web_bits_per_byte", "bits per byte, {web}"),
)
# Problems whose short answers stand at the top.
HEADLINES = (
    "tokenizer_experiments",
    "learning_rate",
    "batch_size_experiment",
    "layer_norm_ablation",
    "pre_norm_ablation",
    "no_pos_emb",
    "swiglu_ablation",
    "main_experiment",
)
SOURCES = {
    "stories": "stories made by lmpipe's own grammar",
    "docstrings": "the documentation text of installed Python packages",
    "url": "texts named in the study",
}
UNDEFINED = "no value"
SHORT = 44
# HTML cannot hold control characters; their Unicode pictures can be seen.
CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"} | {127: 0x2421}


def build_report(
    results_folder: str | Path,
    findings_path: str | Path,
    output: str | Path,
    settings: Mapping[str, Any],
    *,
    results: Results | None = None,
    missing: Mapping[str, Any] | None = None,
) -> None:
    """Write a study's report; `settings` is the study as plain values.

    For one that is not finished, `results` are those that are there, and `missing` says what is not.
    Raises InputError where a result, or a plot that a finding names, is missing.
    """
    plan = load_plan(dict(settings), "--settings")
    study = plan.study.model_dump(mode="json", exclude_none=True)
    results = results or Results(results_folder, study, plan.names_and_seeds())
    problems = read_shape(findings_path, FINDINGS)["problems"]
    templates = PACKAGE / "templates"
    page = Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters |= {"prose": prose, "shown": shown, "count": count, "bytes": bytes_text}
    html = page.get_template("report.html.j2").render(
        study=results.study["study"],
        missing=missing,
        style=Markup((templates / "report.css").read_text(encoding="utf-8")),
        script=Markup((templates / "report.js").read_text(encoding="utf-8")),
        corpora=corpora(results),
        tiles=tiles(results, problems),
        headlines=headlines(problems),
        sections=[section(results, problem, finding) for problem, finding in problems.items()],
        provenance=provenance(results),
        settings=as_yaml(results.study),
    )
    data = html.translate(CONTROLS).encode("utf-8", "replace")
    with atomic_write(output, "wb", len(data)) as file:
        file.write(data)


# --- the parts of the page -------------------------------------------------------------------------------------------


def corpora(results: Results) -> list[dict[str, Any]]:
    """Every corpus: what it is, whose place it takes, its sizes and its vocabulary."""
    return [
        {
            "name": name,
            "stands_for": stands_for(results, name),
            "is_original": PLACES.get(role_of(results, name)) if stands_for(results, name) is None else None,
            "source": SOURCES.get(info["source"], info["source"]),
            "train": info["splits"]["train"],
            "valid": info["splits"]["valid"],
            "vocab_size": results.study["corpora"][name]["tokenizer"]["vocab_size"],
        }
        for name, info in results.corpora.items()
    ]


def role_of(results: Results, corpus: str) -> str:
    """The place that the study gives a corpus: simple, web or other."""
    return results.study["corpora"][corpus]["role"]


def tiles(results: Results, problems: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures at the top, as far as this study has them."""
    found = []
    for problem, name, words in TILES:
        figures = problems.get(problem, {}).get("figures", {})
        told = {role: figures.get(f"{role}_corpus", {}).get("value") for role in PLACES}
        names = {role: corpus or results.corpus_in_role(role) or "" for role, corpus in told.items()}
        figure = figures.get(name)
        if figure and figure["value"] is not None:
            large = figure["unit"] == "tokens" and is_number(figure["value"]) and figure["value"] >= 1e6
            text = figure_text(figure["value"], figure["unit"], brief=True)
            text = f"{number(figure['value'] / 1e6)} million" if large else text
            found.append({"problem": problem, "text": text, "words": words.format(**names)})
    return found


def headlines(problems: Mapping[str, Any]) -> list[dict[str, str]]:
    """The short answers at the top: those that a problem was answered with."""
    return [
        {"problem": problem, "title": problems[problem]["title"], "answer": problems[problem]["sentences"][0]}
        for problem in HEADLINES
        if problem in problems and problems[problem]["status"] != "absent"
    ]


def section(results: Results, problem: str, finding: Mapping[str, Any]) -> dict[str, Any]:
    """One problem, ready for the template."""
    answer, *more = finding["sentences"] or ["There is nothing to tell."]
    return {
        "id": problem,
        "title": finding["title"],
        "question": finding["question"],
        "status": finding["status"],
        "answer": answer,
        "paragraphs": [" ".join(more[start : start + 4]) for start in range(0, len(more), 4)],
        "plots": [plot(results, problem, index, one) for index, one in enumerate(finding["plots"], 1)],
        "tables": [table(one) for one in finding["tables"]],
        "texts": finding["texts"],
        "figures": [figure_row(name, figure) for name, figure in finding["figures"].items()],
        "reference": reference(finding["reference"]),
        "sources": sorted({figure["source"] for figure in finding["figures"].values()} - {""}),
    }


def plot(results: Results, problem: str, index: int, found: Mapping[str, str]) -> dict[str, Any]:
    """A plot with its SVG made ready to stand in the page."""
    path = results.folder / found["path"]
    try:
        svg = path.read_text(encoding="utf-8")
        return {"caption": found["caption"], "svg": inline_svg(svg, f"{problem}-{index}-", found["alt"])}
    except FileNotFoundError:
        raise InputError(f"{path}: no such plot; make it first (snakemake --cores 1 {path})") from None
    except ValueError as error:
        raise InputError(f"{path}: expected an SVG, found {error}; {make_again(path)}") from None


def inline_svg(svg: str, prefix: str, alt: str) -> Markup:
    """An SVG file as an element of a page: ids made unique by `prefix`, colours of the page, as wide as its box.

    Raises ValueError where the text is no whole SVG.
    """
    start, view_box = svg.find("<svg"), re.search(r'viewBox="[^"]*"', svg)
    if start < 0 or view_box is None or not svg.rstrip().endswith("</svg>"):
        raise ValueError("other or cut text")
    body = svg[start:]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="([^"]*)"', rf'id="{prefix}\1"', body)
    body = re.sub(r'(?:xlink:)?href="#([^"]*)"', rf'href="#{prefix}\1"', body)
    body = re.sub(r"url\(#([^)]*)\)", rf"url(#{prefix}\1)", body)
    for colour, on_a_page in ON_A_PAGE.items():
        body = body.replace(colour, on_a_page)
    rest = body.partition(">")[2]
    compact = re.sub(r">\s+<", "><", rest.strip())
    return Markup(f'<svg {view_box.group()} role="img" aria-label="{escape(alt)}">{compact}')


def table(found: Mapping[str, Any]) -> dict[str, Any]:
    """A table with its cells as text, and how each column is set."""
    columns = list(zip(*found["rows"], strict=True)) or [()] * len(found["columns"])
    texts = [column_texts(column) for column in columns]
    looks = [column_look(column) for column in columns]
    rows = [
        [{"text": text, "sort": sort_key(value)} for text, value in zip(line, row, strict=True)]
        for line, row in zip(zip(*texts, strict=True), found["rows"], strict=True)
    ]
    heads = [{"name": name, "look": look} for name, look in zip(found["columns"], looks, strict=True)]
    return {"caption": found["caption"], "heads": heads, "rows": rows}


def column_look(values: Sequence[Any]) -> str:
    """The style of a column: `number` is set right, `short` keeps its texts on one line."""
    if any(is_number(value) for value in values):
        return "number"
    return "short" if all(len(str(value)) <= SHORT for value in values) else ""


def figure_row(name: str, figure: Mapping[str, Any]) -> dict[str, Any]:
    """A figure of a finding by its name, formatted."""
    text = figure_text(figure["value"], figure["unit"])
    interval = figure["interval"]
    bounds = " to ".join(figure_text(bound, figure["unit"], brief=True) for bound in interval) if interval else ""
    return {"name": name, "text": text, "unit": figure["unit"], "interval": bounds, "reason": figure["reason"]}


def reference(found: Mapping[str, Any]) -> dict[str, Any]:
    """The write-up's figures beside ours; a difference in setting that all rows share is told once."""
    rows = [
        {
            "label": row["label"],
            "write_up": figure_text(row["write_up"], row["unit"]),
            "ours": figure_text(row["ours"], row["unit"]),
            "reason": row["reason"],
            "setting": row["setting"],
            "difference": row["difference_in_setting"],
        }
        for row in found.get("rows", [])
    ]
    differences = {row["difference"] for row in rows}
    common = differences.pop() if len(differences) == 1 else ""
    return {"rows": rows, "common_difference": common, "note": found.get("note", "")}


def provenance(results: Results) -> dict[str, Any]:
    """What made the numbers: machines, versions, commits, seeds and code, each value with where it holds."""
    runs = results.runs()
    environments = [run.summary["environment"] for run in runs]
    code = [flat(run.summary["code"]) for run in runs]
    # The packages that a digest of code names decide its numbers as much; a corpus may be made of packages' texts.
    versions = [flat(environment["versions"]) for environment in environments]
    versions += [{name: one[name] for name in one if name in TRACKED_PACKAGES} for one in code]
    versions += [flat(info.get("versions", {})) for info in results.corpora.values()]
    return {
        "machines": distinct([machine(environment["hardware"]) for environment in environments]),
        "devices": distinct([str(run.summary["device"]) for run in runs]),
        "precisions": distinct([run.summary["precision"] for run in runs]),
        "commits": distinct([commit(environment) for environment in environments]),
        "versions": {name: distinct([one[name] for one in versions if name in one]) for name in keys(versions)},
        "seeds": sorted({run.seed for run in runs}),
        "code": {
            name: distinct([one[name] for one in code if name in one])
            for name in keys(code)
            if name not in TRACKED_PACKAGES
        },
        "resumed": sum(bool(run.summary["resumed"]) for run in runs),
    }


def machine(hardware: Mapping[str, Any]) -> str:
    """A machine in a line."""
    memory = f", {bytes_text(hardware['memory_bytes'])} of memory" if hardware["memory_bytes"] else ""
    return f"{hardware['processor']}, {hardware['cores']} cores{memory}, {hardware['system']}"


def commit(environment: Mapping[str, Any]) -> str:
    """The commit of the code, and whether files differed from it."""
    if environment["commit"] is None:
        return "not a git checkout"
    return environment["commit"][:12] + (" with local changes" if environment["changed"] else "")


def flat(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as texts."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def keys(mappings: Sequence[Mapping[str, Any]]) -> list[str]:
    """All keys of several mappings, in order of appearance."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def distinct(texts: Sequence[str]) -> str:
    """The different texts in a row."""
    return listing(list(dict.fromkeys(texts))) if texts else "no training run"


def as_yaml(study: Mapping[str, Any]) -> str:
    """The study as the text of a study file."""
    return yaml.safe_dump(without_none(study), sort_keys=False, default_flow_style=None, allow_unicode=True)


def without_none(value: Any) -> Any:
    """Settings without those that are not set."""
    if isinstance(value, Mapping):
        return {key: without_none(inner) for key, inner in value.items() if inner is not None}
    return [without_none(inner) for inner in value] if isinstance(value, list | tuple) else value


# --- values as text --------------------------------------------------------------------------------------------------


def figure_text(value: Any, unit: str, *, brief: bool = False) -> str | None:
    """A figure's value with its unit, for people; None where it is undefined. `brief` leaves out the unit's name.

    >>> figure_text(8508230400, "bytes"), figure_text(0.0008, ""), figure_text(0.016, "share of the total")
    ('8,508,230,400 bytes (8.51 GB)', '0.0008', '1.6 % of the total')
    """
    if not is_number(value):
        return {True: "yes", False: "no"}.get(value, value)
    if not math.isfinite(value):
        return None
    if unit.startswith("share"):
        return percent(value) + ("" if brief else unit.removeprefix("share"))
    if unit == "s":
        return seconds_text(value) if value >= 0 else f"{number(value)} s"
    if unit == "bytes" and abs(value) >= 1000:
        return bytes_text(value) if brief else f"{count(value)} bytes ({bytes_text(value)})"
    text = count(value) if isinstance(value, int) else number(value, 4)
    return text if brief or not unit else f"{text} {unit}"


def column_texts(values: Sequence[Any]) -> list[str | None]:
    """The cells of a column as texts; measured numbers get the same decimals, so that they can be compared by eye.

    >>> column_texts([2.3145, None, 10.5]), column_texts([0.001, 3.0]), column_texts(["a", 2048])
    (['2.31', None, '10.50'], ['0.001', '3'], ['a', '2,048'])
    """
    floats = [value for value in values if isinstance(value, float) and math.isfinite(value)]
    short = all(float(f"{value:.3g}") == value for value in floats)
    largest, smallest = (bound((abs(value) for value in floats if value), default=1) for bound in (max, min))
    even = not short and largest < 1e6 and smallest >= 1e-5 * largest
    decimals = min(max(0, 3 - math.floor(math.log10(largest))), 4 if largest >= 1e-3 else 6)
    texts = [f"{value:,.{decimals}f}" if even and value in floats else cell_text(value) for value in values]
    return [
        text.replace("-", "−") if is_number(value) and text else text for text, value in zip(texts, values, strict=True)
    ]


def cell_text(value: Any) -> str | None:
    """A single cell as text; None where it is undefined."""
    if isinstance(value, float):
        return number(value, 4) if math.isfinite(value) else None
    if isinstance(value, bool) or not isinstance(value, int):
        return figure_text(value, "")
    return count(value)


def sort_key(value: Any) -> str:
    """What a table is sorted by: the exact number, or the text."""
    return "" if value is None else repr(value) if is_number(value) else str(value)


def shown(text: str | None, reason: str = "") -> Markup:
    """A text, or a dash that tells on hovering why there is none."""
    if text in (None, ""):
        return Markup('<span class="dash" title="{}">–</span>').format(reason or UNDEFINED)
    return escape(text.replace(" × 10", "\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}10"))


def prose(text: str) -> Markup:
    """A sentence in which `this` is code, and no line ends between a number and its percent sign.

    >>> prose("run `a<b`")
    Markup('run <code>a&lt;b</code>')
    """
    whole = re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", str(escape(text)))
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", whole))
