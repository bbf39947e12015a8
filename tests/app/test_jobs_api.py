"""/v1/jobs over HTTP: list, get, cancel, resume, delete, events as JSON and as a stream."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session

from app.dependencies import Services
from app.jobs.contract import Done, Handler, JobContext
from app.jobs.service import JobsService
from app.tables import DEFAULT_TENANT, JobRow
from engine.errors import StorageFull
from engine.types import Progress
from tests.app.conftest import wait_for


class Bench:
    """Jobs of kind `test` on the running service: they wait for `go`, then do as `error` says."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.go = threading.Event()
        self.error: Exception | None = None
        services.worker.handlers["test"] = Handler(self._run, self._follow)

    def _run(self, context: JobContext) -> Done:
        context.message("begun")
        while not self.go.wait(0.01):
            context.checkpoint(Progress(0, 4, "rows", "waiting"))
        for done in range(5):
            context.checkpoint(Progress(done, 4, "rows", f"phase {done}"))
        if self.error:
            raise self.error
        return Done({"answer": 42})

    def _follow(self, _session: Session, _job: JobRow, _outcome: Any) -> None:
        pass

    def enqueue(self, tenant: str = DEFAULT_TENANT) -> str:
        with self.services.database.write() as session:
            return JobsService(session, tenant).enqueue("test", {}, resource_id="idx_1").id


@pytest.fixture
def bench(services: Services) -> Iterator[Bench]:
    bench = Bench(services)
    yield bench
    bench.go.set()


def ended(client: TestClient, job_id: str) -> dict[str, Any]:
    def job() -> dict[str, Any] | None:
        answer = client.get(f"/v1/jobs/{job_id}").json()
        return answer if answer["finished_at"] else None

    return wait_for(job, f"the end of {job_id}")


def running(client: TestClient, job_id: str) -> None:
    wait_for(lambda: client.get(f"/v1/jobs/{job_id}").json()["state"] == "running", f"the start of {job_id}")


def frames(text: str) -> list[dict[str, str]]:
    """SSE frames as {id, event, data}; comments are left out."""
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]


def test_a_job_shows_what_it_is_and_did(client: TestClient, bench: Bench) -> None:
    bench.go.set()
    job = ended(client, bench.enqueue())
    assert job["id"].startswith("job_")
    assert (job["kind"], job["state"], job["attempt"], job["resource_id"]) == ("test", "succeeded", 1, "idx_1")
    assert job["result"] == {"answer": 42}
    assert job["error"] is None
    assert job["progress"] == {"done": 4, "total": 4, "unit": "rows", "phase": "phase 4", "eta_s": 0.0}
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    assert job["created_at"].endswith("Z")


def test_a_failed_job_shows_cause_and_remedy(client: TestClient, bench: Bench) -> None:
    bench.error = StorageFull("The disk is full.")
    bench.go.set()
    job = ended(client, bench.enqueue())
    assert job["state"] == "failed"
    assert job["error"]["type"].endswith("storage-full")
    assert {"title", "detail", "status", "remedy"} <= set(job["error"])


def test_jobs_are_listed_newest_first_in_pages(client: TestClient, bench: Bench) -> None:
    bench.go.set()
    made = [bench.enqueue() for _ in range(5)]
    first = client.get("/v1/jobs", params={"limit": 3}).json()
    rest = client.get("/v1/jobs", params={"limit": 3, "cursor": first["next_cursor"]}).json()
    assert [job["id"] for job in first["data"] + rest["data"]] == made[::-1]
    assert rest["next_cursor"] is None


def test_jobs_can_be_filtered(client: TestClient, bench: Bench) -> None:
    job_id = bench.enqueue()
    running(client, job_id)
    assert [job["id"] for job in client.get("/v1/jobs?state=running&kind=test").json()["data"]] == [job_id]
    assert client.get("/v1/jobs?state=failed").json()["data"] == []
    assert client.get("/v1/jobs?kind=index.build").json()["data"] == []
    assert client.get("/v1/jobs?state=sleeping").status_code == 422


def test_another_tenants_job_is_not_found(client: TestClient, bench: Bench) -> None:
    bench.go.set()
    job_id = bench.enqueue(tenant="another")
    for request in (
        client.get(f"/v1/jobs/{job_id}"),
        client.get(f"/v1/jobs/{job_id}/events"),
        client.post(f"/v1/jobs/{job_id}/cancel"),
        client.post(f"/v1/jobs/{job_id}/resume"),
        client.delete(f"/v1/jobs/{job_id}"),
    ):
        assert request.status_code == 404
        assert request.headers["content-type"] == "application/problem+json"
    assert client.get("/v1/jobs").json()["data"] == []


def test_cancel_then_resume(client: TestClient, bench: Bench) -> None:
    job_id = bench.enqueue()
    running(client, job_id)
    asked = client.post(f"/v1/jobs/{job_id}/cancel")
    assert asked.status_code == 202
    assert asked.json()["state"] == "cancelling"
    assert ended(client, job_id)["state"] == "cancelled"
    assert client.post(f"/v1/jobs/{job_id}/cancel").json()["state"] == "cancelled"
    bench.go.set()
    resumed = client.post(f"/v1/jobs/{job_id}/resume")
    assert resumed.status_code == 202
    assert resumed.json()["state"] == "queued"
    assert resumed.headers["location"] == f"/v1/jobs/{job_id}"
    assert ended(client, job_id)["attempt"] == 2


