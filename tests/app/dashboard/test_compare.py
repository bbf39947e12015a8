"""Two answers to one question, side by side."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from app.dashboard.asking import routes_compare
from app.dashboard.asking.comparing import comparison_view, spearman_of
from engine.errors import QueueFull
from tests.app.conftest import wait_for
from tests.app.dashboard.asked import HTMX, Asked, ready_to_ask
from tests.app.fakes import FakeEngine


@pytest.fixture
def ready(client: TestClient, model_dir: Path) -> Asked:
    return ready_to_ask(client, model_dir)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12))
def test_spearman_is_scipys(pairs: list[tuple[int, int]]) -> None:
    first, second = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    found = spearman_of(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(first, second)[0], abs=1e-9)


def test_one_question_by_two_methods(client: TestClient, ready: Asked, engine: FakeEngine) -> None:
    stored = ready.answer(client)
    form = ready.form(other_method="bm25")
    sent = client.post("/ui/compare", data=form, follow_redirects=False)
    assert sent.status_code == 303
    address = re.fullmatch(r"/ui/compare\?a=(att_\w+)&b=(att_\w+)", sent.headers["location"])
    assert address is not None and address[1] == stored  # not asked twice
    page = client.get(sent.headers["location"]).text
    assert re.findall(r'<section class="column" aria-label="(.*?)"', page) == ["First: ekfac", "Second: bm25"]
    assert "3 of the first 3 rows are the same (overlap@3 = 100%)." in page
    assert "both rank them much alike (Spearman +1.00). So few rows can come out so by chance." in page
    assert page.count('data-mark="for-1"') == 2
    assert "rank 1 by bm25" in page and "rank 1 by ekfac" in page
    assert page.count("Not measured yet") == 2
    assert 'href="/ui/attributions/' + stored in page


def test_the_form_is_filled_in_from_an_answer(client: TestClient, ready: Asked) -> None:
    stored = ready.answer(client, contrast=" Nowhere.", tags="task=facts")
    assert f'href="/ui/compare?answer={stored}"' in client.get(f"/ui/attributions/{stored}").text
    page = client.get(f"/ui/compare?answer={stored}").text
    assert "Where is the harbour?</textarea>" in page and " In Halvern.</textarea>" in page
    assert '<input type="hidden" name="contrast" value=" Nowhere.">' in page
    assert '<input type="hidden" name="tags" value="task=facts">' in page
    assert client.get("/ui/compare?answer=att_none").status_code == 404


def test_hostile_rows_are_text_here_too(client: TestClient, ready: Asked) -> None:
    page = client.post("/ui/compare", data=ready.form(prompt="<b>x</b>", other_method="bm25")).text
    assert "<script>alert" not in page and "<img src=x" not in page and "<b>x</b>" not in page
    assert html.escape("<img src=x onerror=alert(2)>") in page


def test_two_answers_about_different_things_are_said_to_be(client: TestClient, ready: Asked) -> None:
    first, second = ready.answer(client), ready.answer(client, completion=" Elsewhere.")
    assert "about different questions" in client.get(f"/ui/compare?a={first}&b={second}").text
    assert "about different questions" not in client.get(f"/ui/compare?a={first}&b={first}").text


def test_what_is_refused_is_told_on_the_form(client: TestClient, ready: Asked, engine: FakeEngine) -> None:
    engine.errors["submit_attribution"] = QueueFull("64 queries wait.")
    page = client.post("/ui/compare", data=ready.form(other_method="bm25"))
    assert page.status_code == 429 and "What to do:" in page.text
    assert "Where is the harbour?</textarea>" in page.text


def test_a_slow_one_is_waited_for(
    client: TestClient, ready: Asked, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes_compare, "WAIT_SECONDS", 0.0)
    engine.gate.clear()
    sent = client.post("/ui/compare", data=ready.form(other_method="bm25"), follow_redirects=False)
    address = sent.headers["location"]
    waiting = client.get(address).text
    assert "Still computing" in waiting and f'hx-get="{html.escape(address)}"' in waiting
    engine.gate.set()
    wait_for(lambda: "overlap@3" in client.get(address, headers=HTMX).text, "the comparison")
    assert "<html" not in client.get(address, headers=HTMX).text


def answer(attribution: str, *names: str) -> dict[str, Any]:
    hits = [
        {"example_id": name, "rank": rank, "position": rank, "score": 1.0 / rank, "percentile": 1.0, "tags": {}}
        | {"label": None, "prompt": None, "completion": None, "text": name, "predicted_effect": None}
        for rank, name in enumerate(names, start=1)
    ]
    trust = {"verdict": "unmeasured", "reason": "", "remedy": None, "reliability": None, "scorecard": None}
    trust |= {"scope": {"extrapolated": False, "reasons": []}}
    own = {"id": attribution, "created_at": attribution, "method": "m", "model": "mdl", "index": "idx", "signed": True}
    query = {"prompt": "p", "completion": "c"}
    return own | {"query": query, "trust": trust, "proponents": hits, "opponents": []}


@pytest.mark.parametrize(
    ("second", "overlap", "told"),
    [
        ("abcd", "4 of the first 4", "much alike (Spearman +1.00)"),
        ("dcba", "4 of the first 4", "the other way round (Spearman -1.00)"),
        ("bdac", "4 of the first 4", "little to do with each other (Spearman +0.00)"),
        ("adef", "2 of the first 4", "With 2 common rows, fewer than 3,"),
        ("xyzabcd", "1 of the first 4", "much alike"),
        ("", "names no row", ""),
    ],
)
def test_lists_are_compared_in_words(second: str, overlap: str, told: str) -> None:
    view = comparison_view(answer("1", *"abcd"), answer("2", *second))
    assert overlap in view.overlap_words
    assert told in view.spearman_words
    marks = [{row.hit.example_id: row.mark for row in column.proponents if row.mark} for column in view.columns]
    assert marks[0] == marks[1] and marks[0].keys() == set("abcd") & set(second)
    ranks = {name: rank for rank, name in enumerate(second, start=1)}
    assert [row.other for row in view.columns[0].proponents] == [ranks.get(name) for name in "abcd"]
