import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
import yaml

from lmpipe.analysis.finding import Findings, MarkedText
from lmpipe.analysis.results import Results
from lmpipe.planning.lineage import Lineage
from lmpipe.planning.plan import load_plan
from lmpipe.report.cards import MAX_SAMPLE_LINES, SAMPLE_LINE_CHARACTERS, cut_sample, inline_svg
from lmpipe.report.page import data_uri
from lmpipe.report.plots.figures import draw
from lmpipe.report.plots.palette import Palette
from lmpipe.study.problems import PROBLEMS
from tests.support.fake_figures import FIGURES
from tests.support.fake_page import fake_findings, hostile_finding, write_fake_page
from tests.support.fake_results import skip_drawing


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


@pytest.fixture(scope="module")
def html(reported) -> str:
    return (reported.folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def between(html: str, start: str, end: str) -> str:
    """Return a part of the page."""
    return html[html.index(start) : html.index(end, html.index(start))]


def card_of(html: str, problem: str) -> str:
    """Return the HTML of one card."""
    return between(html, f'<article id="{problem}"', "</article>")


def test_anchors_are_unique_and_links_resolve(page):
    assert all(page.ids.count(name) == 1 for name in [*PROBLEMS, "adamwAccounting"])
    assert len(page.ids) == len(set(page.ids)), "ids of inlined plots must not collide"
    inner = [reference for reference in page.references if reference.startswith("#")]
    assert {reference[1:] for reference in inner} <= set(page.ids)


def test_experiments_called_like_a_part_of_the_page_have_ids_of_their_own(reported, monkeypatch):
    skip_drawing(monkeypatch)
    names = ["settings", "appendix", "summary", "chapter-training", "write-up"]
    findings = Findings(study="fabricated", problems=dict.fromkeys(names, hostile_finding()))
    page = Page(write_fake_page(reported, findings, "named.html").read_text(encoding="utf-8"))
    assert {"settings", "appendix", *(f"experiment:{name}" for name in names)} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_page_requests_nothing_and_is_small(html, page):
    assert [reference for reference in page.references if not reference.startswith(("#", "data:"))] == []
    assert not re.search(r"url\((?!#)|@import", html)
    assert not {"iframe", "object", "embed", "img"} & set(page.tags)
    assert "default-src 'none'" in html
    assert len(html.encode()) < 1_500_000


def test_hostile_text_is_escaped_and_no_undefined_value_is_shown(html, page):
    assert html.count("<script>") == 1
    assert 'console.error("x")' in page.text
    assert "␀␛" in page.text and "\x00" not in html
    assert "<code>a&lt;b</code>" in html and "<b>break" not in html
    assert not re.search(r"\b(nan|NaN|None|inf|undefined|null)\b", page.text)


def test_front_page_has_facts_findings_of_two_chapters_texts_and_the_index(html, page):
    assert "21 small transformers in 32 s" in page.text
    assert "Stanford CS336 assignment 1, spring 2026" in page.text
    assert "trained on stories and docs" in page.text
    assert "12.3 MB, 1,024 ids, stands for TinyStories" in page.text
    findings = between(html, '<ul class="headlines">', '<div class="warnings">')
    problems = re.findall(r'href="#(\w+)" class="more"', findings)
    assert problems == ["learning_rate", "batch_size_experiment", "layer_norm_ablation", "no_pos_emb"]
    assert findings.count("<svg") == 4 and "<text" not in findings
    assert html.index("After 20,000 tokens, loss 3.30") < html.index("After 1 M tokens") < html.index("Read with care")
    assert '<mark class="unknown">litle</mark>' in html
    assert html.count('download="main_experiment-hero.csv"') == 1, "the hero is not in a card"
    index = between(html, '<ul class="index"', 'id="chapter-training"')
    assert (index.count("✓"), index.count("◐")) == (len(PROBLEMS) - 2, 1)
    assert '<li class="missing"><a href="#unicode1">' in index


def test_card_has_question_answer_figure_and_expectation(html):
    card = Page(card_of(html, "no_pos_emb")).text
    assert "Which setting of no_pos_emb is best?" in card
    assert "0.0141 is best , with a loss of 1.88" in card
    assert "Expected NoPE: higher, because position matters (paper, section 3)" in card
    assert "Found The difference is in the expected direction." in card


def test_partial_finding_without_a_reason_has_no_note(html):
    card = card_of(html, "adamw_accounting")
    assert '<span class="badge partial">partial</span>' in card
    assert '<p class="note"></p>' not in card


def test_missing_finding_has_its_reason(html):
    card = card_of(html, "unicode1")
    assert "The study has no corpus; add one to <code>corpora</code>." in card
    assert 'id="unicode2"' in card, "they share a card"


def test_all_but_answers_is_folded(html):
    unfolded = re.sub(r"<details.*?</details>", "", html, flags=re.S)
    assert "<table" not in unfolded
    assert "snakemake --cores 2 results" not in unfolded


def test_ablations_have_one_forest_plot(html):
    chapter = between(html, 'id="chapter-ablations"', 'id="chapter-costs"')
    assert "No position embedding costs the most: +0.95 nats per token" in chapter
    assert chapter.count('download="ablations-effects.csv"') == 1


def test_appendix_has_documents_and_bytes_of_each_split(reported, html):
    start = html.index('id="texts"')
    table = html[start : html.index("</table>", start)]
    assert "validation documents" in table and table.count("<tr>") >= 2


def test_appendix_has_the_log_environment_settings_and_derivations_once(reported, html):
    assert html.count('id="appendix"') == 1
    start = html.index('id="appendix"')
    assert (
        html.index('id="chapter-other"')
        < html.index('id="experiment:vocabulary"')
        < start
        < html.index('id="experiment_log"')
    )
    text = Page(html[start:]).text
    assert "AMD EPYC, 2 cores, 25.8 GB of memory, Linux 6.1 x86_64, commit 0123456789ab" in text
    assert "Derivation of the memory." in text and "Derivation" not in html[:start]
    assert "<td><code>␣&lt;b&gt;</code></td>" in html
    versions = Page(between(html, 'id="environment"', 'id="settings"')).text
    assert "pydantic 2.14.3" in versions, "a package in the digest of the code"
    assert "numpy 2.3.1 and 9.8.7" in versions, "9.8.7 is the one that the corpus is made of"
    assert "abcdef0123456789" in versions
    settings = "".join(Page(html[html.index('id="settings"') :]).seen)
    study = yaml.safe_load(settings[settings.index("study: fab") :])
    assert load_plan(study, "the report's settings").run_keys() == reported.run_keys


def test_figures_have_their_numbers_and_the_colors_of_the_page(html):
    links = re.findall(r'<a download="([^"]*)" href="(data:text/csv[^"]*)"', html)
    assert len({name for name, _ in links}) == len(links) == html.count('<figure class="plot">')
    embedded = unquote(unescape(dict(links)["learning_rate-rates.csv"].partition(",")[2]))
    assert embedded == draw(FIGURES["rates"], Palette()).csv
    plots = html[html.index("<main>") :]
    assert "#0067a8" not in plots and "var(--blue)" in plots and "currentColor" in plots


def test_cards_have_their_origin_and_rebuild_commands(html):
    text = Page(card_of(html, "layer_norm_ablation")).text
    assert "lmpipe clear-runs results/fabricated" in text
    table = "results/fabricated/experiments/layer_norm_ablation/table.csv"
    assert f"snakemake --cores 2 {table} --forcerun train --configfile results/fabricated/study.yaml" in text
    assert "train 12 0, 1, 2" in text, "jobs and seeds of a rule"
    assert "make_corpus 1" in text, "where the runs' tokens come from"


def test_page_is_reproducible_and_needs_no_records_and_no_handout(reported, monkeypatch):
    skip_drawing(monkeypatch)

    def build(results: Results) -> str:
        return write_fake_page(results, fake_findings(results), "again.html").read_text(encoding="utf-8")

    assert build(reported) == build(reported)
    plain = Results(reported.folder, reported.study.model_copy(update={"handout": "none"}), reported.run_keys)
    monkeypatch.setattr("lmpipe.report.page.records", lambda plan, without: [])
    html = build(plain)
    assert "These results have no record of provenance." in card_of(html, "learning_rate")
    assert html.index('id="chapter-other"') < html.index('id="chapter-training"'), "experiments come first"
    assert "CS336 assignment" not in html and '<ul class="index"' not in html


def test_time_of_a_study_leaves_out_pauses():
    first, second, later = (
        SimpleNamespace(outputs=(), start=start, end=end) for start, end in ((100, 110), (105, 115), (9000, 9005))
    )
    jobs = Lineage({"a/provenance.json": first, "b.provenance.json": second, "c": later}).timeline()
    assert [(path[0], start, end) for path, _, start, end in jobs] == [("a", 0, 10), ("b", 5, 15), ("c", 15, 20)]


def test_data_uri_keeps_the_text():
    text = 'run,loss\n"a,b",2.5\n#%&<>\'é␀\n'
    assert unquote(data_uri(text).partition(",")[2]) == text
    assert not set(data_uri(text)) & set("\"#<>'\n")


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


@pytest.mark.parametrize("text", ["word " * 500, "line\n" * 500, "\n" * 500, "long " * 40 + "\nline" * 20])
def test_a_shown_sample_is_cut_to_the_height_of_a_card(text):
    middle = len(text) // 50
    sample = MarkedText("model", [(text[:middle], "repeated"), (text[middle:], "")])
    shown = "".join(piece for piece, _ in cut_sample(sample).spans)
    assert shown.endswith(" …") and text.startswith(shown.removesuffix(" …"))
    lines = shown.removesuffix(" …").split("\n")
    assert sum(max(1, -(-len(line) // SAMPLE_LINE_CHARACTERS)) for line in lines) <= MAX_SAMPLE_LINES


def test_a_short_sample_is_shown_whole():
    sample = MarkedText("model", [("Once upon a time\n", ""), ("there was", "repeated")])
    assert cut_sample(sample) == sample
