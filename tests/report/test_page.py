import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from lmpipe.analysis.finding import Finding, Findings, Metric, Reference, ReferenceRow, Text, missing
from lmpipe.analysis.problems.registry import complete_finding, problem_module
from lmpipe.planning.plan import load_plan
from lmpipe.report.page import data_uri, draw_plots, headline_tiles, write_page
from lmpipe.report.plots.experiment import plot_experiment
from lmpipe.report.section import inline_svg
from lmpipe.study.problems import PROBLEMS
from tests.support.fake_results import EXPERIMENTS, fabricate_records, fabricate_study

ANALYZED = ("learning_rate", "layer_norm_ablation", "main_experiment", "experiment_log")
HOSTILE = 'A story.</blockquote><script>alert("x")</script> & more \x00\x1b'


class Page(HTMLParser):
    """Collects what the tests ask for: ids, references, elements, and the text that a reader sees."""

    def __init__(self, html: str):
        super().__init__()
        self.ids, self.references, self.tags, self.seen, self.hidden = [], [], [], [], 0
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.hidden += tag in ("style", "script")
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "action", "srcset", "data", "poster"):
                self.references.append(value)

    def handle_endtag(self, tag):
        self.hidden -= tag in ("style", "script")

    def handle_data(self, data):
        if not self.hidden:
            self.seen.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.seen).split())


