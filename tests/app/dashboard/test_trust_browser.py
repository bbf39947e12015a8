"""What needs a browser: jobs followed as they go on, charts drawn from their tables, a key copied."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import whence_client
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.live import serving
from tests.app.resources import RECIPE, jsonl

pytestmark = pytest.mark.browser
COLOURS = """figure => { const canvas = figure.querySelector('canvas');
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data, seen = {};
    for (let at = 0; at < pixels.length; at += 4)
        if (pixels[at + 3] === 255) { const one = pixels.slice(at, at + 3).join(); seen[one] = (seen[one] ?? 0) + 1; }
    return seen; }"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, FakeEngine, whence_client.Whence, str]]:
    """Address, engine, client, and a ready index."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_bytes(jsonl())
    engine = FakeEngine()
    with serving(make_settings(tmp_path), engine) as url, whence_client.Whence(url) as client:
        model = client.models.create("bot", base=tmp_path / "model", recipe=RECIPE)
        dataset = client.datasets.upload(tmp_path / "rows.jsonl")
        index = client.indexes.build(model=model.id, dataset=dataset.id)
        client.jobs.wait(index.job_id or "")
        yield url, engine, client, index.id


def test_an_evaluation_from_its_cost_to_its_charts(site: Any, page: Any) -> None:
    """All in the page: the form, the estimate, live progress, and the scorecard when it is there, without a reload."""
    url, engine, _, _ = site
    engine.gate.clear()
    page.goto(f"{url}/ui/evaluations/new")
    page.get_by_text("How much is measured").click()
    page.get_by_label("Random halves").fill("8")
    page.get_by_label("Top rows left out", exact=True).fill("1")
    page.get_by_role("button", name="Show what it costs").click()
    page.get_by_role("heading", name="8 retrainings").wait_for()
    page.get_by_role("button", name="Start").click()
    page.get_by_text("0 of 8 retrainings").wait_for()
    page.evaluate("window.stayed = true")
    engine.gate.set()
    page.get_by_role("heading", name="Can its rankings be believed?").wait_for()
    assert page.evaluate("window.stayed")
    bars = page.locator("figure[data-chart=bars]").first
    bars.locator("canvas").wait_for()
    assert "As a table" in bars.inner_text() and not bars.locator("table").is_visible()
    seen = bars.evaluate(COLOURS)
    assert seen.get("31,95,139", 0) > 500, "the index's own bar"
    assert seen.get("125,136,148", 0) > 500, "the controls, in another colour"
    assert page.locator("figure canvas").count() == page.locator("figure.chart").count() >= 7
    page.emulate_media(color_scheme="dark")
    assert bars.evaluate(COLOURS).get("127,187,230", 0) > 500, "redrawn in the colours of the dark"
    bars.locator("summary").click()
    assert bars.locator("table").is_visible()


def test_a_question_is_chosen_without_leaving_the_page(site: Any, page: Any) -> None:
    url, _, client, index = site
    made = client.evaluations.create(index=index, rows=3, leave_out_rows=1, half_subsets=4)
    client.jobs.wait(made.job_id or "")
    page.goto(f"{url}/ui/evaluations/{made.id}")
    page.locator("#composition-pairs canvas").wait_for()
    page.evaluate("document.querySelector('#composition-pairs').dataset.old = 1")
    page.locator("#composition-question").dispatch_event("change")
    page.locator("#composition-pairs:not([data-old]) canvas").wait_for()


def test_a_job_is_followed_and_cancelled(site: Any, page: Any) -> None:
    url, engine, client, index = site
    engine.gate.clear()
    made = client.evaluations.create(index=index, rows=2, leave_out_rows=1, half_subsets=100)
    page.goto(f"{url}/ui/jobs/{made.job_id}")
    page.get_by_text("0 of 100 retrainings").first.wait_for()
    engine.step_seconds = 0.02
    engine.gate.set()
    page.get_by_text(re.compile(r"^[1-9]\d* of 100 retrainings$")).first.wait_for()
    assert page.locator("progress").evaluate("bar => bar.value") > 0
    assert "left" in page.locator("[data-live=eta]").inner_text()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("It was cancelled.").wait_for()
    assert page.get_by_role("button", name="Resume").is_visible()


def test_a_key_can_be_copied(site: Any, page: Any) -> None:
    url, _, _, _ = site
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{url}/ui/keys")
    page.get_by_label("What it is for").fill("copied")
    page.get_by_role("button", name="Make the key").click()
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("whk_") and copied == page.locator("#key-text").input_value()