def test_an_ended_job_cannot_be_cancelled_nor_a_successful_one_resumed(client: TestClient, bench: Bench) -> None:
    bench.go.set()
    job_id = bench.enqueue()
    ended(client, job_id)
    for action in ("cancel", "resume"):
        refused = client.post(f"/v1/jobs/{job_id}/{action}")
        assert refused.status_code == 409
        assert "succeeded" in refused.json()["detail"]


def test_a_running_job_cannot_be_deleted_an_ended_one_can(client: TestClient, bench: Bench) -> None:
    job_id = bench.enqueue()
    running(client, job_id)
    assert client.delete(f"/v1/jobs/{job_id}").json()["type"].endswith("in-use")
    bench.go.set()
    ended(client, job_id)
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert client.get(f"/v1/jobs/{job_id}").status_code == 404


def test_events_as_a_list(client: TestClient, bench: Bench) -> None:
    bench.go.set()
    job_id = bench.enqueue()
    ended(client, job_id)
    page = client.get(f"/v1/jobs/{job_id}/events").json()
    events = page["data"]
    assert page["next_cursor"] is None
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["kind"] for event in events] == ["state", "state", "message", *["progress"] * 5, "state", "end"]
    assert events[-1]["data"] == {"state": "succeeded"}


def test_events_are_paged_oldest_first(client: TestClient, bench: Bench) -> None:
    bench.go.set()
    job_id = bench.enqueue()
    ended(client, job_id)
    path, seen, cursor = f"/v1/jobs/{job_id}/events", [], None
    while True:
        page = client.get(path, params={"limit": 4} | ({"cursor": cursor} if cursor else {})).json()
        seen += [event["seq"] for event in page["data"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == list(range(1, 11))


@pytest.mark.parametrize("cursor", ["nonsense", "WyJhIl0", "Wy0xXQ", "WzFlNDBd", "WzEsMl0"])
def test_a_bad_event_cursor_is_refused(client: TestClient, bench: Bench, cursor: str) -> None:
    answer = client.get(f"/v1/jobs/{bench.enqueue()}/events", params={"cursor": cursor})
    assert answer.status_code == 422
    assert answer.json()["type"].endswith("bad-cursor")


def test_the_stream_tells_everything_and_closes_after_the_end(client: TestClient, bench: Bench) -> None:
    job_id = bench.enqueue()
    running(client, job_id)
    threading.Timer(0.1, bench.go.set).start()
    answer = client.get(f"/v1/jobs/{job_id}/events", headers={"Accept": "text/event-stream"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = frames(answer.text)
    assert [int(event["id"]) for event in events] == list(range(1, len(events) + 1))
    assert events[0]["event"] == "state"
    assert {event["event"] for event in events} == {"state", "message", "progress", "end"}
    assert (events[-1]["event"], events[-1]["data"]) == ("end", '{"state": "succeeded"}')


def test_a_stream_goes_on_after_the_last_event_seen(client: TestClient, bench: Bench) -> None:
    bench.go.set()
    job_id = bench.enqueue()
    ended(client, job_id)
    headers = {"Accept": "text/event-stream", "Last-Event-ID": "7"}
    events = frames(client.get(f"/v1/jobs/{job_id}/events", headers=headers).text)
    assert [event["id"] for event in events] == ["8", "9", "10"]


def test_a_client_that_has_seen_the_end_is_told_not_to_come_back(client: TestClient, bench: Bench) -> None:
    bench.go.set()
    job_id = bench.enqueue()
    ended(client, job_id)
    headers = {"Accept": "text/event-stream", "Last-Event-ID": "10"}
    assert client.get(f"/v1/jobs/{job_id}/events", headers=headers).status_code == 204


def test_a_stream_does_not_stop_at_the_end_of_an_earlier_run(client: TestClient, bench: Bench) -> None:
    bench.error = StorageFull("full")
    bench.go.set()
    job_id = bench.enqueue()
    ended(client, job_id)
    bench.error = None
    client.post(f"/v1/jobs/{job_id}/resume")
    answer = client.get(f"/v1/jobs/{job_id}/events", headers={"Accept": "text/event-stream"})
    ends = [event["data"] for event in frames(answer.text) if event["event"] == "end"]
    assert ends == ['{"state": "failed"}', '{"state": "succeeded"}']


def test_a_last_event_id_that_is_none_is_refused(client: TestClient, bench: Bench) -> None:
    headers = {"Accept": "text/event-stream", "Last-Event-ID": "seven"}
    answer = client.get(f"/v1/jobs/{bench.enqueue()}/events", headers=headers)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "header:last-event-id"


def test_an_unknown_job_has_no_stream(client: TestClient) -> None:
    answer = client.get("/v1/jobs/job_none/events", headers={"Accept": "text/event-stream"})
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