def findings(results) -> Findings:
    """Return findings of the problems about training; the others are absent, and the samples are hostile."""
    problems = {}
    for problem in PROBLEMS:
        finding = missing("Not in this study; add it.")
        title, question = problem, "What about it?"
        if problem in ANALYZED:
            module = problem_module(problem)
            finding = module.analyze(results)
        if problem == "generate":
            texts = [Text("Prompt <b>", HOSTILE, "prose"), Text("Code", "if a < b:\n    print(1)")]
            finding = Finding("partial", sentences=["Text by `a<b`."], texts=texts)
        problems[problem] = complete_finding(problem, title, question, finding, results)
    return Findings(study="fabricated", problems=problems)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Return a study with plots and findings, ready for its report."""
    experiments = {name: EXPERIMENTS[name] for name in ("learning_rate", "layer_norm_ablation", "main_experiment")}
    results = fabricate_study(tmp_path_factory.mktemp("reported"), experiments)
    for experiment in results.experiments():
        plot_experiment(experiment, results.folder / "experiments" / experiment.name)
    findings(results).write(results.folder / "findings.json")
    fabricate_records(results)
    return results


@pytest.fixture(scope="module")
def html(study) -> str:
    return built(study)


def built(study, name: str = "report.html") -> str:
    return built_from(study, Findings.read(study.folder / "findings.json"), study.folder / name)


def built_from(study, findings, path) -> str:
    write_page(path, load_plan(study.study, "the study"), study, findings, draw_plots(findings, study.folder))
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_anchors_are_unique_and_links_resolve(page):
    assert all(page.ids.count(problem) == 1 for problem in PROBLEMS)
    assert len(page.ids) == len(set(page.ids)), "ids of inlined plots must not collide"
    inner = [reference for reference in page.references if reference.startswith("#")]
    assert {reference[1:] for reference in inner} <= set(page.ids)


def test_page_requests_nothing(html, page):
    assert [reference for reference in page.references if not reference.startswith(("#", "data:"))] == []
    assert not re.search(r"url\((?!#)", html)
    assert "@import" not in html
    assert not {"link", "iframe", "object", "embed", "img"} & (set(page.tags) - {"link"})
    assert "default-src 'none'" in html


def test_page_shows_no_undefined_value(page):
    assert not re.search(r"\b(nan|NaN|None|inf|undefined|null)\b", page.text)


def test_hostile_text_is_escaped(html, page):
    assert html.count("<script>") == 1
    assert 'alert("x")' in page.text
    assert "␀␛" in page.text
    assert "\x00" not in html
    assert "<code>a&lt;b</code>" in html


def test_introduction_names_the_corpora(page):
    assert "stories stands in the place of TinyStories; it is not TinyStories itself" in page.text
    assert "docs stands in the place of OpenWebText" in page.text


def test_sections_show_answers_plots_tables_and_the_write_up(html, page):
    assert "A peak rate of 0.01 is best" in page.text
    assert "Smallest rate seen to diverge" in page.text
    assert "4 answered, 1 partial and 12 missing of 17 problems" in page.text
    assert 'class="number" data-sort="2.685633">2.686</td>' in html


def test_last_section_has_the_environment_and_settings(page):
    for words in (
        "AMD EPYC, 2 cores, 25.8 GB of memory",
        "0123456789ab",
        "2.13.0",
        "max_lr:",
        "best_of: learning_rate",
    ):
        assert words in page.text


def test_last_section_has_all_versions_that_decide_numbers(html):
    rows = " ".join(Page(html[html.index('<section id="provenance"') : html.index("<summary>Code that")]).text.split())
    assert "pydantic 2.14.3" in rows, "a package in the digest of the code"
    assert "numpy 2.3.1 and 9.8.7" in rows, "9.8.7 is the one that the corpus is made of"
    assert "regex 2025.9.1" in rows
    code = Page(html[html.index("<summary>Code that") : html.index("<h3>Settings")]).text
    assert "abcdef0123456789" in code
    assert "pydantic" not in code


def test_tiles_name_the_corpus_of_their_metric(study):
    problems = Findings.read(study.folder / "findings.json").problems
    labels = [tile.label for tile in headline_tiles(study, problems)]
    assert labels[-2:] == ["bits per byte, stories", "bits per byte, docs"]
    main = problems["main_experiment"]
    renamed = replace(main, metrics=main.metrics | {"simple_corpus": Metric("tales")})
    labels = [tile.label for tile in headline_tiles(study, problems | {"main_experiment": renamed})]
    assert "bits per byte, tales" in labels


def test_names_and_tokens_are_code_and_one_row_is_singular(study, tmp_path):
    findings = Findings.read(study.folder / "findings.json")
    main = findings.problems["main_experiment"]
    row = ReferenceRow("Longest token", "`␣accomplishment`", "␣<b>", "", "", "", "another text")
    main = replace(main, metrics=main.metrics | {"longest_token": Metric("␣<b>")}, reference=Reference([row]))
    findings = Findings(study="fabricated", problems=findings.problems | {"main_experiment": main})
    html = built_from(study, findings, tmp_path / "report.html")
    assert "<code>longest_token</code></th><td><code>␣&lt;b&gt;</code></td>" in html
    assert "<td><code>␣accomplishment</code></td><td><code>␣&lt;b&gt;</code></td>" in html
    assert "(1 rows)" not in html


def test_settings_are_a_study_file_of_the_same_study(study, html):
    text = "".join(Page(html[html.index("<h3>Settings") :]).seen)
    study_text = yaml.safe_load(text[text.index("study:") :])
    assert load_plan(study_text, "the report's settings").run_keys() == study.run_keys


def section_of(html: str, problem: str) -> str:
    """Return the HTML of one problem."""
    start = html.index(f'<section id="{problem}"')
    return html[start : html.index("</section>", start)]


def test_sections_have_their_origin_and_rebuild_commands(study, html):
    text = Page(section_of(html, "layer_norm_ablation")).text
    assert "lmpipe clear-runs results/fabricated" in text
    table = "results/fabricated/experiments/layer_norm_ablation/table.csv results/fabricated/findings.json"
    assert f"snakemake --cores 2 {table} --forcerun train --configfile results/fabricated/study.yaml" in text
    assert "train 12 0, 1, 2" in text, "jobs and seeds of a rule"
    assert "make_corpus 1" in text, "what the runs come from"
    assert "commit 0123456789ab" in text
    assert "machine AMD EPYC, 2 cores" in text


def test_records_of_provenance_are_optional(study):
    hidden = study.folder / "experiments/learning_rate/provenance.json"
    record = hidden.read_bytes()
    hidden.unlink()
    try:
        assert "No record of provenance lies beside" in section_of(built(study, "less.html"), "learning_rate")
    finally:
        hidden.write_bytes(record)


def test_data_uri_keeps_the_text():
    text = 'run,loss\n"a,b",2.5\n#%&<>\'é␀\n'
    assert unquote(data_uri(text).partition(",")[2]) == text
    assert not set(data_uri(text)) & set("\"#<>'\n")


def test_plots_take_the_colors_of_the_page(html):
    plots = html[html.index("<main>") :]
    assert "#0072b2" not in plots
    assert "var(--blue)" in plots
    assert "currentColor" in plots


def test_page_is_small_and_reproducible(study, html):
    assert len(html.encode()) < 1_500_000
    assert built(study, "again.html") == html


def test_building_a_report_imports_no_heavy_package():
    script = "import sys, lmpipe.report.page; print({'torch', 'numba'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_ids_of_inlined_plots_are_unique():
    svg = (
        '<?xml?><svg viewBox="0 0 1 1"><style>*{}</style><path id="a"/><use xlink:href="#a" clip-path="url(#b)"/></svg>'
    )
    inlined = inline_svg(svg, "p-1-", 'a "plot"')
    assert inlined.startswith('<svg viewBox="0 0 1 1" role="img" aria-label="a &#34;plot&#34;">')
    assert 'id="p-1-a"' in inlined
    assert 'href="#p-1-a" clip-path="url(#p-1-b)"' in inlined
    assert "<style" not in inlined


def test_templates_are_package_data():
    folder = Path(sys.modules["lmpipe"].__file__).parent / "report" / "templates"
    assert {"report.html.j2", "report.css", "report.js"} <= {path.name for path in folder.iterdir()}
