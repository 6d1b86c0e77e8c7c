import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
import yaml

from lmpipe.analysis.results import Results
from lmpipe.planning.plan import load_plan
from lmpipe.report import prose
from lmpipe.report.appendix import timeline
from lmpipe.report.figure_views import inline_svg
from lmpipe.report.page import data_uri, helper_experiments
from lmpipe.report.plots.figures import draw
from lmpipe.report.plots.palette import Palette
from lmpipe.study.problems import PROBLEMS
from tests.support.fake_figures import FIGURES
from tests.support.fake_page import fake_findings, use_templates, write_fake_page
from tests.support.fake_results import EXPERIMENTS, fabricate_records, fabricate_study


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
def study(tmp_path_factory):
    """Yield a study with runs and records, whose findings the made-up templates describe."""
    experiments = {name: EXPERIMENTS[name] for name in ("learning_rate", "layer_norm_ablation", "vocabulary")}
    results = fabricate_study(tmp_path_factory.mktemp("reported"), experiments)
    fabricate_records(results)
    with pytest.MonkeyPatch.context() as patch:
        use_templates(tmp_path_factory.mktemp("templates"), patch)
        yield results
    prose.environment.cache_clear()


@pytest.fixture(scope="module")
def html(study) -> str:
    return built(study)


def built(study, name: str = "report.html") -> str:
    return write_fake_page(study, fake_findings(study), name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_anchors_are_unique_and_links_resolve(page):
    assert all(page.ids.count(name) == 1 for name in [*PROBLEMS, "adamwAccounting"])
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
    assert 'console.error("x")' in page.text
    assert "␀␛" in page.text
    assert "\x00" not in html
    assert "<code>a&lt;b</code>" in html
    assert "<b>break" not in html


def test_front_page_says_what_was_trained_in_which_time(page):
    assert "21 small transformers in 32 s" in page.text
    assert "Stanford CS336 assignment 1, spring 2026" in page.text
    assert "trained on stories and docs" in page.text
    assert "12.3 MB, 1,024 ids, stands for TinyStories" in page.text


def test_front_page_has_four_findings_from_two_chapters(html):
    front = html[html.index('<ul class="headlines">') : html.index('<div class="care">')]
    problems = re.findall(r'href="#(\w+)" class="more"', front)
    assert problems == ["learning_rate", "batch_size_experiment", "layer_norm_ablation", "no_pos_emb"]
    assert front.count("<svg") == 4 and "<text" not in front


def test_hero_has_generated_texts_and_is_not_in_a_card(html):
    assert html.index("After 20,000 tokens, loss 3.30") < html.index("After 1 M tokens") < html.index("Read with care")
    assert html.count('download="main_experiment-hero.csv"') == 1
    assert '<mark class="unknown">litle</mark>' in html


def test_index_names_the_problems_of_the_edition(html):
    index = html[html.index('<ul class="index"') : html.index('id="chapter-training"')]
    assert index.count("✓") == len(PROBLEMS) - 1
    assert '<li class="missing"><a href="#unicode1">' in index


def test_card_has_question_answer_figure_and_expectation(html):
    card = Page(card_of(html, "no_pos_emb")).text
    assert "Which setting of no_pos_emb is best?" in card
    assert "0.0141 is best , with a loss of 1.88" in card
    assert "Expected NoPE: higher, because position matters (paper, section 3)" in card
    assert "Found The difference is in the expected direction." in card


def test_missing_finding_has_its_reason(html):
    card = card_of(html, "unicode1")
    assert "The study has no corpus; add one to <code>corpora</code>." in card
    assert 'id="unicode2"' in card, "they share a card"


def test_all_but_answers_is_folded(html):
    unfolded = re.sub(r"<details.*?</details>", "", html, flags=re.S)
    assert "<table" not in unfolded
    assert "snakemake --cores 2 results" not in unfolded


def test_ablations_have_one_forest_plot(html):
    chapter = html[html.index('id="chapter-ablations"') : html.index('id="chapter-costs"')]
    assert "No position embedding costs the most: +0.95 nats per token" in chapter
    assert chapter.count('download="ablations-effects.csv"') == 1


def test_sweeps_of_others_and_the_log_are_in_the_appendix(study, html):
    assert helper_experiments(load_plan(study.study.model_dump(exclude_none=True), "x"), fake_findings(study)) == []
    assert html.index('id="appendix"') < html.index('id="experiment_log"')
    assert html.index('id="chapter-other"') < html.index('id="vocabulary"') < html.index('id="appendix"')


def test_appendix_has_environment_settings_and_derivations_once(html):
    assert html.count('id="appendix"') == 1
    appendix = Page(html[html.index('id="appendix"') :]).text
    for words in (
        "AMD EPYC, 2 cores, 25.8 GB of memory",
        "0123456789ab",
        "2.13.0",
        "max_lr:",
        "best_of: learning_rate",
    ):
        assert words in appendix
    assert "Derivation of the memory." in appendix
    assert "Derivation" not in html[: html.index('id="appendix"')]
    assert "<td><code>␣&lt;b&gt;</code></td>" in html


def test_versions_that_decide_numbers_are_in_the_appendix(html):
    rows = Page(html[html.index('id="environment"') : html.index('id="settings"')]).text
    assert "pydantic 2.14.3" in rows, "a package in the digest of the code"
    assert "numpy 2.3.1 and 9.8.7" in rows, "9.8.7 is the one that the corpus is made of"
    assert "abcdef0123456789" in rows


def test_settings_are_a_study_file_of_the_same_study(study, html):
    text = "".join(Page(html[html.index('id="settings"') :]).seen)
    study_text = yaml.safe_load(text[text.index("study: fab") :])
    assert load_plan(study_text, "the report's settings").run_keys() == study.run_keys


def card_of(html: str, problem: str) -> str:
    """Return the HTML of one card."""
    start = html.index(f'<article id="{problem}"')
    return html[start : html.index("</article>", start)]


def test_figures_have_their_numbers(html):
    links = re.findall(r'<a download="([^"]*)" href="(data:text/csv[^"]*)"', html)
    assert len({name for name, _ in links}) == len(links) == html.count('<figure class="plot">')
    embedded = unquote(unescape(dict(links)["learning_rate-rates.csv"].partition(",")[2]))
    assert embedded == draw(FIGURES["rates"], Palette()).csv


def test_cards_have_their_origin_and_rebuild_commands(html):
    text = Page(card_of(html, "layer_norm_ablation")).text
    assert "lmpipe clear-runs results/fabricated" in text
    table = "results/fabricated/experiments/layer_norm_ablation/table.csv"
    assert f"snakemake --cores 2 {table} --forcerun train --configfile results/fabricated/study.yaml" in text
    assert "train 12 0, 1, 2" in text, "jobs and seeds of a rule"
    assert "make_corpus 1" in text, "where the runs' tokens come from"


def test_records_of_provenance_are_optional(study):
    hidden = study.folder / "experiments/learning_rate/provenance.json"
    record = hidden.read_bytes()
    hidden.unlink()
    try:
        assert "These results have no record of provenance." in card_of(built(study, "less.html"), "learning_rate")
    finally:
        hidden.write_bytes(record)


def test_without_a_handout_experiments_come_first_and_no_index(study):
    plain = Results(study.folder, study.study.model_copy(update={"handout": "none"}), study.run_keys)
    html = write_fake_page(plain, fake_findings(plain), "plain.html").read_text(encoding="utf-8")
    assert html.index('id="chapter-other"') < html.index('id="chapter-training"')
    assert "CS336 assignment" not in html and '<ul class="index"' not in html


def test_time_of_a_study_leaves_out_pauses():
    first, second, later = (
        SimpleNamespace(rule="train", start=start, end=end) for start, end in ((100, 110), (105, 115), (9000, 9005))
    )
    spans = timeline(SimpleNamespace(jobs={"a/provenance.json": first, "b.provenance.json": second, "c": later}))
    assert [(span.label, span.start, span.end) for span in spans] == [("a", 0, 10), ("b", 5, 15), ("c", 15, 20)]


def test_data_uri_keeps_the_text():
    text = 'run,loss\n"a,b",2.5\n#%&<>\'é␀\n'
    assert unquote(data_uri(text).partition(",")[2]) == text
    assert not set(data_uri(text)) & set("\"#<>'\n")


def test_figures_take_the_colors_of_the_page(html):
    plots = html[html.index("<main>") :]
    assert "#0067a8" not in plots
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
