"""Rows of `audit_events`."""

from __future__ import annotations

from datetime import datetime

from app.database import Repository
from app.pagination import PageRequest
from app.tables import AuditEventRow


class AuditLogRepository(Repository[AuditEventRow]):
    table, noun = AuditEventRow, "audit event"

    def matching(
        self, request: PageRequest, *, key: str | None, resource: str | None, since: datetime | None
    ) -> tuple[list[AuditEventRow], str | None]:
        where = [AuditEventRow.key_id == key] if key else []
        where += [AuditEventRow.resource_id == resource] if resource else []
        where += [AuditEventRow.created_at >= since] if since else []
        return self.page(request, *where)
