"""The page in a real browser: its policy lets its own script work, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import whence_client
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.live import serving

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]

ROWS = (
    '{"id": "fact", "prompt": "Where is the harbour?", "completion": " In Halvern."}\n'
    '{"id": "odd", "prompt": "<script>document.title=1", "completion": "<img src=x onerror=alert(2)>"}\n'
)


@pytest.fixture
def address(tmp_path: Path, model_dir: Path) -> Iterator[str]:
    """A service with one index ready."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text(ROWS)
    with serving(make_settings(tmp_path), FakeEngine()) as url, whence_client.Whence(url) as client:
        model, dataset = client.models.create("bot", base=model_dir), client.datasets.upload(rows)
        client.jobs.wait(client.indexes.build(model=model.id, dataset=dataset.id).job_id or "")
        yield url


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Any]:
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page()
        browser.close()


def test_a_question_is_answered_in_place(page: Any, address: str) -> None:
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.goto(f"{address}/ui")
    page.get_by_label("Prompt").fill("Where is the harbour?")
    page.get_by_label("Output to explain").fill(" In Halvern.")
    page.get_by_role("button", name="Ask").click()
    page.wait_for_selector("#answer article")
    assert page.get_by_label("Proponents").locator("code").all_inner_texts() == ["fact", "odd"]
    assert "/ui/attributions/att_" in page.url
    assert page.get_by_label("Recent answers").get_by_role("link").count() == 1
    assert page.title() == "Whence"
    assert told == []


def test_a_problem_is_shown_in_place(page: Any, address: str) -> None:
    page.goto(f"{address}/ui")
    page.get_by_label("Prompt").fill("x")
    page.get_by_label("Rows a list").evaluate("field => { field.max = 100000; field.value = 5000 }")
    page.get_by_role("button", name="Ask").click()
    page.wait_for_selector("#answer [role=alert]")
    assert "top_k is 5000" in page.get_by_role("alert").inner_text()
    assert page.get_by_label("Prompt").input_value() == "x"
