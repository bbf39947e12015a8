"""Batches and their results, typed."""

from __future__ import annotations

from datetime import datetime

from whence_client.problem import Problem
from whence_client.resource import Resource
from whence_client.types import Attribution


class Batch(Resource):
    """Many questions in one file. `state` is queued, running, ready, failed or cancelled; `job_id` is its job."""

    id: str
    job_id: str | None = None
    state: str
    source: str | None = None
    model: str | None = None
    index: str | None = None
    lines: int = 0
    succeeded: int = 0
    failed: int = 0
    error: Problem | None = None
    created_at: datetime | None = None
    finished_at: datetime | None = None


class BatchResult(Resource):
    """Of one line: `body` where `status` is 200, else `problem`."""

    line: int
    custom_id: str | None = None
    status: int
    body: Attribution | None = None
    problem: Problem | None = None
