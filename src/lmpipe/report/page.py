"""The report: findings and plots laid out as one self-contained HTML page that requests nothing from anywhere."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from lmpipe.analysis.finding import Findings
from lmpipe.analysis.problems.write_up_comparison import ROLE_DATASETS, stand_in_for
from lmpipe.analysis.results import Results, is_number
from lmpipe.errors import InputError
from lmpipe.io.files import atomic_write
from lmpipe.io.formatting import format_bytes, format_int, format_number, format_seconds, join_words
from lmpipe.io.hints import make_again, make_first
from lmpipe.planning.lineage import Job, Lineage, as_yaml, matching_files, rebuild_commands, relevant_settings
from lmpipe.planning.plan import Plan
from lmpipe.planning.stages import records_of
from lmpipe.provenance.code_digest import TRACKED_PACKAGES
from lmpipe.provenance.environment import PACKAGE
from lmpipe.report.cells import dash_notes, figure_text, prose, shown, table
from lmpipe.report.plots import ablations, rule_graph
from lmpipe.report.plots.common import draw_plots
from lmpipe.report.plots.palette import ON_A_PAGE

# Figures shown large at the top: problem, figure, and the words under it.
TILES = (
    ("experiment_log", "distinct_runs", "models trained"),
    ("experiment_log", "total_tokens", "training tokens in all"),
    ("experiment_log", "total_wall_seconds", "training time, summed over runs"),
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
# More numbers of a plot than a reader would look through are given as a file alone.
MOST_DATA_ROWS = 60
# HTML cannot hold control characters; their Unicode pictures can be seen.
CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"} | {127: 0x2421}


def build_report(
    results_folder: str | Path,
    findings_path: str | Path,
    output: str | Path,
    plan: Plan,
    *,
    results: Results | None = None,
    missing: Mapping[str, Any] | None = None,
) -> None:
    """Write the report of a study's plan.

    For one that is not finished, `results` are those that are there, and `missing` says what is not.
    Raises InputError where a result, or a plot that a finding names, is missing.
    """
    study = plan.study.model_dump(mode="json", exclude_none=True)
    results = results or Results(results_folder, study, plan.run_keys())
    findings = Findings.read(findings_path)
    draw_plots(findings, results.folder)
    problems = findings.model_dump(mode="json")["problems"]
    lineage = Lineage.read(results_folder, [path for paths in records_of(plan).values() for path in paths])
    templates = PACKAGE / "report" / "templates"
    page = Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters |= {"prose": prose, "shown": shown, "count": format_int, "bytes": format_bytes, "data_uri": data_uri}
    html = page.get_template("report.html.j2").render(
        study=results.study["study"],
        missing=missing,
        style=Markup((templates / "report.css").read_text(encoding="utf-8")),
        script=Markup((templates / "report.js").read_text(encoding="utf-8")),
        corpora=corpora(results),
        tiles=tiles(results, problems),
        headlines=headlines(problems),
        statuses=status_words(problems),
        effects=effect_graph(problems),
        dag=rule_graph_rows(plan, lineage),
        sections=[section(results, lineage, problem, finding) for problem, finding in problems.items()],
        provenance=provenance(results),
        settings=as_yaml(results.study),
    )
    data = html.lstrip().translate(CONTROLS).encode("utf-8", "replace")
    with atomic_write(output, "wb", len(data)) as file:
        file.write(data)


# --- the parts of the page -------------------------------------------------------------------------------------------


def corpora(results: Results) -> list[dict[str, Any]]:
    """Every corpus: what it is, whose place it takes, its sizes and its vocabulary."""
    return [
        {
            "name": name,
            "stands_for": stand_in_for(results, name),
            "is_original": results.study["corpora"][name].get("stands_for")
            if not stand_in_for(results, name)
            else None,
            "source": SOURCES.get(info["source"], info["source"]),
            # A user's own texts may well be a part of the corpus in whose place they stand.
            "is_named": info["source"] == "url",
            "train": info["splits"]["train"],
            "valid": info["splits"]["valid"],
            "vocab_size": results.study["corpora"][name]["tokenizer"]["vocab_size"],
        }
        for name, info in results.corpora.items()
    ]


def tiles(results: Results, problems: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures at the top, as far as this study has them."""
    found = []
    for problem, name, words in TILES:
        metrics = problems.get(problem, {}).get("metrics", {})
        told = {role: metrics.get(f"{role}_corpus", {}).get("value") for role in ROLE_DATASETS}
        names = {role: corpus or results.corpus_in_role(role) or "" for role, corpus in told.items()}
        figure = metrics.get(name)
        if figure and figure["value"] is not None:
            large = figure["unit"] == "tokens" and is_number(figure["value"]) and figure["value"] >= 1e6
            text = figure_text(figure["value"], figure["unit"], brief=True)
            text = f"{format_number(figure['value'] / 1e6)} million" if large else text
            found.append({"problem": problem, "text": text, "words": words.format(**names)})
    return found


