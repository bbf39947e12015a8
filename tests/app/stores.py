"""The store of a server with one of everything, as it lies there once the server has stopped."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from app import schema
from app.database import Database
from app.doctor.findings import Finding, Store
from app.doctor.run import examine
from app.main import create_app
from app.settings import Settings
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.resources import (
    QUESTION,
    RECIPE,
    add_check,
    add_evaluation,
    add_index,
    add_model,
    jsonl,
    post_dataset,
    wait_for_check,
    wait_for_evaluation,
    wait_for_index,
    wait_for_job,
)

OLD_SECONDS = 3600


@dataclass(frozen=True)
class Filled:
    """ids of what was made; `uploaded`: a dataset that a job has loaded."""

    settings: Settings
    model: str
    dataset: str
    sha256: str
    uploaded: str
    index: str
    evaluation: str
    attribution: str
    batch: str
    check: str

    @property
    def index_dir(self) -> Path:
        return self.settings.indexes_dir / self.index

    @property
    def rows(self) -> Path:
        return self.settings.datasets_dir / self.sha256 / "rows.arrow"

    @property
    def check_dir(self) -> Path:
        return self.settings.checks_dir / self.check

    @property
    def evaluation_dir(self) -> Path:
        return self.settings.evaluations_dir / self.evaluation


def store_settings(tmp_path: Path, database_url: str = "", home: str = "home") -> Settings:
    """Datasets of more than 600 bytes are loaded by a job."""
    return make_settings(tmp_path, home=tmp_path / home, database_url=database_url, max_inline_rows_bytes=600)


@contextmanager
def serving(settings: Settings, engine: FakeEngine | None = None) -> Iterator[TestClient]:
    database = Database(settings.database)
    settings.home.mkdir(parents=True, exist_ok=True)
    schema.upgrade(database)  # PostgreSQL is migrated by hand
    database.close()
    with TestClient(create_app(settings, engine or FakeEngine())) as client:
        yield client


def model_directory(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text("{}")
    return directory


def fill(client: TestClient, settings: Settings, directory: Path) -> Filled:
    model = add_model(client, directory, recipe=RECIPE)["id"]
    dataset = post_dataset(client, jsonl()).json()
    large = post_dataset(client, jsonl([{"text": f"row {number} " + "x" * 40} for number in range(30)])).json()
    assert large["state"] == "loading"
    wait_for_job(client, large["job_id"])
    index = wait_for_index(client, add_index(client, model, dataset["id"], name="first")["id"])
    evaluation = wait_for_evaluation(client, add_evaluation(client, index)["id"])["id"]
    answer = client.post("/v1/attributions", json=QUESTION | {"model": model, "index": index["id"]}).json()
    own = (dataset["id"], dataset["sha256"], large["id"], index["id"], evaluation, answer["id"])
    check = wait_for_check(client, add_check(client, answer["id"])["id"])["id"]
    return Filled(settings, model, *own, answered_batch(client, index["id"]), check)


def ask_batch(client: TestClient, index: str, completion: str = " There.") -> dict[str, Any]:
    """Three questions, one of them impossible."""
    asked = QUESTION | {"completion": completion}
    questions = "".join(json.dumps(asked | {"top_k": top_k}) + "\n" for top_k in (1, 2, 0))
    files = {"file": ("questions.jsonl", questions.encode())}
    response = client.post("/v1/attributions/batches", data={"index": index}, files=files)
    assert response.status_code == 202, response.text
    return response.json()


def answered_batch(client: TestClient, index: str) -> str:
    batch = ask_batch(client, index)
    wait_for_job(client, batch["job_id"])
    return batch["id"]


def filled_store(tmp_path: Path, database_url: str = "") -> Filled:
    settings = store_settings(tmp_path, database_url)
    with serving(settings) as client:
        return fill(client, settings, model_directory(tmp_path))


@contextmanager
def looked_at(settings: Settings, **changes: Any) -> Iterator[Store]:
    database = Database(settings.database)
    try:
        yield Store(settings, database, **changes)
    finally:
        database.close()


def findings(settings: Settings, **changes: Any) -> list[Finding]:
    with looked_at(settings, **changes) as store:
        return examine(store)


def in_database(settings: Settings, change: Callable[[Any], Any]) -> Any:
    """Runs `change(session)` in one write transaction, behind the service's back."""
    database = Database(settings.database)
    try:
        with database.write() as session:
            return change(session)
    finally:
        database.close()


def make_old(path: Path) -> None:
    """As if nobody had touched it for an hour."""
    then = time.time() - OLD_SECONDS
    for part in (path, *path.rglob("*")):
        os.utime(part, (then, then), follow_symlinks=False)


def flip(path: Path, place: float = 0.5) -> None:
    """One bit of the byte at this share of the file."""
    content = bytearray(path.read_bytes())
    content[min(len(content) - 1, int(len(content) * place))] ^= 1
    path.write_bytes(bytes(content))
