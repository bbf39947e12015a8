"""Writing the audit log, and reading it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from app.audit_log.repository import AuditLogRepository
from app.pagination import PageRequest
from app.tables import AuditEventRow


class AuditLog:
    """Of one tenant, within one transaction."""

    def __init__(self, session: Session, tenant: str) -> None:
        self.repository = AuditLogRepository(session, tenant)

    def add(
        self,
        operation: str,
        path: str,
        status: int,
        *,
        key_id: str | None = None,
        resource_id: str | None = None,
        request_id: str | None = None,
        address: str | None = None,
    ) -> None:
        row = AuditEventRow(
            key_id=key_id,
            operation=operation,
            resource_id=resource_id,
            path=path,
            status=status,
            request_id=request_id,
            address=address,
        )
        self.repository.add(row)

    def page(
        self, request: PageRequest, *, key: str | None, resource: str | None, since: datetime | None
    ) -> tuple[list[AuditEventRow], str | None]:
        return self.repository.matching(request, key=key, resource=resource, since=since)
