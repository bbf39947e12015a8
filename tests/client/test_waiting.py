"""Waiting for jobs: stream, reconnection, polling, deadlines."""

from __future__ import annotations

import httpx
import pytest

from whence_client import JobFailed, JobProgress, Timeout, Whence, WhenceError
from whence_client.types import Job


def job(state: str, done: int = 0, **fields: object) -> httpx.Response:
    progress = {"done": done, "total": 10, "unit": "rows", "phase": "sketch", "eta_s": None}
    return httpx.Response(
        200, json={"id": "job_1", "kind": "index.build", "state": state, "progress": progress, **fields}
    )


def stream(*events: tuple[int, str, str], broken: bool = False) -> httpx.Response:
    text = "".join(f"id: {seq}\nevent: {kind}\ndata: {data}\n\n" for seq, kind, data in events).encode()
    return httpx.Response(200, stream=Body(text, broken), headers={"Content-Type": "text/event-stream"})


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that may break off at its end."""

    def __init__(self, text: bytes, broken: bool) -> None:
        self._text, self._broken = text, broken

    def __iter__(self):
        yield self._text
        if self._broken:
            raise httpx.ReadError("cut")

    async def __aiter__(self):
        for chunk in self:
            yield chunk


def progress(done: int) -> str:
    return f'{{"done": {done}, "total": 10, "unit": "rows", "phase": "sketch", "eta_s": 1.5}}'


def test_progress_comes_from_the_event_stream(kind, script):
    seen: list[JobProgress] = []
    server = script(
        job("running"),
        stream((3, "progress", progress(4)), (4, "progress", progress(10)), (5, "end", '{"state": "succeeded"}')),
        job("succeeded", 10, result={"index_id": "idx_1"}),
    )
    done = kind.call(server, lambda c: c.jobs.wait("job_1", on_progress=seen.append))
    assert done.result == {"index_id": "idx_1"}
    assert [p.done for p in seen] == [0, 4, 10, 10]
    assert server.requests[1].headers["Accept"] == "text/event-stream"


def test_a_broken_stream_is_taken_up_after_the_last_event(kind, script, no_sleep):
    server = script(
        job("running"),
        stream((6, "progress", progress(4)), broken=True),
        job("running", 4),
        stream((7, "end", '{"state": "succeeded"}')),
        job("succeeded", 10),
    )
    kind.call(server, lambda c: c.jobs.wait("job_1"))
    assert "Last-Event-ID" not in server.requests[1].headers
    assert server.requests[3].headers["Last-Event-ID"] == "6"


def test_a_held_back_stream_means_polling(kind, script, no_sleep):
    seen: list[JobProgress] = []
    server = script(
        job("queued"), httpx.Response(502, text="proxy"), job("running", 5), job("running", 5), job("succeeded", 10)
    )
    kind.call(server, lambda c: c.jobs.wait("job_1", on_progress=seen.append))
    assert [p.done for p in seen] == [0, 5, 10]
    assert no_sleep == [1.0, 1.0, 1.0]
    assert [r.url.path for r in server.requests].count("/v1/jobs/job_1/events") == 1


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_job_that_did_not_succeed_raises_with_its_reason(kind, script, state):
    error = {"title": "Disk full", "status": 507, "detail": "no space", "remedy": "Free space."}
    server = script(job(state, error=error if state == "failed" else None))
    with pytest.raises(
        JobFailed, match="Disk full: no space — Free space" if state == "failed" else "cancelled"
    ) as caught:
        kind.call(server, lambda c: c.jobs.wait("job_1"))
    assert caught.value.job.state == state


def test_the_wait_ends_at_its_deadline_and_says_the_job_goes_on(kind, script):
    server = script(*[job("running")] * 3)
    with pytest.raises(Timeout, match="still running"):
        kind.call(server, lambda c: c.jobs.wait("job_1", timeout=0.05))
    assert all("events" not in r.url.path for r in server.requests)


def test_an_async_callback_is_awaited(script):
    import asyncio

    from whence_client import AsyncWhence

    seen: list[int] = []

    async def note(p: JobProgress) -> None:
        await asyncio.sleep(0)
        seen.append(p.done)

    async def main() -> None:
        async with AsyncWhence("http://whence.test", transport=httpx.MockTransport(script(job("succeeded", 10)))) as c:
            await c.jobs.wait("job_1", on_progress=note)

    asyncio.run(main())
    assert seen == [10]


def test_a_job_can_wait_for_itself(script):
    transport = httpx.MockTransport(script(job("queued"), job("succeeded", 10)))
    with Whence("http://whence.test", transport=transport) as client:
        assert client.jobs.get("job_1").wait().state == "succeeded"


def test_a_job_without_a_client_says_how_to_wait():
    with pytest.raises(WhenceError, match=r"client\.jobs\.wait"):
        Job(id="job_1", kind="index.build", state="queued").wait()


def test_an_error_in_the_callback_reaches_the_caller_and_closes_the_stream(kind, script):
    server = script(job("running"), stream((3, "progress", progress(4))))

    def refuse(p: JobProgress) -> None:
        if p.done == 4:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        kind.call(server, lambda c: c.jobs.wait("job_1", on_progress=refuse))
