"""The checks of a report in a real browser: the system's Chromium, driven by Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, Request, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING_CHROMIUM = "no Chromium on this machine (apt-get install chromium)"
# Widths in CSS pixels (a phone, a tablet, a screen) with the colour scheme.
VIEWS = ((360, "light"), (800, "light"), (1440, "light"), (360, "dark"))
BROKEN_LINKS = (
    "[...document.links].map((a) => a.hash).filter((hash) => hash && !document.getElementById(hash.slice(1)))"
)
INVISIBLE_PLOTS = """
[...document.querySelectorAll("figure > div > svg")].filter((svg) => svg.checkVisibility()).filter((svg) => {
  const box = svg.getBoundingClientRect();
  return box.width < 200 || box.height < 60 || !svg.querySelector("path, rect") || !svg.ariaLabel;
}).map((svg) => svg.closest("section").id)
"""


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """Start Chromium without a window; a root user has no sandbox."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, path: Path, width: int = 1280, scheme: str = "light") -> Iterator[Page]:
    """Open a file in a new page; `page.problems` lists console messages, errors and requests."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, is_mobile=width < 600)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("request", lambda request: problems.extend(unexpected_url(request, path)))
    page.problems = problems
    page.goto(path.resolve().as_uri())
    try:
        yield page
    finally:
        page.close()


def unexpected_url(request: Request, path: Path) -> list[str]:
    """Return the address of a request for something outside the page."""
    is_own = request.url.startswith("data:") or request.url.partition("#")[0] == path.resolve().as_uri()
    return [] if is_own else [f"request: {request.url}"]


def problems_of(page: Page) -> list[str]:
    """Return the problems of a report in one view."""
    scroll_width = page.evaluate("document.documentElement.scrollWidth")
    return [
        *page.problems,
        *(f"broken link: {link}" for link in page.evaluate(BROKEN_LINKS)),
        *(f"invisible plot in {section}" for section in page.evaluate(INVISIBLE_PLOTS)),
        *([f"{scroll_width} px wide"] if scroll_width > page.viewport_size["width"] else []),
    ]
