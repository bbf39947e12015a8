"""The audit log over HTTP."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict


class AuditEventOut(BaseModel):
    """`operation`: the API's operation id. `key_id` is null where no key was needed. `resource_id`: what was made or
    changed."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    created_at: datetime
    key_id: str | None
    operation: str
    resource_id: str | None
    path: str
    status: int
    request_id: str | None
    address: str | None
