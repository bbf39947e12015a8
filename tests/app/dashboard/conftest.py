"""The pages, and Debian's chromium to look at them with."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.app.resources import add_dataset

CHROMIUM = shutil.which("chromium")


@pytest.fixture
def store() -> str:
    """Pages do not care which database there is: the tests of the API run on both."""
    return ""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One for the tests of a file; each has a context of its own. Not for longer: while it lives so does an event loop,
    in which other tests could not start theirs."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page at 1440 × 900, whose scripts have run once it is there. The test fails when one of them does, or when the
    page's policy had to stop something."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page, told = context.new_page(), []
    page.goto = _with_scripts(page)
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("console", lambda message: told.append(message.text) if message.type == "error" else None)
    yield page
    context.close()
    assert [text for text in told if not text.startswith("Failed to load resource")] == []


def _with_scripts(page: Any) -> Callable[[str], Any]:
    """They come after the first paint (static/start.js), which a test would be too quick for."""
    goto = page.goto

    def goto_and_wait(url: str) -> Any:
        answer = goto(url)
        page.wait_for_selector("html[data-scripts=here]", state="attached")
        return answer

    return goto_and_wait


@pytest.fixture
def many(client: TestClient) -> dict[str, Any]:
    """120 rows: three pages of fifty, the last one short."""
    rows = [{"text": f"row number {n}", "tags": {"odd": n % 2}, "label": "l" * (n % 3 + 1)} for n in range(120)]
    return add_dataset(client, rows)
