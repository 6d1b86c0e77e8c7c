"""The report in a real browser: no requests, no errors, readable on a phone, usable by keyboard."""

from contextlib import ExitStack
from itertools import pairwise

import pytest

from lmpipe.analysis.finding import Finding, Findings, Table, Text
from lmpipe.analysis.problems.registry import analyze_all, complete_finding
from lmpipe.planning.plan import load_plan
from lmpipe.report.page import draw_plots, write_page
from lmpipe.report.plots.experiment import plot_experiment
from tests.support.browser import check_page, opened
from tests.support.fake_results import EXPERIMENTS, fabricate_records, fabricate_study

HOSTILE = 'A story.</blockquote><script>console.error("x")</script> \x00\x1b ' + "long" * 300
# Visible texts whose contrast with their background (WCAG 2.2, 1.4.3) is below 4.5.
PALE_TEXTS = """
(() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = numbers(colour).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (numbers(colour)[3] !== 0) return colour;
    }
  };
  const pale = new Set();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !element.checkVisibility() || element.closest("script")) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(element.ownerSVGElement ? style.fill : style.color), light(behind(element))].sort();
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) pale.add(`${element.localName}.${element.className.baseVal ?? element.className} ${contrast}`);
  }
  return [...pale];
})()
"""
SHOWN = ("learning_rate", "layer_norm_ablation", "no_pos_emb", "main_experiment", "vocabulary")
SORTED = "[...document.querySelectorAll('table.sortable')].pop().tBodies[0].innerText.split(/\\s+/)"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Return a report with sweeps, diverged runs, absent problems, and texts and tables that try to break it."""
    results = fabricate_study(tmp_path_factory.mktemp("shown"), {name: EXPERIMENTS[name] for name in SHOWN})
    for experiment in results.experiments():
        plot_experiment(experiment, results.folder / "experiments" / experiment.name)
    findings = dict(analyze_all(results).problems)
    wide = Table("Wide.", [f"column {index}" for index in range(13)], [["a value"] * 12 + ["long" * 30]])
    sortable = Table("To sort.", ["loss"], [[10.5], [None], [-3.0], [9.25]], "it diverged")
    texts = [Text("Sample", HOSTILE, "prose"), Text("Code", "x = 1  # " + "wide " * 80)]
    hostile = Finding("partial", sentences=["It is `" + "long" * 60 + "`."], texts=texts, tables=[wide, sortable])
    findings["hostile"] = complete_finding("hostile", "Words that <b>break</b> pages", "Do they?", hostile, results)
    findings = Findings(study="fabricated", problems=findings)
    fabricate_records(results)
    path, plan = results.folder / "report.html", load_plan(results.study, "the study")
    write_page(path, plan, results, findings, draw_plots(findings, results.folder))
    return path


@pytest.fixture
def view(browser, report):
    """Open the report at a width and in a colour scheme."""
    with ExitStack() as stack:
        yield lambda width=1280, scheme="light": stack.enter_context(opened(browser, report, width, scheme))


@pytest.fixture(scope="module")
def page(browser, report):
    """Yield the report on a screen, for tests that expect no fresh page."""
    with opened(browser, report) as page:
        yield page


def open_details(page, is_open=True):
    page.evaluate(f"document.querySelectorAll('details').forEach((one) => one.open = {str(is_open).lower()})")


def test_report_has_no_problem_at_any_width(browser, report):
    assert check_page(browser, report) == []


@pytest.mark.parametrize(("scheme", "background"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 26)")])
def test_texts_contrast_with_their_background(view, scheme, background):
    page = view(scheme=scheme)
    open_details(page)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == background
    assert page.evaluate(PALE_TEXTS) == []


def test_letters_in_plots_are_readable_on_a_phone(view):
    sizes = view(360).evaluate(
        "[...document.querySelectorAll('svg text')].map((text) =>"
        " parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a)"
    )
    assert len(sizes) > 100
    assert min(sizes) >= 9.5


def test_texts_of_plots_stay_inside(view):
    outside = """
    [...document.querySelectorAll("svg text")].filter((text) => {
      const [word, plot] = [text.getBoundingClientRect(), text.ownerSVGElement.getBoundingClientRect()];
      return word.left < plot.left - 1 || word.right > plot.right + 1;
    }).map((text) => text.textContent)
    """
    assert view(800).evaluate(outside) == []


def test_headings_and_landmarks_are_in_order(page):
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map((one) => Number(one.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert [page.locator(name).count() for name in ("header", "nav", "main")] == [1, 1, 1]
    assert page.evaluate("document.documentElement.lang") == "en"
    nameless = "[...document.querySelectorAll('a, button, summary, section, svg')].filter((one) =>"
    nameless += " !one.textContent.trim() && !one.getAttribute('aria-label')).length"
    assert page.evaluate(nameless) == 0


def test_tables_sort_by_keyboard_and_click_with_dashes_last(page):
    assert page.evaluate(SORTED) == ["10.5", "–", "−3", "9.25"]
    button = page.locator("table.sortable button").last
    button.focus()
    page.keyboard.press("Enter")
    assert page.evaluate(SORTED) == ["−3", "9.25", "10.5", "–"]
    page.keyboard.press("Space")
    assert page.evaluate(SORTED) == ["10.5", "9.25", "−3", "–"]
    assert page.evaluate("document.activeElement.parentElement.getAttribute('aria-sort')") == "descending"
    button.click()
    assert page.evaluate(SORTED) == ["−3", "9.25", "10.5", "–"]


def test_keyboard_reaches_the_results_first_and_focus_is_visible(view):
    page = view()
    stops = []
    for _ in range(6):
        page.keyboard.press("Tab")
        stops.append(
            page.evaluate("[document.activeElement.hash, getComputedStyle(document.activeElement).outlineStyle]")
        )
    assert stops[0] == ["#summary", "solid"]
    assert all(outline == "solid" for _, outline in stops)


def test_only_boxes_that_scroll_are_keyboard_stops(view):
    page = view(360)
    boxes = "[...document.querySelectorAll('.scroll')].filter((one) => one.checkVisibility())"
    wide = "(one.scrollWidth > one.clientWidth || one.scrollHeight > one.clientHeight)"
    for is_open in (False, True):
        open_details(page, is_open)
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert page.evaluate(f"{boxes}.every((one) => {wide} === (one.tabIndex === 0))") is True
        assert page.evaluate(f"{boxes}.some((one) => {wide})") is True


def test_contents_are_folded_on_a_phone_and_close_when_used(view):
    page = view(360)
    is_open = "document.querySelector('nav details').open"
    assert page.evaluate(is_open) is False
    page.locator("nav summary").click()
    page.locator('nav a[href="#main_experiment"]').click()
    assert page.evaluate(is_open) is False
    top = page.evaluate("document.querySelector('#main_experiment').getBoundingClientRect().top")
    assert 0 <= top < 200


def test_print_opens_everything_and_cuts_nothing(view):
    page = view(700)
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    closed = "[...document.querySelectorAll('details:not(.data)')].filter((one) => !one.open).length"
    assert page.evaluate(closed) == 0
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert page.evaluate("document.documentElement.scrollWidth") <= 700
    assert page.pdf(format="A4").startswith(b"%PDF")
