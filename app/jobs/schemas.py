"""Jobs as the API shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.bodies import Problem

JobState = Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"]


class JobProgress(BaseModel):
    """`eta_s`: seconds left in this phase at its own pace; null until there is one."""

    done: int
    total: int
    unit: str
    phase: str
    eta_s: float | None = None


class JobOut(BaseModel):
    """`resource_id`: what the job works for, e.g. the index it builds."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    kind: str
    state: JobState
    resource_id: str | None = None
    progress: JobProgress | None = None
    result: dict[str, Any] | None = None
    error: Problem | None = None
    attempt: int = Field(description="How many times a worker has taken it up.")
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None


class JobEventOut(BaseModel):
    """`data` of `state`: {state, attempt, error?}; `progress`: as JobProgress; `message`: {text}; `end`: {state}."""

    model_config = ConfigDict(from_attributes=True)

    seq: int
    kind: Literal["state", "progress", "message", "end"]
    data: dict[str, Any]
    at: datetime