def headlines(problems: Mapping[str, Any]) -> list[dict[str, str]]:
    """The short answers at the top: those that a problem was answered with."""
    return [
        {"problem": problem, "title": problems[problem]["title"], "answer": problems[problem]["sentences"][0]}
        for problem in HEADLINES
        if problem in problems and problems[problem]["status"] != "missing"
    ]


def status_words(problems: Mapping[str, Any]) -> str:
    """How many problems were answered, in words.

    >>> status_words({"a": {"status": "answered"}, "b": {"status": "missing"}})
    '1 answered and 1 missing of 2 problems'
    """
    statuses = Counter(finding["status"] for finding in problems.values())
    if statuses["answered"] == len(problems):
        return f"all {len(problems)} problems answered"
    told = [f"{statuses[status]} {status}" for status in ("answered", "partial", "missing") if statuses[status]]
    return f"{join_words(told)} of {len(problems)} problems"


def effect_graph(problems: Mapping[str, Any]) -> dict[str, Any] | None:
    """The drawing of what the ablations found, and the same as rows; None where no difference was found."""
    found = ablations.effects_in(problems)
    is_told = any(effect.value is not None for effect in found)
    return {"svg": ablations.draw(found), "rows": found} if is_told else None


def rule_graph_rows(plan: Plan, lineage: Lineage) -> dict[str, Any]:
    """The drawing of the study's rules, and the same as rows; the time is that of the jobs with a record."""
    jobs = rule_graph.jobs_of(plan)
    seconds: Counter[str] = Counter()
    for job in lineage.jobs.values():
        seconds[job.rule] += job.wall_seconds
    times = {rule: format_seconds(spent) for rule, spent in seconds.items() if spent}
    rows = [
        {
            "rule": rule,
            "jobs": number,
            "time": times.get(rule),
            "reads": [one for one in rule_graph.RULES[rule].reads if one in jobs],
        }
        for rule, number in jobs.items()
    ]
    return {"svg": rule_graph.draw(jobs, times), "rows": rows, "jobs": sum(jobs.values())}


def section(results: Results, lineage: Lineage, problem: str, finding: Mapping[str, Any]) -> dict[str, Any]:
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
        "figures": [figure_row(name, figure) for name, figure in finding["metrics"].items()],
        "reference": reference(finding["reference"]),
        "sources": (sources := sorted({figure["source"] for figure in finding["metrics"].values()} - {""})),
        "made": made(results, lineage, sources),
    }


def made(results: Results, lineage: Lineage, sources: Sequence[str]) -> dict[str, Any] | None:
    """How the numbers of a section were made, from the records behind their sources; None where there is no record."""
    files = matching_files(lineage, sources)
    jobs = lineage.ancestors(files)
    if not jobs:
        return None
    return {
        "jobs": job_rows(jobs),
        "facts": facts(jobs),
        "commands": rebuild_commands(results.study["study"], sources, lineage.producers(files)),
        "settings": as_yaml(relevant_settings(results.study, jobs)),
    }


