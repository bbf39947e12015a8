"""An answer means that what it says is committed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import event

from app.dependencies import Services, Tenant, WriteSession
from app.errors import Conflict
from app.jobs.service import JobsService


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    @app.post("/enqueue")
    def enqueue(session: WriteSession, tenant: Tenant, commit: bool = True) -> str:
        def refuse(_session: object) -> None:
            raise Conflict("The commit failed.")

        if not commit:
            event.listen(session, "before_commit", refuse)
        return JobsService(session, tenant).enqueue("from.the.future", {}).id

    with TestClient(app) as client:
        yield client


def test_what_was_answered_is_there(client: TestClient) -> None:
    assert client.get(f"/v1/jobs/{client.post('/enqueue').json()}").status_code == 200


def test_a_commit_that_fails_is_the_answer(client: TestClient, services: Services) -> None:
    answer = client.post("/enqueue?commit=false")
    assert answer.status_code == 409
    assert answer.json()["detail"] == "The commit failed."
    assert client.get("/v1/jobs").json()["data"] == []
