"""/v1/audit-log"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from app.audit_log.schemas import AuditEventOut
from app.audit_log.service import AuditLog
from app.bodies import Moment, problems
from app.dependencies import Paging, ReadSession, Tenant
from app.pagination import Page

router = APIRouter(prefix="/v1/audit-log", tags=["keys"])


@router.get(
    "",
    operation_id="list_audit_log",
    summary="Who changed what, newest first",
    responses=problems(422, 503),
)
def list_audit_log(
    page: Paging,
    session: ReadSession,
    tenant: Tenant,
    key: Annotated[str | None, Query(description="Only by this key.")] = None,
    resource: Annotated[str | None, Query(description="Only about this id.")] = None,
    since: Annotated[Moment | None, Query(description="Only at or after (RFC 3339).")] = None,
) -> Page[AuditEventOut]:
    rows, cursor = AuditLog(session, tenant).page(page, key=key, resource=resource, since=since)
    return Page(data=[AuditEventOut.model_validate(row) for row in rows], next_cursor=cursor)
