"""A small finished run of a model whose circuits are known, and headless Chromium, for the tests of what is shown."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from circuits.model.planted import Planted, planted
from circuits.runs.directory import Run
from circuits.settings import Settings
from circuits.walk import discover

SETTINGS = Settings(verify=2, random_circuits=2, alpha=0.04, patience=3)


_made: list[tuple[Planted, Run]] = []


def stored(factory: pytest.TempPathFactory) -> tuple[Planted, Run]:
    """A walk with settings that are not the defaults; one for all test files of a process."""
    if not _made:
        truth = planted("chain", noise=0.02)
        _made.append((truth, discover(truth.model, truth.prompts, SETTINGS, factory.mktemp("stored") / "run")))
    return _made[0]


class Watched:
    """What a page did that a page of ours must not do."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.dialogs: list[str] = []
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.refused: dict[str, str] = {}
        page.on("dialog", self._dialog)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None)
        page.on("request", lambda r: None if r.url.startswith("file:") else self.requests.append(r.url))
        page.on("requestfailed", lambda r: self.refused.update({r.url: r.failure}))

    def _dialog(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def open(self, file: Path) -> Any:
        """The page, when every figure is drawn."""
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("html[data-drawn]", state="attached", timeout=60_000)
        return self.page


@contextmanager
def chromium() -> Iterator[Any]:
    """Headless Chromium, or a skip that says what is missing."""
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("there is no chromium on this machine; install the system's package")
    with sync.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()
