"""The whole story in a browser: upload, register, build, ask, hover, export; and what of it needs no script."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.live import serving
from tests.app.resources import RECIPE, ROWS, jsonl

pytestmark = pytest.mark.browser

QUESTION, OUTPUT = "Where was Mira born?", " In Port Halvern."


@dataclass(frozen=True)
class Begun:
    """A server that has nothing yet, and what somebody would bring to it."""

    url: str
    rows: Path
    model: Path


@pytest.fixture
def begun(tmp_path: Path, model_dir: Path) -> Iterator[Begun]:
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(jsonl())
    with serving(make_settings(tmp_path), FakeEngine()) as url:
        yield Begun(url, rows, model_dir)


def press(page: Any, name: str) -> None:
    page.locator("main").get_by_role("button", name=name, exact=True).click()


def upload(page: Any, begun: Begun) -> None:
    page.goto(f"{begun.url}/ui/datasets/new")
    page.locator("#name").fill("train")
    page.get_by_label("File").set_input_files(begun.rows)
    press(page, "Upload")
    page.wait_for_url("**/ui/datasets/ds_*")
    assert "Where was Mira born?" in page.locator("main").inner_text()


def register(page: Any, begun: Begun) -> None:
    page.goto(f"{begun.url}/ui/models/new")
    page.locator("#name").fill("bot")
    page.locator("#base").fill(str(begun.model / "not-there"))
    press(page, "Register")
    wrong = page.locator("#base[aria-invalid=true]")
    assert wrong.input_value().endswith("not-there")  # what was typed is kept, and the field is marked
    page.locator("#base").fill(str(begun.model))
    page.locator("#recipe").fill(json.dumps(RECIPE))
    press(page, "Register")
    page.wait_for_url("**/ui/models/mdl_*")


def build(page: Any, begun: Begun) -> None:
    page.goto(f"{begun.url}/ui/indexes/new")
    press(page, "Build")
    page.wait_for_url("**/ui/indexes/idx_*")
    page.locator("main .state-ready").first.wait_for(timeout=20_000)


def ask(page: Any, begun: Begun) -> None:
    page.goto(f"{begun.url}/ui")
    page.get_by_label("Prompt").fill(QUESTION)
    page.get_by_label("Output to explain").fill(OUTPUT)
    page.locator("details.more > summary").click()
    page.get_by_label("Scores by output token").check()
    press(page, "Ask")
    page.wait_for_selector("#answer article")


def test_from_an_empty_server_to_an_exported_answer(begun: Begun, page: Any, tmp_path: Path) -> None:
    page.goto(f"{begun.url}/ui")
    assert page.locator("main a[href^='/ui/']").count() > 0  # an empty page leads on
    upload(page, begun)
    register(page, begun)
    build(page, begun)
    ask(page, begun)
    first = page.get_by_label("Proponents").get_by_role("listitem").first
    assert "born" in first.inner_text()
    first.hover()
    assert page.locator("#lit").inner_text().startswith("born: through")  # and the tokens it explains take its colours
    assert page.locator("#answer .token[class*='pro-']").count() > 0
    with page.expect_download() as download:
        page.locator("a[href$='rows.csv']").first.click()
    download.value.save_as(tmp_path / "rows.csv")
    exported = list(csv.DictReader((tmp_path / "rows.csv").open(newline="")))
    assert {row["example_id"] for row in exported} >= {"born", "sea"}
    permalink = page.url
    page.goto(f"{begun.url}/ui/attributions")
    page.get_by_role("link", name=QUESTION).first.click()
    page.wait_for_url(permalink)


def test_without_scripts_one_can_upload_build_ask_and_read(begun: Begun, browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    upload(page, begun)
    register(page, begun)
    page.goto(f"{begun.url}/ui/indexes/new")
    press(page, "Build")
    index = page.url
    for _ in range(50):
        page.goto(index)
        if page.locator("main .state-ready").count():
            break
    ask(page, begun)
    assert page.url.startswith(f"{begun.url}/ui/attributions/att_")
    text = page.locator("main").inner_text()
    assert all(told in text for told in ("born", "Proponents", "Opponents", "not prove"))
    assert all(str(row["prompt"]) in text for row in ROWS[:2])
    context.close()
