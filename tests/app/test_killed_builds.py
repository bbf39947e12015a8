"""kill -9 of the real server in the middle of real builds: the next server finishes them, byte for byte."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests import factories
from tests.engine.contract_world import digests

ROOT = Path(__file__).resolve().parents[2]
SERVE = """
import sys
from pathlib import Path
from app.server import Server
from app.settings import Settings
settings = Settings(home=Path(sys.argv[1]), port=0, poll_seconds=0.05, device="cpu", model_roots=(Path(sys.argv[2]),))
Server(settings, on_listening=lambda url: print(url, flush=True)).run()
"""
KILLS = 10
OPTIONS = {"shard_rows": 3, "curvature_rows": 48, "token_budget": 120}


@contextmanager
def server(home: Path, roots: Path) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    command = [sys.executable, "-c", SERVE, str(home), str(roots)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with httpx.Client(base_url=address, timeout=60) as client:
            yield process, client
    finally:
        process.kill()
        process.wait()


def post(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = client.post(path, json=body)
    assert response.is_success, response.text
    return response.json()


def wait_until_ready(client: httpx.Client, index_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        index = client.get(f"/v1/indexes/{index_id}").json()
        assert index["state"] != "failed", index
        if index["state"] == "ready":
            return index
        time.sleep(0.05)
    raise AssertionError(f"the index did not become ready: {index}")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_builds_go_on_by_themselves_and_nothing_else_is_lost(tmp_path: Path) -> None:
    base = factories.llama(hidden=16, layers=3)
    models = tmp_path / "models"
    factories.save_base(models / "base", base)
    checkpoints = [str(factories.save_adapter(models / f"epoch-{i}", base, i)) for i in (1, 2, 3)]
    rows = models / "rows.jsonl"
    rows.write_text("\n".join(json.dumps(row) for row in factories.sentences(60, longest=8)))
    home = tmp_path / "home"
    moments = np.random.default_rng(1).uniform(0.05, 1.2, KILLS)
    ready: list[str] = []
    with server(home, models) as (_, client):
        model = post(client, "/v1/models", {"name": "bot", "base": str(models / "base"), "checkpoints": checkpoints})
        dataset = post(client, "/v1/datasets", {"name": "train", "uri": str(rows)})
        body = {"model": model["id"], "dataset": dataset["id"], "options": OPTIONS}
        ready.append(post(client, "/v1/indexes", body)["id"])
        wait_until_ready(client, ready[0])
    expected = digests(home / "indexes" / ready[0])
    pending, interrupted = None, 0
    for moment in [*moments, None]:
        with server(home, models) as (process, client):
            if pending is not None:
                job = client.get(f"/v1/jobs/{wait_until_ready(client, pending)['job_id']}").json()
                interrupted += job["attempt"] > 1
                assert digests(home / "indexes" / pending) == expected
                ready.append(pending)
            if moment is not None:
                pending = post(client, "/v1/indexes", body)["id"]
                time.sleep(moment)
                process.kill()  # SIGKILL
                continue
            listed = {index["id"]: index["state"] for index in client.get("/v1/indexes").json()["data"]}
            assert listed == dict.fromkeys(ready, "ready")
            assert [d["id"] for d in client.get("/v1/datasets").json()["data"]] == [dataset["id"]]
            question = {"model": model["id"], "prompt": "the cat", "completion": " sat"}
            answers = [post(client, "/v1/attributions", question | {"index": index}) for index in ready]
            assert len({tuple(hit["score"] for hit in answer["proponents"]) for answer in answers}) == 1
    assert interrupted >= KILLS // 2  # otherwise the moments missed the builds, and the test has shown nothing
