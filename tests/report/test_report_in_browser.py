"""The report in a real browser: no requests, no errors, readable on a phone, usable by keyboard."""

import re
from contextlib import ExitStack
from functools import cache
from itertools import pairwise

import pytest

from tests.support.browser import VIEWS, opened, problems_of

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
SORTED = "[...document.querySelectorAll('[id$=hostile] table.sortable')].pop().tBodies[0].innerText.split(/\\s+/)"
MAX_HEIGHT, MAX_PRINTED_PAGES = 10_000, 15


@pytest.fixture(scope="module")
def report(reported):
    """Return a report with figures of every kind, absent problems, and texts and tables that try to break it."""
    return reported.folder / "report.html"


@pytest.fixture(scope="module")
def view(browser, report):
    """Show the report at a width and in a colour scheme, folded; it is opened once for each."""
    with ExitStack() as stack:
        pages = cache(lambda *view: stack.enter_context(opened(browser, report, *view)))

        def show(width=1440, scheme="light"):
            open_details(page := pages(width, scheme), False)
            return page

        yield show


@pytest.fixture
def page(view):
    """Show the report on a screen."""
    return view()


def open_details(page, is_open=True):
    page.evaluate(f"document.querySelectorAll('details').forEach((one) => one.open = {str(is_open).lower()})")


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_report_has_no_problem_at_any_width(view, width, scheme):
    assert problems_of(view(width, scheme)) == []


@pytest.mark.parametrize(("scheme", "background"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 26)")])
def test_texts_contrast_with_their_background(view, scheme, background):
    page = view(scheme=scheme)
    open_details(page)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == background
    assert page.evaluate(PALE_TEXTS) == []


def test_letters_in_plots_are_readable_on_a_phone(view):
    sizes = view(360).evaluate(
        "[...document.querySelectorAll('svg text')].filter((text) => text.checkVisibility()).map((text) =>"
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
    nameless += " !one.textContent.trim() && !one.ariaLabel && !one.closest('[aria-hidden]')).length"
    assert page.evaluate(nameless) == 0


def test_tables_sort_by_keyboard_and_click_with_dashes_last(page):
    page.evaluate("document.querySelectorAll('[id$=hostile] details').forEach((one) => one.open = true)")
    assert page.evaluate(SORTED) == ["10.5", "–", "−3", "9.25"]
    button = page.locator("[id$=hostile] table.sortable button").last
    button.focus()
    page.keyboard.press("Enter")
    assert page.evaluate(SORTED) == ["−3", "9.25", "10.5", "–"]
    page.keyboard.press("Space")
    assert page.evaluate(SORTED) == ["10.5", "9.25", "−3", "–"]
    assert page.evaluate("document.activeElement.parentElement.getAttribute('aria-sort')") == "descending"
    button.click()
    assert page.evaluate(SORTED) == ["−3", "9.25", "10.5", "–"]


def test_keyboard_reaches_the_results_first_and_focus_is_visible(browser, report):
    stops = []
    with opened(browser, report) as page:
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


def test_page_is_short_and_prints_on_few_pages(page):
    top = page.evaluate("document.querySelector('.chapter').getBoundingClientRect().top + scrollY")
    assert top <= 1.5 * 900, "the front page takes a screen and a half"
    assert page.evaluate("document.documentElement.scrollHeight") <= MAX_HEIGHT
    assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))) <= MAX_PRINTED_PAGES


@pytest.mark.parametrize(("width", "is_narrow"), [(360, True), (800, False)])
def test_a_phone_has_figures_of_its_own(view, width, is_narrow):
    visible = "[...document.querySelectorAll('.{}')].some((one) => one.checkVisibility())"
    page = view(width)
    assert page.evaluate(visible.format("narrow")) is is_narrow
    assert page.evaluate(visible.format("wide")) is not is_narrow


def test_links_of_the_index_lead_to_cards(page):
    page.locator(".index a").nth(3).click()
    assert 0 <= page.evaluate("document.querySelector(location.hash).getBoundingClientRect().top") < 300


def test_print_hides_what_is_folded_and_cuts_nothing(browser, report):
    sticky = "[...document.querySelectorAll('th')].filter((one) => getComputedStyle(one).position === 'sticky').length"
    with opened(browser, report, 700) as page:
        page.emulate_media(media="print")
        for element in ("nav", "details"):
            assert page.evaluate(f"getComputedStyle(document.querySelector('{element}')).display") == "none"
        open_details(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 701
        assert page.evaluate(sticky) == 0
