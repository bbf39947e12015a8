"""A check in the browser: from its cost to its drawn result, on a tiny model that is really trained again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import whence_client
from app.engine_client import LocalEngine
from engine.causal.train import train_lora
from engine.config import Lora, Training
from tests import factories
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.live import serving
from tests.app.resources import RECIPE, jsonl

pytestmark = pytest.mark.browser
ROWS = factories.sentences(16, seed=3, longest=3)
TRAINING = Training(epochs=1, batch_size=8, learning_rate=0.02, lora=Lora(rank=2, alpha=4), epsilon=1e-3)
PATIENCE_MS = 90_000  # training processes load torch first


@pytest.fixture
def real(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Address, and the id of an answer."""
    factories.save_base(tmp_path / "base", factories.llama(hidden=8, layers=1))
    train_lora(tmp_path / "base", list(factories.dataset(tmp_path / "data", ROWS)), tmp_path / "run", TRAINING)
    (tmp_path / "rows.jsonl").write_bytes(jsonl(ROWS))
    with serving(make_settings(tmp_path), LocalEngine(device="cpu")) as url, whence_client.Whence(url) as client:
        model = client.models.create("tiny", base=tmp_path / "base", adapter=tmp_path / "run" / "epoch-1")
        dataset = client.datasets.upload(tmp_path / "rows.jsonl")
        index = client.indexes.build(model=model.id, dataset=dataset.id, method="graddot")
        client.jobs.wait(index.job_id or "")
        yield url, client.ask(index=index.id, prompt=ROWS[3]["prompt"], completion=ROWS[3]["completion"], top_k=4).id


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_rows_are_left_out_from_the_page(real: tuple[str, str], page: Any) -> None:
    url, answer = real
    page.goto(f"{url}/ui/attributions/{answer}")
    page.get_by_label("Top rows", exact=True).fill("2")
    page.locator("form.verify summary").click()
    page.get_by_label("Random sets beside").fill("1")
    page.get_by_role("button", name="Show what it costs").click()
    page.get_by_text("12 retrainings").wait_for(timeout=PATIENCE_MS)
    page.evaluate("window.stayed = true")
    page.get_by_role("button", name="Start").click()
    page.locator("#checks progress").wait_for()
    drawn = page.locator("#checks figure[data-chart=bars]:has(canvas)")
    drawn.wait_for(timeout=PATIENCE_MS)
    assert page.evaluate("window.stayed"), "without a reload"
    said = page.locator("#checks").inner_text()
    assert "The output's log-probability" in said and "when the 2 top rows were left out" in said
    table = drawn.locator("tbody").text_content()
    for name in ("nothing", "top rows", "random rows", "BM25's rows"):
        assert name in table
    assert "Measured on this very answer." in page.locator(".answered [aria-label=Trust]").inner_text()


@pytest.fixture
def made_up(tmp_path: Path) -> Iterator[tuple[str, FakeEngine, str]]:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_bytes(jsonl())
    engine = FakeEngine()
    with serving(make_settings(tmp_path), engine) as url, whence_client.Whence(url) as client:
        model = client.models.create("bot", base=tmp_path / "model", recipe=RECIPE)
        dataset = client.datasets.upload(tmp_path / "rows.jsonl")
        index = client.indexes.build(model=model.id, dataset=dataset.id)
        client.jobs.wait(index.job_id or "")
        yield url, engine, client.ask(index=index.id, prompt="Where was Mira born?", completion=" There.", top_k=3).id


def test_a_check_is_cancelled_while_it_goes_on(made_up: tuple[str, FakeEngine, str], page: Any) -> None:
    url, engine, answer = made_up
    engine.gate.clear()
    page.goto(f"{url}/ui/attributions/{answer}")
    page.get_by_role("button", name="Show what it costs").click()
    page.get_by_role("button", name="Start").click()
    page.get_by_text("0 of 3 retrainings").wait_for()
    page.locator("#checks").get_by_role("button", name="Cancel").click()
    page.get_by_text("It was cancelled.").wait_for()
    engine.gate.set()
    page.goto(f"{url}/ui/attributions/{answer}")
    page.locator("#checks").get_by_role("button", name="Resume").click()
    page.goto(f"{url}/ui/attributions/{answer}")
    page.locator("#checks figure canvas").first.wait_for()


def test_a_refusal_is_shown_in_the_part_and_the_form_keeps_what_was_typed(
    made_up: tuple[str, FakeEngine, str], page: Any
) -> None:
    url, _, answer = made_up
    page.goto(f"{url}/ui/attributions/{answer}")
    page.get_by_label("What is tried").select_option("unlearn")
    page.locator("form.verify summary").click()
    page.get_by_label("Rows to unlearn").fill("nobody")
    page.get_by_role("button", name="Show what it costs").click()
    page.locator("#checks").get_by_text("No row has the id 'nobody'").first.wait_for()
    assert page.get_by_label("Rows to unlearn").input_value() == "nobody"
    assert page.get_by_label("What is tried").input_value() == "unlearn"
