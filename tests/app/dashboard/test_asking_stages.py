"""What the model says, shown before the rows that made it say so; and the form of a question there and back."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.dashboard.asking import routes
from app.dashboard.asking.forms import AskForm, form_of, question_of
from app.errors import InvalidRequest
from engine.errors import ContextOverflow, QueueFull
from tests.app.conftest import wait_for
from tests.app.dashboard.asked import HTMX, Asked, ready_to_ask
from tests.app.fakes import FakeEngine

SAID = " generated answer"  # by the fake engine


@pytest.fixture
def ready(client: TestClient, model_dir: Path) -> Asked:
    return ready_to_ask(client, model_dir)


def hidden_fields(text: str) -> dict[str, str]:
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', text)
    return {name: html.unescape(value) for name, value in found}


def calls(engine: FakeEngine) -> list[str]:
    return [name for name, _ in engine.calls if name.startswith("submit_")]


def test_the_text_comes_first_and_asks_for_its_rows_by_itself(
    client: TestClient, ready: Asked, engine: FakeEngine
) -> None:
    first = client.post("/ui/ask", data=ready.form(completion="", method="bm25"), headers=HTMX)
    assert SAID in first.text and "fact-1" not in first.text
    assert "HX-Push-Url" not in first.headers
    assert re.search(r'hx-post="/ui/ask" hx-trigger="load"', first.text)
    assert calls(engine) == ["submit_generation"]
    second = client.post("/ui/ask", data=hidden_fields(first.text), headers=HTMX)
    assert "fact-1" in second.text and "bm25 ·" in second.text
    assert second.headers["HX-Push-Url"].startswith("/ui/attributions/att_")
    (asked,) = [arguments[3] for name, arguments in engine.calls if name == "submit_attribution"]
    assert asked.generate is not None and asked.completion is None


def test_an_answer_that_is_stored_comes_at_once(client: TestClient, ready: Asked, engine: FakeEngine) -> None:
    """And it is the answer that a page without scripts got, by one request."""
    stored = ready.answer(client, completion="")
    assert calls(engine) == ["submit_attribution"]
    again = client.post("/ui/ask", data=ready.form(completion=""), headers=HTMX)
    assert again.headers["HX-Push-Url"] == f"/ui/attributions/{stored}"
    assert calls(engine) == ["submit_attribution"]


def test_a_text_that_is_long_in_coming_is_left_to_the_job(
    client: TestClient, ready: Asked, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "WAIT_SECONDS", 0.05)
    engine.gate.clear()
    waiting = client.post("/ui/ask", data=ready.form(completion=""), headers=HTMX)
    assert "Still computing" in waiting.text
    engine.gate.set()
    address = waiting.headers["HX-Push-Url"]
    wait_for(lambda: SAID in client.get(address, headers=HTMX).text, "the answer")


def test_generate_fills_the_output_in(client: TestClient, ready: Asked, engine: FakeEngine) -> None:
    form = ready.form(completion=" old", span_start="0", span_end="4", contrast=" other", max_new_tokens="7")
    field = client.post("/ui/ask/generate", data=form, headers=HTMX)
    assert f"{SAID}</textarea>" in field.text and "<html" not in field.text
    assert "This is what the model says" in field.text
    page = client.post("/ui/ask/generate", data=form)
    assert "<html" in page.text and f"{SAID}</textarea>" in page.text
    assert " other</textarea>" in page.text
    assert 'name="span_start" type="number" min="0" value=""' in page.text  # they were characters of the old output
    (arguments, _) = [arguments for name, arguments in engine.calls if name == "submit_generation"]
    assert arguments[1].generate.max_new_tokens == 7 and arguments[1].span is None
    assert engine.groups[-1] == "default"


@pytest.mark.parametrize(
    ("method", "error", "status", "told"),
    [
        ("submit_generation", QueueFull("64 queries wait."), 429, "Retry after the stated time"),
        ("generation", ContextOverflow("The prompt takes 900 tokens."), 422, "The prompt takes 900 tokens."),
    ],
)
def test_what_cannot_be_generated_is_told_where_answers_are(
    client: TestClient, ready: Asked, engine: FakeEngine, method: str, error: Exception, status: int, told: str
) -> None:
    engine.errors[method] = error
    sent = client.post("/ui/ask/generate", data=ready.form(completion=" kept"), headers=HTMX)
    assert (sent.status_code, sent.headers["HX-Retarget"]) == (status, "#answer")
    assert told in sent.text
    page = client.post("/ui/ask/generate", data=ready.form(completion=" kept"))
    assert page.status_code == status and " kept</textarea>" in page.text


def test_a_model_that_takes_long_is_told_with_what_to_do(
    client: TestClient, ready: Asked, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "WAIT_SECONDS", 0.05)
    engine.gate.clear()
    sent = client.post("/ui/ask/generate", data=ready.form(), headers=HTMX)
    engine.gate.set()
    assert sent.status_code == 503
    assert "goes on as a job" in sent.text


FULL = AskForm(
    index="idx_a",
    prompt="Why?",
    completion=" Because 😀.",
    span_start="1",
    span_end="8",
    contrast=" No reason.",
    method="bm25",
    top_k="7",
    no_opponents="on",
    tokens="on",
    log_odds="on",
    group_by="source",
    tags="source=wiki\nlang=a=b",
    exclude_ids="one\ntwo words",
)


@pytest.mark.parametrize("form", [FULL, AskForm(index="idx_a", prompt="Why?", max_new_tokens="9")])
def test_a_stored_request_gives_the_form_back(form: AskForm) -> None:
    assert form_of(question_of(form).model_dump(mode="json"), None) == form


def test_the_folded_fields_are_told(client: TestClient, ready: Asked) -> None:
    page = client.get(f"/ui/attributions/{ready.answer(client, method='bm25', tags='task=facts')}").text
    assert "More <small>method bm25, some tags only</small>" in page


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"tags": "source"}, "/filter"),
        ({"tags": "=x"}, "/filter"),
        ({"span_start": "1"}, "/span"),
        ({"span_start": "-1", "span_end": "2"}, "/span"),
        ({"completion": "", "span_start": "0", "span_end": "2"}, "/span"),
        ({"completion": "", "max_new_tokens": "0"}, "/generate/max_new_tokens"),
        ({"completion": "", "max_new_tokens": "²"}, "/max_new_tokens"),
        ({"top_k": "9" * 30}, "/top_k"),
        ({"top_k": "0"}, "/top_k"),
    ],
)
def test_fields_that_mean_nothing_are_named(fields: dict[str, str], pointer: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        question_of(AskForm(index="idx_a", prompt="Why?", completion=" So.").model_copy(update=fields))
    assert [error.pointer for error in refused.value.errors] == [pointer]


def test_aliases_are_offered_and_answer(client: TestClient, ready: Asked) -> None:
    client.put("/v1/aliases/production", json={"index": ready.index})
    page = client.get("/ui").text
    assert '<option value="production" data-serves="ekfac bm25 length random"' in page
    sent = client.post("/ui/ask", data=ready.form(index="production"), headers=HTMX)
    assert sent.status_code == 200 and "fact-1" in sent.text


def test_an_index_that_does_not_serve_the_method_is_named(client: TestClient, ready: Asked) -> None:
    sent = client.post("/ui/ask", data=ready.form(method="kfac"), headers=HTMX)
    assert sent.status_code == 409
    assert "It serves: ekfac, bm25" in html.unescape(sent.text)
