"""What only a browser can show: a build that moves, rows that are swapped in, ticking and downloading."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import whence_client
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.live import serving

pytestmark = pytest.mark.browser

ROWS = [{"id": f"r{n}", "text": "word " * (n + 1), "tags": {"odd": n % 2}} for n in range(60)]


@dataclass(frozen=True)
class Stage:
    url: str
    engine: FakeEngine
    model: str
    dataset: str
    client: whence_client.Whence


@pytest.fixture
def stage(tmp_path: Path, model_dir: Path) -> Iterator[Stage]:
    rows, engine = tmp_path / "rows.jsonl", FakeEngine()
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with serving(make_settings(tmp_path), engine) as url, whence_client.Whence(url) as client:
        model, dataset = client.models.create("bot", base=model_dir), client.datasets.upload(rows)
        yield Stage(url, engine, model.id, dataset.id, client)


def test_a_build_is_chosen_estimated_and_followed_to_its_end(page: Any, stage: Stage) -> None:
    stage.engine.step_seconds = 0.05
    page.goto(f"{stage.url}/ui/indexes/new")
    page.get_by_label("Method", exact=True).select_option("repsim")
    page.get_by_label("layer").wait_for()
    page.get_by_label("Name").fill("kept")
    page.get_by_role("button", name="Estimate first").click()
    page.get_by_role("heading", name="What it would take").wait_for()
    assert page.get_by_label("Name").input_value() == "kept"
    assert page.get_by_label("Method", exact=True).input_value() == "repsim"
    page.get_by_role("button", name="Build", exact=True).click()
    page.wait_for_url("**/ui/indexes/idx_*")
    page.wait_for_function("() => document.querySelector('main progress').value > 5")
    assert "of 60 rows" in page.locator("[data-live=count]").inner_text()
    page.locator("main .state-ready").first.wait_for(timeout=20_000)
    assert page.get_by_role("link", name="Odd and mislabelled rows").is_visible()


def test_rows_are_swapped_in_and_the_way_back_leads_back(page: Any, stage: Stage) -> None:
    page.goto(f"{stage.url}/ui/datasets/{stage.dataset}")
    page.evaluate("() => { window.same = true }")
    page.get_by_role("link", name="Later rows").click()
    page.locator("#rows code", has_text="r55").wait_for()
    assert page.url.endswith("?start=50")
    page.get_by_role("link", name="Earlier rows").click()
    page.locator("#rows code", has_text="r49").wait_for()
    page.get_by_label("Tag").fill("odd=1")
    page.get_by_label("Tag").press("Enter")
    page.get_by_role("heading", name="Rows that match").wait_for()
    assert page.locator("#rows li").count() == 30
    assert page.evaluate("() => window.same")  # the page itself was not loaded again
    page.go_back()
    page.locator("#rows code", has_text="r48").wait_for()


def test_all_rows_of_a_page_are_ticked_by_keyboard_and_taken_away(page: Any, stage: Stage, tmp_path: Path) -> None:
    index = stage.client.indexes.build(model=stage.model, dataset=stage.dataset)
    stage.client.jobs.wait(index.job_id or "")
    page.goto(f"{stage.url}/ui/indexes/{index.id}/self-influence")
    page.get_by_label("Tick all rows of this page").press("Space")
    page.get_by_label("Row r59", exact=True).press("Space")
    assert page.locator("[data-ticked]").inner_text() == "49 ticked"
    page.get_by_label("Ticked rows").select_option("jsonl")
    with page.expect_download() as download:
        page.locator("#chosen").get_by_role("button", name="Export").press("Enter")
    download.value.save_as(tmp_path / "odd.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "odd.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"r{n}" for n in range(58, 9, -1)]


def test_a_file_that_is_too_large_is_told_before_it_is_sent(page: Any, stage: Stage, tmp_path: Path) -> None:
    page.goto(f"{stage.url}/ui/datasets/new")
    page.locator("#file").evaluate("field => { field.dataset.maxBytes = 10 }")
    (tmp_path / "big.jsonl").write_text("x" * 100)
    page.locator("#file").set_input_files(tmp_path / "big.jsonl")
    assert "at most" in page.locator("#file").evaluate("field => field.validationMessage")
