"""The report in a real browser: nothing is fetched or complained about, nothing runs off a phone, keys reach all."""

from itertools import pairwise

import pytest

from lmpipe.analysis.finding import Finding, Table, Text
from lmpipe.analysis.problems.registry import entry, find_all
from lmpipe.io.files import write_json
from lmpipe.report.page import build_report
from lmpipe.report.plots.experiment import plot_experiment
from tests.support.browser import Browser, check_page
from tests.support.fake_results import fabricate_records, fabricate_study

pytestmark = pytest.mark.slow
HOSTILE = 'A story.</blockquote><script>console.error("x")</script> \x00\x1b ' + "long" * 300
# Contrast of every text that can be seen with what lies behind it, by WCAG 2.2, 1.4.3; those below 4.5.
PALE_TEXTS = """
(() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = numbers(colour).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const box = one.closest("g")?.querySelector(":scope > rect");
      if (element.localName === "text" && box) return getComputedStyle(box).fill;
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
SORTED = "[...document.querySelectorAll('table.sortable')].pop().tBodies[0].innerText.split(/\\s+/)"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with sweeps, diverged runs, absent problems, and texts and tables that try to break it."""
    results = fabricate_study(tmp_path_factory.mktemp("shown"))
    for experiment in results.experiments():
        plot_experiment(experiment, results.folder / "experiments" / experiment.name)
    findings = find_all(results)
    wide = Table("Wide.", [f"column {index}" for index in range(13)], [["a value"] * 12 + ["long" * 30]])
    sortable = Table("To sort.", ["loss"], [[10.5], [None], [-3.0], [9.25]], "it diverged")
    texts = [Text("Sample", HOSTILE, "prose"), Text("Code", "x = 1  # " + "wide " * 80)]
    hostile = Finding("partial", sentences=["It is `" + "long" * 60 + "`."], texts=texts, tables=[wide, sortable])
    findings["hostile"] = entry("hostile", "Words that <b>break</b> pages", "Do they?", hostile, results)
    write_json(results.folder / "findings.json", {"problems": findings})
    fabricate_records(results)
    path = results.folder / "report.html"
    build_report(results.folder, results.folder / "findings.json", path, results.study)
    return path


def test_nothing_is_fetched_complained_about_or_cut_off_at_any_width(browser: Browser, report):
    assert check_page(browser, report) == []


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_stands_out_from_what_lies_behind_it(browser, report, dark):
    browser.open(report, dark=dark)
    browser.evaluate("document.querySelectorAll('details').forEach((one) => one.open = true)")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)"
    )
    assert browser.evaluate(PALE_TEXTS) == []


def test_letters_in_plots_can_be_read_on_a_phone(browser, report):
    browser.open(report, 360)
    sizes = browser.evaluate(
        "[...document.querySelectorAll('svg text')].map((text) =>"
        " parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a)"
    )
    assert len(sizes) > 100
    assert min(sizes) >= 9.5


def test_no_words_of_a_plot_run_off_its_edge(browser, report):
    browser.open(report, 800)
    cut = """
    [...document.querySelectorAll("svg text")].filter((text) => {
      const [word, plot] = [text.getBoundingClientRect(), text.ownerSVGElement.getBoundingClientRect()];
      return word.left < plot.left - 1 || word.right > plot.right + 1;
    }).map((text) => text.textContent)
    """
    assert browser.evaluate(cut) == []


def test_headings_and_landmarks_are_in_order(browser, report):
    browser.open(report)
    levels = browser.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map((one) => Number(one.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert (
        browser.evaluate("['header', 'nav', 'main'].map((name) => document.querySelectorAll(name).length)") == [1] * 3
    )
    assert browser.evaluate("document.documentElement.lang") == "en"
    nameless = "[...document.querySelectorAll('a, button, summary, section, svg')].filter((one) =>"
    nameless += " !one.textContent.trim() && !one.getAttribute('aria-label')).length"
    assert browser.evaluate(nameless) == 0


def test_tables_sort_by_keyboard_and_by_click_and_dashes_stay_last(browser, report):
    browser.open(report)
    assert browser.evaluate(SORTED) == ["10.5", "–", "−3", "9.25"]
    browser.evaluate("[...document.querySelectorAll('table.sortable button')].pop().focus()")
    browser.press("Enter", 13, "\r")
    assert browser.evaluate(SORTED) == ["−3", "9.25", "10.5", "–"]
    browser.press(" ", 32, " ")
    assert browser.evaluate(SORTED) == ["10.5", "9.25", "−3", "–"]
    assert browser.evaluate("document.activeElement.parentElement.getAttribute('aria-sort')") == "descending"
    browser.evaluate("document.activeElement.click()")
    assert browser.evaluate(SORTED) == ["−3", "9.25", "10.5", "–"]


def test_the_keyboard_reaches_the_results_first_and_what_has_the_focus_is_seen(browser, report):
    browser.open(report)
    seen = []
    for _ in range(6):
        browser.press("Tab", 9)
        seen.append(
            browser.evaluate("[document.activeElement.hash, getComputedStyle(document.activeElement).outlineStyle]")
        )
    assert seen[0] == ["#summary", "solid"]
    assert all(outline == "solid" for _, outline in seen)


def test_only_what_overflows_is_a_stop_of_the_keyboard(browser, report):
    browser.open(report, 360)
    boxes = "[...document.querySelectorAll('.scroll')].filter((one) => one.checkVisibility())"
    wide = "(one.scrollWidth > one.clientWidth || one.scrollHeight > one.clientHeight)"
    for opened in ("false", "true"):
        browser.evaluate(f"document.querySelectorAll('details').forEach((one) => one.open = {opened})")
        browser.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert browser.evaluate(f"{boxes}.every((one) => {wide} === (one.tabIndex === 0))") is True
        assert browser.evaluate(f"{boxes}.some((one) => {wide})") is True


def test_on_a_phone_the_contents_are_folded_and_close_when_used(browser, report):
    browser.open(report, 360)
    assert browser.evaluate("document.querySelector('nav details').open") is False
    browser.evaluate("document.querySelector('nav summary').click()")
    browser.evaluate("document.querySelector('nav a[href=\"#main_experiment\"]').click()")
    assert browser.evaluate("document.querySelector('nav details').open") is False
    top = browser.evaluate("document.querySelector('#main_experiment').getBoundingClientRect().top")
    assert 0 <= top < 200


def test_on_paper_everything_is_open_and_nothing_is_cut_off(browser, report):
    browser.open(report, 700)
    browser.call("Emulation.setEmulatedMedia", media="print")
    browser.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    try:
        closed = "[...document.querySelectorAll('details:not(.data)')].filter((one) => !one.open).length"
        assert browser.evaluate(closed) == 0
        assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
        assert browser.evaluate("document.documentElement.scrollWidth") <= 700
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")
    assert browser.pdf().startswith(b"%PDF")
