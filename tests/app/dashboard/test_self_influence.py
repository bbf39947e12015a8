"""/ui/indexes/{id}/self-influence: the fake engine scores a row by the length of its text."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.dashboard.browsing import page_self_influence
from tests.app.fakes import FakeEngine
from tests.app.resources import add_dataset, add_index, add_model, assert_problem, wait_for_index

ROWS: list[dict[str, Any]] = [
    {"id": f"r{n}", "text": "x" * (n + 1), "tags": {"odd": n % 2}, "label": "=1+1" if n == 59 else "plain"}
    for n in range(60)
]


@pytest.fixture
def index(client: TestClient, model_dir: Path) -> dict[str, Any]:
    dataset, model = add_dataset(client, ROWS), add_model(client, model_dir)
    return wait_for_index(client, add_index(client, model["id"], dataset["id"])["id"])


@pytest.fixture
def address(index: dict[str, Any]) -> str:
    return f"/ui/indexes/{index['id']}/self-influence"


def ranks(page: str) -> list[tuple[int, str]]:
    found = re.findall(r'aria-label="Row (\w+)"></td>\s*<td class="number">(\d+)</td>', page)
    return [(int(rank), row_id) for row_id, rank in found]


def test_the_oddest_rows_come_first_and_the_pages_go_on(client: TestClient, address: str) -> None:
    first = client.get(address).text
    assert ranks(first) == [(rank, f"r{60 - rank}") for rank in range(1, 51)]
    assert f'rel="next" href="{address}?start=50"' in first and 'rel="prev"' not in first
    second = client.get(f"{address}?start=50").text
    assert ranks(second) == [(rank, f"r{60 - rank}") for rank in range(51, 61)]
    assert 'rel="next"' not in second and f'rel="prev" href="{address}"' in second
    assert ranks(client.get(f"{address}?order=asc").text)[:2] == [(1, "r0"), (2, "r1")]


def test_a_filter_keeps_the_ranks_among_all_rows(client: TestClient, address: str) -> None:
    page = client.get(address, params={"tag": "odd=0"}).text
    assert ranks(page)[:3] == [(2, "r58"), (4, "r56"), (6, "r54")]
    assert ranks(client.get(address, params={"label": "=1+1"}).text) == [(1, "r59")]
    refused = client.get(address, params={"tag": "odd"})
    assert refused.status_code == 422 and 'id="tag-error"' in refused.text


def test_an_alias_will_do(client: TestClient, index: dict[str, Any]) -> None:
    assert client.put("/v1/aliases/prod", json={"index": index["id"]}).status_code == 201
    assert len(ranks(client.get("/ui/indexes/prod/self-influence").text)) == 50
    assert client.get("/ui/indexes/prod").status_code == 200


def test_ticked_rows_are_exported_whole_without_a_script(client: TestClient, address: str) -> None:
    """The form's own fields: what a browser without scripts sends."""
    page = client.get(address).text
    action = re.search(r'<form method="get" action="([^"]+)" id="chosen">', page)
    assert action is not None
    positions = re.findall(r'type="checkbox" name="row" value="(\d+)"', page)[:3]
    file = client.get(action[1], params={"row": positions, "format": "jsonl"})
    assert file.headers["content-disposition"].startswith("attachment; filename=")
    expected = [json.loads(json.dumps(ROWS[int(at)] | {"tags": {"odd": str(int(at) % 2)}})) for at in positions]
    assert [json.loads(line) for line in file.text.splitlines()] == expected


def test_a_table_runs_nothing_in_a_spreadsheet(client: TestClient, address: str) -> None:
    file = client.get(f"{address}/export", params={"row": [59, 3], "format": "csv"})
    assert file.headers["content-type"].startswith("text/csv")
    lines = list(csv.reader(io.StringIO(file.text)))
    assert lines == [
        ["rank", "position", "id", "label", "self_influence"],
        ["1", "59", "r59", "'=1+1", "60.0"],
        ["57", "3", "r3", "plain", "4.0"],
    ]


def test_everything_above_a_rank_is_exported(client: TestClient, address: str) -> None:
    file = client.get(f"{address}/export", params={"first": 4, "format": "csv", "tag": "odd=1", "order": "asc"})
    assert [line[2] for line in csv.reader(io.StringIO(file.text))][1:] == ["r1", "r3", "r5", "r7"]
    whole = client.get(f"{address}/export", params={"first": 60})
    assert len(whole.text.splitlines()) == 60


@pytest.mark.parametrize("asked", [{}, {"row": 60}, {"row": -1}, {"first": 0}, {"first": 10**9}, {"format": "exe"}])
def test_an_export_of_nothing_or_too_much_is_refused(client: TestClient, address: str, asked: dict[str, Any]) -> None:
    answer = client.get(f"{address}/export", params=asked)
    assert answer.status_code == 422
    assert "What to do:" in answer.text
    assert "content-disposition" not in answer.headers


def test_more_rows_than_can_be_ticked_are_refused(
    client: TestClient, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_self_influence, "MOST_CHOSEN", 2)
    answer = client.get(f"{address}/export", params={"row": [1, 2, 3]})
    assert answer.status_code == 422 and "3 rows are ticked" in answer.text


def test_a_method_without_self_scores_says_so(client: TestClient, address: str, engine: FakeEngine) -> None:
    from engine.errors import InvalidOption

    engine.errors["self_influence"] = InvalidOption("bm25 compares a row's text.", remedy="Ask another index.")
    page = client.get(address)
    assert page.status_code == 422
    assert "bm25 compares a row's text." in html.unescape(page.text) and "Ask another index." in page.text


def test_an_index_that_is_not_ready_has_none(client: TestClient, model_dir: Path, engine: FakeEngine) -> None:
    engine.gate.clear()
    index = add_index(client, add_model(client, model_dir)["id"], add_dataset(client, ROWS)["id"])
    assert client.get(f"/ui/indexes/{index['id']}/self-influence").status_code == 409
    assert_problem(client.get(f"/v1/indexes/{index['id']}/self-influence"), 409, "index-unavailable")
    engine.gate.set()
