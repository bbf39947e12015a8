"""Waiting for a job: its event stream with Last-Event-ID, falling back to polling."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
from pydantic import ValidationError

from whence_client.errors import JobFailed, Timeout
from whence_client.flow import Flow, Notify, OpenStream, ReadChunk, Request, Sleep
from whence_client.sse import EventParser, ServerEvent
from whence_client.types import Job, JobEvent, JobProgress

POLL_S = 1.0
# The server sends a comment every 15 s, so three times that in silence is a dead connection.
SILENCE_S = 45.0
# A stream's read cannot be cut short, so the last seconds before a deadline are polled.
STREAM_MARGIN_S = 30.0


class Watch:
    """One wait for one job."""

    def __init__(
        self,
        job_id: str,
        on_progress: Callable[[JobProgress], Any] | None,
        on_event: Callable[[JobEvent], Any] | None,
        timeout_s: float | None,
    ) -> None:
        self._job_id = job_id
        self._on_progress = on_progress
        self._on_event = on_event
        self._timeout_s = timeout_s
        self._started = time.monotonic()
        self._last_event_id: str | None = None
        self._last_progress: JobProgress | None = None
        self._streams = True

    def run(self, retrieve: Callable[[str], Flow[Job]]) -> Flow[Job]:
        while True:
            job = yield from retrieve(self._job_id)
            yield from self._tell_progress(job.progress)
            if job.finished:
                return _succeeded(job)
            if self._remaining() <= 0:
                raise Timeout(
                    f"{job.kind} {job.id} is still {job.state} after {self._timeout_s:g} s. It goes on: wait again."
                )
            heard = (yield from self._follow()) if self._may_stream() else 0
            if not heard:
                yield Sleep(max(0.0, min(POLL_S, self._remaining())))

    def _follow(self) -> Flow[int]:
        """Events heard until the stream ended, broke, or the deadline came near."""
        headers = {"Accept": "text/event-stream"}
        if self._last_event_id is not None:
            headers["Last-Event-ID"] = self._last_event_id
        request = Request("GET", f"/v1/jobs/{self._job_id}/events", headers=headers)
        heard = 0
        try:
            response: httpx.Response = yield OpenStream(request, SILENCE_S)
            self._streams = _is_event_stream(response)
            parser = EventParser()
            while self._may_stream() and (chunk := (yield ReadChunk())):
                for event in parser.feed(chunk):
                    heard += 1
                    yield from self._take(event)
                    if event.event == "end":
                        return heard
        except httpx.TransportError:
            # Broken off: the job is looked up and the stream taken up where it stopped.
            return heard
        return heard

    def _take(self, event: ServerEvent) -> Flow[None]:
        self._last_event_id = event.id or self._last_event_id
        data = _json_object(event.data)
        if self._on_event is not None:
            number = event.id or ""
            seq = int(number) if number.isdigit() else 0
            yield Notify(self._on_event, JobEvent(seq=seq, kind=event.event, data=data))
        if event.event == "progress":
            yield from self._tell_progress(_progress(data))

    def _tell_progress(self, progress: JobProgress | None) -> Flow[None]:
        if progress is None or progress == self._last_progress:
            return
        self._last_progress = progress
        if self._on_progress is not None:
            yield Notify(self._on_progress, progress)

    def _may_stream(self) -> bool:
        return self._streams and self._remaining() > STREAM_MARGIN_S

    def _remaining(self) -> float:
        return float("inf") if self._timeout_s is None else self._timeout_s - (time.monotonic() - self._started)


def _succeeded(job: Job) -> Job:
    if job.state != "succeeded":
        raise JobFailed(job)
    return job


def _is_event_stream(response: httpx.Response) -> bool:
    return response.status_code == 200 and response.headers.get("Content-Type", "").startswith("text/event-stream")


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {"text": text}
    return value if isinstance(value, dict) else {"value": value}


def _progress(data: dict[str, Any]) -> JobProgress | None:
    try:
        return JobProgress.model_validate(data)
    except ValidationError:
        return None
