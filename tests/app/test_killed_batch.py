"""kill -9 of a server in the middle of a batch: the next one goes on, and no line is lost, doubled or out of order."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.app.resources import jsonl

ROOT = Path(__file__).resolve().parents[2]
SERVE = """
import sys, time
from pathlib import Path
import uvicorn
from app.main import create_app
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine

class Slow(FakeEngine):
    def _attribute(self, *arguments):
        time.sleep(0.02)
        return super()._attribute(*arguments)

app = create_app(make_settings(Path(sys.argv[1])), Slow())

class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print("http://127.0.0.1:%d" % self.servers[0].sockets[0].getsockname()[1], flush=True)

Server(uvicorn.Config(app, port=0, log_level="error", access_log=False)).run()
"""
KILLS, LINES = 3, 300


@contextmanager
def server(home: Path) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    command = [sys.executable, "-c", SERVE, str(home)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with httpx.Client(base_url=address, timeout=30) as client:
            yield process, client
    finally:
        process.kill()
        process.wait()


def until(client: httpx.Client, path: str, state: str) -> None:
    deadline = time.monotonic() + 30
    while (found := client.get(path).json())["state"] != state:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_batch_goes_on_by_itself(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    lines = [{"prompt": f"Question {n}", "completion": " Mira", "custom_id": f"q{n}"} for n in range(LINES)]
    lines[50] = {"custom_id": "wrong"}
    with server(tmp_path) as (_, client):
        model = client.post("/v1/models", json={"name": "bot", "base": str(tmp_path / "model")}).json()["id"]
        dataset = client.post("/v1/datasets", data={"name": "d"}, files={"file": ("r.jsonl", jsonl())}).json()["id"]
        index = client.post("/v1/indexes", json={"model": model, "dataset": dataset}).json()["id"]
        until(client, f"/v1/indexes/{index}", "ready")
        sent = client.post("/v1/attributions/batches", files={"file": ("q.jsonl", jsonl(lines))}, data={"index": index})
        batch = f"/v1/attributions/batches/{sent.json()['id']}"
    seen, moments = [0], random.Random(0)
    for _ in range(KILLS):
        with server(tmp_path) as (process, client):
            time.sleep(moments.uniform(0.1, 0.5))
            found = client.get(batch).json()
            seen.append(found["succeeded"] + found["failed"])
            process.kill()  # SIGKILL
    with server(tmp_path) as (_, client):
        until(client, batch, "ready")
        found = [json.loads(line) for line in client.get(f"{batch}/results").text.splitlines()]
        assert [(line["line"], line["custom_id"]) for line in found] == [
            (number, line["custom_id"]) for number, line in enumerate(lines, 1)
        ]
        assert [line["line"] for line in found if line["status"] != 200] == [51]
        ids = [line["body"]["id"] for line in found if line["status"] == 200]
        assert len(set(ids)) == LINES - 1
        stored, cursor = [], None
        while True:
            page = client.get("/v1/attributions", params={"limit": 200} | ({"cursor": cursor} if cursor else {})).json()
            stored += [answer["id"] for answer in page["data"]]
            if (cursor := page["next_cursor"]) is None:
                break
        assert sorted(stored) == sorted(ids)  # each answered line is stored once, killed or not
        job = client.get(f"/v1/jobs/{sent.json()['job_id']}").json()
    assert job["attempt"] > 2  # otherwise the moments missed the batch, and the test has shown nothing
    assert seen == sorted(seen)
    assert 0 < seen[-1] < LINES
