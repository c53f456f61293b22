"""How long a page takes, as the page itself sees it: from the navigation, or from a change, until the graph is drawn.

The element ``graph`` carries ``data-ready="1"`` once what was asked for is on the screen. An observer in the page notes when;
nothing of the clock is between the browser and this process.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from circuits.errors import MeasurementError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["chromium", "clock", "first_paints", "opened"]

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_MOST = 120_000
"""Milliseconds after which a page is said not to come."""

_CLOCK = """
window.clock = { asked: null, ready: [] };
for (const kind of ["click", "input"])
    document.addEventListener(kind, () => { if (window.clock.asked === null) window.clock.asked = performance.now(); }, true);
new MutationObserver((changes) => {
    for (const change of changes)
        if (change.target.id === "graph" && change.target.dataset.ready === "1") window.clock.ready.push(performance.now());
}).observe(document, { subtree: true, attributes: true, attributeFilter: ["data-ready"] });
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser.

    Raises:
        MeasurementError: neither the browser nor its library is installed.
    """
    program = next((path for path in map(shutil.which, _PROGRAMS) if path), None)
    if program is None:
        raise MeasurementError(f"no browser: none of {', '.join(_PROGRAMS)} is on the path; install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        raise MeasurementError("playwright is not installed: pip install 'emotion-circuits[dev]'") from None
    with sync_playwright() as library:
        browser = library.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, address: str) -> Iterator[tuple[Page, float]]:
    """A page that is drawn, in a profile of its own (nothing is cached), and seconds from the navigation until it was.

    Raises:
        MeasurementError: it is not drawn.
    """
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    try:
        page = context.new_page()
        page.add_init_script(_CLOCK)
        page.goto(address)
        yield page, _ready(page)
    finally:
        context.close()


def first_paints(browser: Browser, address: str, repetitions: int) -> list[float]:
    """Seconds of several navigations."""
    seconds = []
    for _ in range(repetitions):
        with opened(browser, address) as (_, found):
            seconds.append(found)
    return seconds


def clock(page: Page, act: Callable[[], Any]) -> float:
    """Seconds from the first click or input of ``act`` until the graph is drawn anew.

    Raises:
        MeasurementError: it is not drawn.
    """
    page.evaluate("() => { window.clock.asked = null; window.clock.ready = []; }")
    act()
    ready = _ready(page)
    asked = page.evaluate("() => window.clock.asked")
    if asked is None:
        raise MeasurementError("nothing was clicked; the page's controls have changed")
    return ready - float(asked) / 1000


def _ready(page: Page) -> float:
    """When the graph was drawn last, in seconds of the page's clock, once it has been quiet for half a second."""
    from playwright.sync_api import Error

    try:
        page.wait_for_selector('#graph[data-ready="1"]', state="attached", timeout=_MOST)
        for _ in range(_MOST // 500):
            before = page.evaluate("() => window.clock.ready.length")
            page.wait_for_timeout(500)
            still = page.get_attribute("#graph", "data-ready") == "1"
            if before and still and page.evaluate("() => window.clock.ready.length") == before:
                return float(page.evaluate("() => window.clock.ready.at(-1)")) / 1000
    except Error as error:
        raise MeasurementError(f"the graph was not drawn: {error.message[:200]}") from None
    raise MeasurementError(f"the graph was not drawn within {_MOST / 1000:.0f} s")
