"""What a quiet stream does: comments, and an end when the server stops."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.jobs.service import JobsService
from app.jobs.stream import event_stream
from app.main import create_app
from app.tables import DEFAULT_TENANT
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine


@pytest.mark.timeout(20)
def test_comments_keep_a_quiet_stream_open_until_the_server_stops(tmp_path: Path) -> None:
    app = create_app(make_settings(tmp_path, worker_threads=0, sse_comment_seconds=0.05), FakeEngine())
    with TestClient(app):
        services = app.state.services
        with services.database.write() as session:
            job_id = JobsService(session, DEFAULT_TENANT).enqueue("test", {}).id

        async def listen() -> list[str]:
            heard = []
            async for frame in event_stream(services, DEFAULT_TENANT, job_id, 1):
                heard.append(frame)
                if len(heard) == 3:
                    services.closing.set()
            return heard

        assert asyncio.run(listen()) == [": still here\n\n"] * 3
