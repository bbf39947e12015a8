"""SQL in filters, cursors, names and ids: it is text there too, on either database."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, inspect

from app.backup.dump import load_table
from app.backup.layout import DamagedBackup
from app.dependencies import Services
from tests.app.conftest import store  # noqa: F401 - both kinds of database
from tests.app.resources import QUESTION, add_model, ready_index
from tests.app.test_auth import add_key, bearer

SQL = [
    "' OR '1'='1",
    "' OR 1=1 --",
    "'; DROP TABLE models; --",
    "') UNION SELECT digest, digest FROM api_keys --",
    '" OR ""="',
    "\\' OR 1=1 --",
    "%",
    "_",
    "NULL",
    "\u02bc OR 1=1",
]
LISTS = {
    "/v1/models": ("name",),
    "/v1/datasets": ("name", "state"),
    "/v1/indexes": ("name", "state", "model", "dataset"),
    "/v1/attributions": ("model", "index", "since"),
    "/v1/evaluations": ("index", "model", "state"),
    "/v1/checks": ("attribution", "index", "model", "state", "kind", "name"),
    "/v1/jobs": ("state", "kind"),
    "/v1/attributions/batches": ("state",),
    "/v1/audit-log": ("key", "operation", "resource", "since"),
}


def test_text_that_is_sql_finds_nothing_and_changes_nothing(
    client: TestClient, services: Services, model_dir: Path
) -> None:
    index = ready_index(client, model_dir)
    client.post("/v1/attributions", json=QUESTION | {"model": index["model"]})
    tables, described = tables_of(services), client.get("/openapi.json").json()["paths"]
    known = {path: {found["name"] for found in described[path]["get"]["parameters"]} for path in LISTS}
    before = {path: len(client.get(path).json()["data"]) for path in LISTS}
    assert before["/v1/models"] == before["/v1/attributions"] == 1
    for text in SQL:
        for path, filters in LISTS.items():
            for name in filters:
                answer = client.get(path, params={name: text})
                assert answer.status_code in (200, 422), (path, name, text, answer.text)
                if name in known[path]:
                    assert answer.status_code == 422 or answer.json()["data"] == [], (path, name, text)
            for cursor in (text, forged(["2999-01-01T00:00:00+00:00", text])):
                answer = client.get(path, params={"cursor": cursor})
                assert answer.status_code == 422 or len(answer.json()["data"]) <= before[path], (path, text)
            assert client.get(f"{path}/{quote(text, safe='')}").status_code in (404, 405, 422), (path, text)
        rows = client.get(f"/v1/datasets/{index['dataset']}/examples", params={"tag.task": text}).json()
        assert rows["data"] == [], text
        assert client.post("/v1/attributions", json=QUESTION | {"model": text}).status_code == 404
    assert {path: len(client.get(path).json()["data"]) for path in LISTS} == before
    for text in SQL:
        asked = QUESTION | {"model": index["model"], "filter": {"tags": {"task": text}}}
        assert client.post("/v1/attributions", json=asked).status_code in (200, 422)
    assert tables_of(services) == tables


def tables_of(services: Services) -> set[str]:
    return set(inspect(services.database.engine).get_table_names())


def forged(key: list[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def test_names_that_are_sql_are_kept_as_they_are(client: TestClient, model_dir: Path) -> None:
    for text in SQL:
        made = add_model(client, model_dir, text, metadata={text: text})
        assert [row["id"] for row in client.get("/v1/models", params={"name": text}).json()["data"]] == [made["id"]]
        assert client.get(f"/v1/models/{made['id']}").json()["metadata"] == {text: text}
    assert len(client.get("/v1/models").json()["data"]) == len(SQL)


def test_a_key_or_a_tenant_that_is_sql_lets_nobody_in(client: TestClient, services: Services) -> None:
    _, text = add_key(services)
    prefix = text[:12]
    for sql in SQL:
        for forged_key in (sql, f"{prefix}{sql}", f"{prefix}_{sql}", f"whk_{sql}_{text[13:]}", f"{text}{sql}"):
            headers = {"Authorization": f"Bearer {forged_key}".encode()}
            assert client.get("/v1/models", headers=headers).status_code == 401, forged_key  # type: ignore[arg-type]
    assert client.get("/v1/models", headers=bearer(text)).status_code == 200


def test_wildcards_of_like_are_plain_characters(client: TestClient, model_dir: Path) -> None:
    index = ready_index(client, model_dir)
    examples = f"/v1/datasets/{index['dataset']}/examples"
    assert len(client.get(examples, params={"query": "Port Halvern"}).json()["data"]) == 2
    for wildcard in ("%", "Port%", "P_rt", "Port*", "Port.Halvern", "[P]ort", "P.*n"):
        assert client.get(examples, params={"query": wildcard}).json()["data"] == [], wildcard


@pytest.mark.parametrize("name", ["models; DROP TABLE models", 'models" (id) VALUES (1); --', "api_keys"])
def test_a_backup_names_no_other_table(tmp_path: Path, name: str) -> None:
    """What a dump says of itself is quoted, and is the table that its file is named after."""
    dump = tmp_path / "models.jsonl"
    dump.write_text(json.dumps({"table": name, "columns": {"id": "plain"}}) + '\n["x"]\n')
    engine = create_engine(f"sqlite:///{tmp_path / 'a.sqlite3'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE models (id TEXT)")
        connection.exec_driver_sql("CREATE TABLE api_keys (id TEXT)")
        with pytest.raises(DamagedBackup, match="another table"):
            load_table(connection, dump, lambda _table, _row: None)
        assert connection.exec_driver_sql("SELECT * FROM models").all() == []
        assert connection.exec_driver_sql("SELECT * FROM api_keys").all() == []
    engine.dispose()
