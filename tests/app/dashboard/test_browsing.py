"""/ui/models and /ui/datasets, with the fake engine behind them."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.dependencies import Services
from tests.app.conftest import wait_for
from tests.app.dashboard.browsed import HTMX, ids_in, sent, text_of, upload
from tests.app.fakes import FakeEngine
from tests.app.resources import (
    RECIPE,
    ROWS,
    add_dataset,
    add_index,
    add_model,
    jsonl,
    ready_index,
    wait_for_index,
)


@pytest.mark.parametrize("section", ["models", "datasets", "indexes", "attributions"])
def test_an_empty_list_says_what_it_is_and_how_to_begin(client: TestClient, section: str) -> None:
    page = client.get(f"/ui/{section}").text
    assert "<table" not in page
    assert re.search(r'<div class="notice">.*<a class="button" href="/ui[^"]*">', page, re.S)


# --- models ---


def test_a_model_is_registered_and_shown(client: TestClient, model_dir: Path) -> None:
    form = {"name": "bot", "base": str(model_dir), "recipe": json.dumps(RECIPE), "checkpoints": f"{model_dir}\r\n\r\n"}
    answer = sent(client, "/ui/models", **form)
    assert answer.status_code == 303
    page = text_of(client.get(answer.headers["location"]).text)
    assert client.get("/v1" + answer.headers["location"].removeprefix("/ui")).json()["checkpoints"] == [str(model_dir)]
    for told in ("bot version 1", "1,000, of which 100 were trained", '"learning_rate": 0.01', str(model_dir)):
        assert told in page


@pytest.mark.parametrize(
    ("changes", "field", "told"),
    [
        ({"name": "  "}, "name", "Field required"),
        ({"base": "/nowhere/at/all"}, "base", "WHENCE_MODEL_ROOTS"),
        ({"adapter": "missing"}, "adapter", "missing"),
        ({"recipe": "{"}, "recipe", "not valid JSON"),
        ({"recipe": '{"training": {"epochs": 0}}'}, "recipe", "training.epochs: "),
        ({"checkpoints": "missing-1\nmissing-2"}, "checkpoints", "missing-1"),
    ],
)
def test_a_refused_model_is_told_at_its_field(
    client: TestClient, model_dir: Path, changes: dict[str, str], field: str, told: str
) -> None:
    form = {"name": "bot <1>", "base": str(model_dir), "recipe": "", "adapter": ""} | changes
    answer = sent(client, "/ui/models", **form)
    assert answer.status_code == 422
    cause = re.search(rf'id="{field}-error">([^<]*)<', answer.text)
    assert cause is not None and told in html.unescape(cause[1])
    (marked,) = re.findall(r'<(?:input|textarea)[^>]*aria-invalid="true"[^>]*>', answer.text)
    assert f'id="{field}"' in marked and f"{field}-error" in marked
    if field != "name":
        assert 'value="bot &lt;1&gt;"' in answer.text, "what was typed is lost"


def test_what_a_model_does_not_track_is_told(client: TestClient, model_dir: Path, engine: FakeEngine) -> None:
    model = add_model(client, model_dir)
    page = client.get(f"/ui/models/{model['id']}").text
    assert model["coverage"]["untracked"] == [] or model["coverage"]["untracked"][0]["module"] in page
    assert model["warnings"][0] in html.unescape(page)


def test_versions_indexes_and_counts_of_models(client: TestClient, model_dir: Path) -> None:
    index = ready_index(client, model_dir)
    assert client.put("/v1/aliases/prod", json={"index": index["id"]}).status_code == 201
    second = add_model(client, model_dir)
    page = text_of(client.get(f"/ui/models/{index['model']}").text)
    assert "version 2" in page and "ekfac ready 4 prod" in page
    listed = client.get("/ui/models").text
    assert f'href="/ui/models/{second["id"]}"' in listed
    assert 'aria-label="1 ready indexes of bot">1</a>' in listed


def test_metadata_is_changed_and_another_change_is_not_undone(client: TestClient, model_dir: Path) -> None:
    model = add_model(client, model_dir)
    address = f"/ui/models/{model['id']}"
    seen = re.search(r'name="etag" value="([^"]+)"', client.get(address).text)
    assert seen is not None
    etag = html.unescape(seen[1])
    assert sent(client, address, metadata='{"ticket": 7}', etag=etag).status_code == 303
    assert client.get(f"/v1/models/{model['id']}").json()["metadata"] == {"ticket": 7}
    late = sent(client, address, metadata='{"mine": 1}', etag=etag)
    assert late.status_code == 412
    assert "&#34;mine&#34;" in late.text
    assert client.get(f"/v1/models/{model['id']}").json()["metadata"] == {"ticket": 7}


def test_what_is_in_use_is_not_deleted_and_its_user_is_one_click_away(client: TestClient, model_dir: Path) -> None:
    index = ready_index(client, model_dir)
    for section, owner in (("models", index["model"]), ("datasets", index["dataset"])):
        refused = sent(client, f"/ui/{section}/{owner}/delete")
        assert refused.status_code == 409
        assert f'<a href="/ui/indexes/{index["id"]}">' in refused.text
    assert client.put("/v1/aliases/prod", json={"index": index["id"]}).status_code == 201
    assert "Alias 'prod' points at index" in html.unescape(sent(client, f"/ui/indexes/{index['id']}/delete").text)
    assert client.delete("/v1/aliases/prod").status_code == 204
    for section, owner in (("indexes", index["id"]), ("models", index["model"]), ("datasets", index["dataset"])):
        assert sent(client, f"/ui/{section}/{owner}/delete").status_code == 303
        assert client.get(f"/v1/{section}/{owner}").status_code == 404


# --- datasets ---


@pytest.mark.parametrize(
    ("filename", "content"), [("r.jsonl", jsonl()), ("r.csv", b"text\na\nb\n"), ("r.json", b'[{"text":"a"}]')]
)
def test_an_upload_leads_to_its_dataset(client: TestClient, filename: str, content: bytes) -> None:
    answer = upload(client, content, filename, format="")
    assert answer.status_code == 303
    assert client.get(answer.headers["location"]).status_code == 200


def test_every_wrong_row_of_an_upload_is_told_at_once(client: TestClient) -> None:
    lines = [
        '{"text": "fine"}',
        '{"prompt": "no completion"}',
        "{broken",
        '{"text": ""}',
        '{"text": "<b>"}',
        '{"id": []}',
    ]
    answer = upload(client, "\n".join(lines).encode(), name="my rows")
    assert answer.status_code == 422
    body = answer.text.split("<tbody>")[1].split("</tbody>")[0]
    assert re.findall(r'<td class="number">([^<]*)</td>', body) == ["2", "3", "4", "6"]
    for told in ("completion&#39; is missing", "not valid JSON", "text is empty", "Each row is an object"):
        assert told in body
    assert 'value="my rows"' in answer.text
    assert client.get("/v1/datasets").json()["data"] == []


@pytest.mark.parametrize(
    ("fields", "field"), [({"name": ""}, "name"), ({"name": "x" * 300}, "name"), ({"format": "xml"}, "format")]
)
def test_a_refused_field_of_an_upload_is_marked(client: TestClient, fields: dict[str, str], field: str) -> None:
    answer = upload(client, jsonl(), **fields)
    assert answer.status_code == 422
    assert f'id="{field}-error"' in answer.text


def test_an_upload_without_a_file_is_told_at_the_field(client: TestClient) -> None:
    answer = client.post("/ui/datasets", data={"name": "x"}, files={"other": ("", b"")}, follow_redirects=False)
    assert answer.status_code == 422
    assert 'id="file-error"' in answer.text


def test_uploads_have_the_limit_of_the_api(client: TestClient, services: Services) -> None:
    """Larger than a body in memory may be; the file goes to the disk."""
    rows = jsonl([{"text": "x" * 100_000} for _ in range(services.settings.max_body_bytes // 100_000 + 2)])
    assert len(rows) > services.settings.max_body_bytes
    assert upload(client, rows).status_code == 303


def test_a_loading_dataset_is_followed_and_its_rows_errors_stay(client: TestClient, services: Services) -> None:
    bad = jsonl([{"text": "x" * 200_000}] * 90) + b'{"text": ""}\n{"no": 1}\n'
    assert len(bad) > services.settings.max_inline_rows_bytes
    address = upload(client, bad).headers["location"]

    def failed() -> str | None:
        page = client.get(address).text
        return page if "It could not be loaded" in page else None

    page = wait_for(failed, "the failed load")
    assert re.findall(r'<td class="number">(\d+)</td>', page) == ["91", "92"]
    assert f'action="{address}/resume"' in page
    assert "/ui/datasets/new?name=train" in page


def test_rows_go_forward_and_back_and_jump(client: TestClient, many: dict[str, Any]) -> None:
    base = f"/ui/datasets/{many['id']}"
    first = client.get(base).text
    assert ids_in(first) == [f"row-{n}" for n in range(50)]
    assert 'rel="prev"' not in first
    second = client.get(f"{base}?start=50").text
    assert ids_in(second) == [f"row-{n}" for n in range(50, 100)]
    assert f'rel="prev" href="{base}?before=50"' in second and f'rel="next" href="{base}?start=100"' in second
    assert ids_in(client.get(f"{base}?before=50").text) == ids_in(first)
    assert ids_in(client.get(f"{base}?before=20").text) == ids_in(first), "the first page is a whole one"
    last = client.get(f"{base}?start=100").text
    assert (len(ids_in(last)), 'rel="next"' in last) == (20, False)
    jump = client.get(base, params={"go": "70"}, follow_redirects=False)
    assert jump.headers["location"] == f"{base}?start=70"
    assert client.get(base, params={"go": "row-70"}, follow_redirects=False).headers["location"] == f"{base}/rows/70"
    lost = client.get(base, params={"go": "row-7000"})
    assert lost.status_code == 404 and 'id="go-error"' in lost.text


def test_rows_are_filtered_and_the_filter_goes_along(client: TestClient, many: dict[str, Any]) -> None:
    base = f"/ui/datasets/{many['id']}"
    found = client.get(base, params={"tag": "odd=1", "q": "NUMBER"}).text
    assert ids_in(found) == [f"row-{n}" for n in range(1, 101, 2)]
    assert html.escape(f"{base}?q=NUMBER&tag=odd%3D1&start=100") in found
    back = client.get(base, params={"tag": "odd=1", "before": "119"}).text
    assert ids_in(back) == [f"row-{n}" for n in range(19, 118, 2)]
    assert ids_in(client.get(base, params={"label": "lll", "q": "row number 11"}).text) == [
        "row-11",
        "row-110",
        "row-113",
        "row-116",
        "row-119",
    ]
    assert "No row matches" in text_of(client.get(base, params={"q": "nothing of it"}).text)
    refused = client.get(base, params={"tag": "odd"})
    assert refused.status_code == 422 and 'id="tag-error"' in refused.text and 'value="odd"' in refused.text


def test_htmx_gets_the_rows_alone(client: TestClient, many: dict[str, Any]) -> None:
    part = client.get(f"/ui/datasets/{many['id']}?start=50", headers=HTMX).text
    assert "<html" not in part and part.startswith('<section id="rows"') and "row-50" in part


def test_a_plain_page_reads_only_its_own_rows(
    client: TestClient, many: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.dataset.filtering import RowFilter

    def refuse(self: RowFilter, batch: object) -> list[int]:
        raise AssertionError("a page without a filter looked through the rows")

    monkeypatch.setattr(RowFilter, "rows", refuse)
    assert client.get(f"/ui/datasets/{many['id']}?before=100").status_code == 200


def test_a_row_has_a_permalink_with_all_of_its_text(client: TestClient, model_dir: Path) -> None:
    long = "word " * 500
    dataset = add_dataset(client, [{"id": "a/b", "prompt": "Where? ", "completion": long, "tags": {"k": "v"}}, *ROWS])
    base = f"/ui/datasets/{dataset['id']}/rows"
    page = client.get(f"{base}/0").text
    assert long in page and "k: v" in page
    assert "No index of this dataset is ready" in page
    index = add_index(client, add_model(client, model_dir)["id"], dataset["id"])
    wait_for_index(client, index["id"])
    assert f'hx-get="{base}/0?standing=1"' in client.get(f"{base}/0").text
    standing = text_of(client.get(f"{base}/0?standing=1", headers=HTMX).text)
    assert f"1 of 5 {float(len(long) + 7):.4g}" in standing
    assert client.get(f"{base}/5").status_code == 404


def test_a_dataset_is_renamed(client: TestClient, many: dict[str, Any]) -> None:
    address = f"/ui/datasets/{many['id']}"
    assert sent(client, address, name="other", metadata="").status_code == 303
    assert client.get(f"/v1/datasets/{many['id']}").json()["name"] == "other"
    refused = sent(client, address, name="", metadata="[]")
    assert refused.status_code == 422 and 'id="metadata-error"' in refused.text
