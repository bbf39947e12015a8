"""Asking and reading in a real browser: the page's policy lets its own scripts work, and nothing else."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import whence_client
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.live import serving

pytestmark = pytest.mark.browser

ROWS = (
    '{"id": "fact", "prompt": "Where is the harbour?", "completion": " In Halvern.", "tags": {"task": "facts"}}\n'
    '{"id": "far", "text": "Halvern. is far."}\n'
    '{"id": "odd", "prompt": "<script>document.title=1", "completion": "<img src=x onerror=alert(2)>"}\n'
)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def address(tmp_path: Path, model_dir: Path, engine: FakeEngine) -> Iterator[str]:
    """A service with one index ready."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text(ROWS)
    with serving(make_settings(tmp_path), engine) as url, whence_client.Whence(url) as client:
        model, dataset = client.models.create("bot", base=model_dir), client.datasets.upload(rows)
        client.jobs.wait(client.indexes.build(model=model.id, dataset=dataset.id).job_id or "")
        yield url


def fill(page: Any, address: str, output: str = " In Halvern.") -> None:
    page.goto(f"{address}/ui")
    page.get_by_label("Prompt").fill("Where is the harbour?")
    page.get_by_label("Output to explain").fill(output)


def ask(page: Any) -> None:
    page.get_by_role("button", name="Ask", exact=True).click()


def asked(engine: FakeEngine) -> Any:
    """The query that reached the engine last."""
    return [arguments[3] for name, arguments in engine.calls if name == "submit_attribution"][-1]


def test_a_question_is_answered_in_place(page: Any, address: str) -> None:
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    fill(page, address)
    ask(page)
    page.wait_for_selector("#answer article")
    assert page.get_by_label("Proponents").locator("code").all_inner_texts() == ["fact", "far", "odd"]
    assert "/ui/attributions/att_" in page.url
    assert page.get_by_label("Recent answers").get_by_role("link").count() == 1
    assert page.title() == "Whence"
    assert told == []


def test_a_problem_is_shown_in_place(page: Any, address: str) -> None:
    fill(page, address, "")
    page.get_by_label("Rows a list").evaluate("field => { field.max = 100000; field.value = 5000 }")
    ask(page)
    page.wait_for_selector("#answer [role=alert]")
    assert "top_k is 5000" in page.get_by_role("alert").inner_text()
    assert page.get_by_label("Prompt").input_value() == "Where is the harbour?"


def test_the_text_comes_first_then_its_rows(page: Any, address: str, engine: FakeEngine) -> None:
    fill(page, address, "")
    attribute, waits = engine._attribute, threading.Event()
    engine._attribute = lambda *arguments: waits.wait(30) and attribute(*arguments)  # type: ignore[method-assign]
    ask(page)
    page.wait_for_selector("#answer .stage")
    assert "generated answer" in page.locator("#answer .tokens").inner_text()
    assert page.locator("#answer .hits").count() == 0
    waits.set()
    page.wait_for_selector("#answer .hits")
    assert "/ui/attributions/att_" in page.url


def test_generate_fills_the_field_and_a_refusal_leaves_it(page: Any, address: str, engine: FakeEngine) -> None:
    from engine.errors import QueueFull

    fill(page, address, " old")
    engine.errors["submit_generation"] = QueueFull("64 queries wait.")
    page.get_by_role("button", name="Generate").click()
    page.wait_for_selector("#answer [role=alert]")
    assert page.get_by_label("Output to explain").input_value() == " old"
    del engine.errors["submit_generation"]
    page.get_by_role("button", name="Generate").click()
    page.wait_for_selector("#output [role=status]:has-text('what the model says')")
    assert page.get_by_label("Output to explain").input_value() == " generated answer"


def test_selected_words_are_asked_about_alone(page: Any, address: str, engine: FakeEngine) -> None:
    """By keyboard; and characters are counted as the engine counts them, one for an emoji."""
    fill(page, address, "😀 In Halvern.")
    take = page.get_by_role("button", name="Only the selected words")
    assert take.is_disabled()
    page.get_by_label("Output to explain").press("End")
    for _ in range(8):
        page.keyboard.press("Shift+ArrowLeft")
    take.click()
    assert page.locator("[data-span=shown]").inner_text().startswith("Asking about Halvern. alone")
    ask(page)
    page.wait_for_selector("#answer article")
    assert (asked(engine).span.start, asked(engine).span.end) == (5, 13)
    page.reload()
    assert page.locator("[data-span=shown] mark").inner_text() == "Halvern."
    page.get_by_label("Output to explain").press("End")
    page.keyboard.type("!")
    assert page.get_by_label("From").input_value() == ""