def job_rows(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Jobs by rule, in the order of the work: how many, with which seeds, and how long they took together."""
    by_rule = {rule: [job for job in jobs if job.rule == rule] for rule in rule_graph.RULES}
    return [
        {
            "rule": rule,
            "jobs": len(found),
            "seeds": sorted({seed for job in found for seed in job.record["seeds"]}),
            "time": format_seconds(sum(job.wall_seconds for job in found)),
        }
        for rule, found in by_rule.items()
        if found
    ]


def facts(jobs: Sequence[Job]) -> dict[str, str]:
    """The commits, machines and versions that some jobs were done with."""
    records = [job.record for job in jobs]
    versions = [record["versions"] for record in records]
    named = {name: distinct([one[name] for one in versions if name in one]) for name in keys(versions)}
    return {
        "commit": distinct([commit(record) for record in records]),
        "machine": distinct([machine(record["hardware"]) for record in records]),
        "versions": ", ".join(f"{name} {version}" for name, version in named.items()),
    }


def plot(results: Results, problem: str, index: int, found: Mapping[str, str]) -> dict[str, Any]:
    """A plot with its SVG made ready to stand in the page, and its numbers."""
    path = results.folder / found["path"]
    try:
        svg = path.read_text(encoding="utf-8")
        svg = inline_svg(svg, f"{problem}-{index}-", found["alt"])
    except FileNotFoundError:
        raise InputError(f"{path}: no such plot; {make_first(path)}") from None
    except ValueError as error:
        raise InputError(f"{path}: expected an SVG, found {error}; {make_again(path)}") from None
    return {"caption": found["caption"], "svg": svg, "data": plot_data(path.with_suffix(".csv"))}


def plot_data(path: Path) -> dict[str, Any]:
    """The numbers of a plot: the file's name and text, and its rows where they are few enough to be read."""
    try:
        text = path.read_text(encoding="utf-8")
        header, *rows = csv.reader(io.StringIO(text), strict=True)
        if not text.endswith("\n") or any(len(row) != len(header) for row in rows):
            raise ValueError("a row that is cut off")
    except FileNotFoundError:
        raise InputError(f"{path}: no such numbers of a plot; {make_again(path)}") from None
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path}: expected a CSV file with a header, found {error}; {make_again(path)}") from None
    shown_rows = rows if len(rows) <= MOST_DATA_ROWS else []
    name = f"{path.parent.name}-{path.name}" if path.parent.name != "figures" else path.name
    return {"name": name, "text": text, "header": header, "rows": shown_rows, "count": len(rows)}


def data_uri(text: str, kind: str = "text/csv") -> str:
    r"""A text as an address that holds it.

    >>> data_uri("a,b\n1,2\n")
    'data:text/csv;charset=utf-8,a,b%0A1,2%0A'
    """
    return f"data:{kind};charset=utf-8,{quote(text, safe=' ,.:;=+-_/()[]@!*~')}"


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


def figure_row(name: str, figure: Mapping[str, Any]) -> dict[str, Any]:
    """A figure of a finding by its name, formatted."""
    text = figure_text(figure["value"], figure["unit"])
    interval = figure["interval"]
    bounds = " to ".join(figure_text(bound, figure["unit"], brief=True) for bound in interval) if interval else ""
    return {
        "name": name,
        "text": text,
        # A figure in words is a token, a run's name or another thing that stands as it is.
        "is_code": isinstance(figure["value"], str),
        "unit": figure["unit"],
        "interval": bounds,
        "reason": figure["missing_reason"],
    }


def reference(found: Mapping[str, Any]) -> dict[str, Any]:
    """The write-up's figures beside ours; a difference in setting that all rows share is told once."""
    rows = [
        {
            "label": row["label"],
            "write_up": figure_text(row["reference"], row["unit"]),
            "ours": figure_text(row["value"], row["unit"]),
            "is_code": isinstance(row["value"], str),
            "reason": row["missing_reason"],
            "setting": row["setting"],
            "difference": row["caveat"],
        }
        for row in found.get("rows", [])
    ]
    differences = {row["difference"] for row in rows}
    common = differences.pop() if len(differences) == 1 else ""
    notes = dash_notes([[{"text": row["ours"], "reason": row["reason"]}] for row in rows])
    return {"rows": rows, "common_difference": common, "note": found.get("note", ""), "notes": notes}


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
        "resumed": sum(bool(run.summary["num_resumes"]) for run in runs),
    }


def machine(hardware: Mapping[str, Any]) -> str:
    """A machine in a line."""
    memory = f", {format_bytes(hardware['memory_bytes'])} of memory" if hardware["memory_bytes"] else ""
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
    return join_words(list(dict.fromkeys(texts))) if texts else "no training run"
