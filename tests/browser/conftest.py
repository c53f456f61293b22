"""A real browser for pages that are really served: Chromium where it is installed, skipped with the reason elsewhere.

A page that writes an error to the console, or asks any other host for anything, fails its test. Every test leaves a picture of
its page, and :func:`shot` takes more, in the folder that ``CIRCUITS_SCREENSHOTS`` names (else a temporary one).
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    import dash
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request
    from werkzeug.serving import BaseWSGIServer

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OWN = ("127.0.0.1", "localhost")


@dataclass
class Watched:
    """What went wrong in a page. A test that expects something takes it out of the list.

    Attributes:
        errors: written to the console, or thrown.
        foreign: addresses of other hosts that were asked for.
    """

    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname not in OWN:
            self.foreign.append(request.url)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's program."""
    pytest.importorskip("playwright", reason="playwright is not installed: pip install 'emotion-circuits[dev]'")
    found = next((path for path in map(shutil.which, PROGRAMS) if path), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(PROGRAMS)} is on the path")
    return found


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of pictures."""
    named = os.environ.get("CIRCUITS_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """One browser for a file of tests: beyond it, the loop of its library would be in the way of other tests."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as library:
        # A container has no user namespaces for the sandbox, and a name that is no address of this machine leads nowhere.
        words = ["--no-sandbox", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        found = library.chromium.launch(executable_path=chromium, args=words)
        yield found
        found.close()


@pytest.fixture
def watched() -> Watched:
    """What the page of :func:`browser_page` does wrong."""
    return Watched()


@pytest.fixture
def browser_page(
    browser: Browser, watched: Watched, screenshots: Path, request: pytest.FixtureRequest
) -> Iterator[Page]:
    """A fresh page, watched; the test fails with what it did wrong."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    try:
        page = context.new_page()
        page.on("console", watched.console)
        page.on("pageerror", lambda error: watched.errors.append(str(error)))
        context.on("request", watched.request)
        yield page
        if not page.is_closed():
            page.screenshot(path=screenshots / f"{_file_name(request.node.name)}.png")
    finally:
        context.close()
    assert (watched.errors, watched.foreign) == ([], [])


@pytest.fixture
def shot(browser_page: Page, screenshots: Path, request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """Take a picture of the page now; the path of the file."""

    def take(name: str) -> Path:
        path = screenshots / f"{_file_name(request.node.name)}-{_file_name(name)}.png"
        browser_page.screenshot(path=path, full_page=True)
        return path

    return take


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "_", text)[:120]


@contextmanager
def running(server: BaseWSGIServer) -> Iterator[str]:
    """The address of a server that answers until the block ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}/"
    finally:
        server.shutdown()
        thread.join()


@contextmanager
def served(app: dash.Dash) -> Iterator[str]:
    """The address of an app that is served as the user's is, until the block ends."""
    from circuits.show.explore.serving import server_of

    with running(server_of(app, 0)) as address:
        yield address


@pytest.fixture(scope="module")
def serve() -> Callable[[dash.Dash], object]:
    """:func:`served`, for tests: ``with serve(app) as address``."""
    return served