def scored(page: Any, address: str) -> None:
    fill(page, address)
    page.locator(".more > summary").click()
    page.get_by_label("Scores by output token").check()
    ask(page)
    page.wait_for_selector("#answer .token")


def test_a_token_lights_its_rows_and_a_row_its_tokens(page: Any, address: str) -> None:
    scored(page, address)
    lit, dim = page.locator("#lit"), page.locator(".hit.dim")
    classes = "all => all.map(one => [...one.classList].sort().join(' '))"
    before = page.locator(".token").evaluate_all(classes)
    page.locator(".token", has_text="In").hover()
    dimmed = dim.evaluate_all("all => all.map(one => one.dataset.id)")
    assert set(dimmed) == {"far"}  # the other rows have this word, or nothing of the output
    assert lit.inner_text().endswith("rows explain it: fact, fact, odd.") and "In:" in lit.inner_text()
    assert "this token +" in page.locator(".hit[data-id=fact] .score").first.inner_text()
    page.locator(".hit[data-id=far]").first.hover()
    shades = page.locator(".token").evaluate_all(
        "all => all.map(one => /(pro|con)-\\d/.exec(one.className)?.[0] ?? '')"
    )
    assert shades == ["", "con-8"]  # its score is negative
    assert lit.inner_text() == "far: through “Halvern.” 100%."
    page.mouse.move(0, 0)
    assert page.locator(".token").evaluate_all(classes) == before
    assert lit.inner_text() == "" and dim.count() == 0


def test_the_same_by_keyboard(page: Any, address: str, engine: FakeEngine) -> None:
    scored(page, address)
    first, second = page.locator(".token").all()
    first.focus()
    page.keyboard.press("ArrowRight")
    assert second.evaluate("one => one === document.activeElement")
    assert page.locator("#lit").inner_text().startswith("Halvern.:")
    page.keyboard.press("Enter")
    assert second.get_attribute("aria-pressed") == "true"
    page.locator(".hit[data-id=fact] .light").first.focus()
    assert page.locator("#lit").inner_text().startswith("Halvern.:")  # held
    page.keyboard.press("Escape")
    assert second.get_attribute("aria-pressed") == "false" and page.locator("#lit").inner_text() == ""
    page.locator(".hit[data-id=far] .light").first.press("Enter")
    assert page.locator("#lit").inner_text().startswith("far: through")
    page.keyboard.press("Escape")
    first.focus()
    page.keyboard.press("Shift+ArrowRight")
    only = page.get_by_role("button", name="Explain only")
    assert only.inner_text() == "Explain only “In Halvern.”"
    page.keyboard.press("Shift+ArrowLeft")
    assert only.inner_text() == "Explain only “In”"
    only.press("Enter")
    page.wait_for_function("() => document.getElementById('only')?.hidden")
    assert (asked(engine).span.start, asked(engine).span.end) == (1, 3)


def test_an_answer_is_copied(page: Any, address: str) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    fill(page, address)
    ask(page)
    page.wait_for_selector("#answer article")
    page.locator("summary", has_text="Python").click()
    for name, told in (("JSON", '"sign_convention"'), ("CSV", "side,rank,example_id"), ("Python", "whence_client")):
        page.get_by_role("button", name=f"Copy {name}").click()
        page.wait_for_selector(f"#copied:has-text('{name} copied.')")
        assert told in page.evaluate("navigator.clipboard.readText()")


def test_where_its_scripts_do_not_come_the_page_does_without(browser: Any, address: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.route(re.compile(r"htmx\.min\.js|charts\.js"), lambda route: route.abort())
    fill(page, address)
    ask(page)
    page.wait_for_url("**/ui/attributions/att_*")
    assert page.get_by_label("Proponents").locator("code").count() == 3
    page.wait_for_selector("html[data-scripts=here] figure.chart table")  # which no chart takes the place of
    context.close()


def test_without_scripts_everything_is_asked_and_read(browser: Any, address: str) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 390, "height": 844})
    page = context.new_page()
    fill(page, address, "")
    page.get_by_role("button", name="Generate").click()
    assert page.get_by_label("Output to explain").input_value() == " generated answer"
    page.locator(".span > summary").click()
    page.get_by_label("From").fill("1")
    page.get_by_label("to", exact=True).fill("10")
    ask(page)
    assert "/ui/attributions/att_" in page.url
    assert page.get_by_label("Proponents").locator("code").count() == 3
    assert page.locator("figure.chart table").is_visible()
    assert not page.get_by_role("button", name="Copy").first.is_visible()
    context.close()
