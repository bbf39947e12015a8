"""What the pages load: each file once, by an address that changes with it, and the scripts after the first paint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.dashboard.files import FILES, FOLDER, SHEETS, static
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.live import serving

PAINTED = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
SCRIPTS = """() => performance.getEntriesByType('resource').filter(one => one.initiatorType === 'script')
    .map(one => [new URL(one.name).pathname.split('/').pop(), one.startTime])"""


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("whence.css", "text/css"),
        ("whence+asking.css", "text/css"),
        ("htmx/htmx.min.js", "text/javascript"),
        ("icon.svg", "image/svg+xml"),
    ],
)
def test_a_file_is_served_and_revalidated(client: TestClient, name: str, kind: str) -> None:
    file = client.get(f"/ui/static/{name}")
    assert file.headers["content-type"].startswith(kind)
    assert file.headers["cache-control"] == "no-cache"
    etag = file.headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = client.get(f"/ui/static/{name}", headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert client.get(f"/ui/static/{name}", headers={"If-None-Match": '"other"'}).content == file.content


def test_what_is_asked_for_by_its_version_is_kept_and_nothing_else(client: TestClient) -> None:
    assert "immutable" in client.get(static("whence.css")).headers["cache-control"]
    older = client.get("/ui/static/whence.css?v=0123456789abcdef")
    assert older.headers["cache-control"] == "no-cache"
    assert older.content == FILES["whence.css"].content


def test_a_sheet_is_its_parts_in_order() -> None:
    for sheet in SHEETS:
        parts = [FOLDER / f"{part}.css" for part in sheet.removesuffix(".css").split("+")]
        assert FILES[sheet].content == b"".join(part.read_bytes() for part in parts)


def test_pages_name_files_by_their_version_and_one_sheet(client: TestClient) -> None:
    for path in ("/ui", "/ui/login", "/ui/evaluations", "/ui/jobs", "/ui/models/new", "/ui/attributions/none"):
        page = client.get(path).text
        named = re.findall(r"/ui/static/[^\"\s]+", page)
        assert page.count('rel="stylesheet"') == 1 and len(named) >= 4, path
        assert [address for address in named if "immutable" not in client.get(address).headers["cache-control"]] == []


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with serving(make_settings(tmp_path), FakeEngine()) as url:
        yield url


@pytest.mark.browser
def test_scripts_come_after_the_first_paint(page: Any, address: str) -> None:
    page.goto(f"{address}/ui")
    painted, loaded = page.evaluate(PAINTED), dict(page.evaluate(SCRIPTS))
    del loaded["start.js"]
    assert set(loaded) == {"htmx.min.js", "chart.umd.min.js", "charts.js", "ask.js", "answer.js", "live.js"}
    assert min(loaded.values()) >= painted
    assert page.evaluate("() => Boolean(window.htmx && window.Chart)")
