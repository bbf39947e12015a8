"""/ui/keys and /ui/audit-log."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Form
from starlette.responses import RedirectResponse, Response

from app.dashboard.pages import HEADERS, Notice, notice_of, page
from app.dashboard.running.page_keys import load_audit_log, load_key, load_keys, make_key, revoke_key
from app.dashboard.running.views_keys import AuditFilter, KeyForm, scope_rows
from app.dashboard.words import moment
from app.dependencies import Asker, Services, ServicesDep, Tenant
from app.errors import AppError, problem_of
from app.keys.scopes import ADMIN, grants
from app.principal import Principal

router = APIRouter(prefix="/ui", include_in_schema=False)
MAKE_KEYS = "keys:write"


@router.get("/keys")
def keys(services: ServicesDep, asker: Asker, cursor: str | None = None) -> Response:
    return _keys(services, asker, KeyForm(), cursor=cursor)


@router.post("/keys", name="create_key")
def create(
    services: ServicesDep,
    asker: Asker,
    name: Annotated[str, Form()] = "",
    scopes: Annotated[list[str], Form()] = [],  # noqa: B006  FastAPI copies it
    days: Annotated[str, Form()] = "",
) -> Response:
    form = KeyForm(name.strip(), tuple(scopes), days.strip())
    first = not services.keys.has_keys()
    try:
        made, text = make_key(services, asker, form)
    except AppError as error:
        body = problem_of(error)
        return _keys(services, asker, form, status=body["status"], notice=notice_of(body))
    headers = {"Location": f"/ui/keys/{made.id}"}
    return page("running/key_made.html", section="keys", status=201, headers=headers, key=made, text=text, first=first)


@router.get("/keys/{key_id}/revoke")
def confirm(key_id: str, services: ServicesDep, asker: Asker) -> Response:
    return page("running/key_revoke.html", section="keys", key=load_key(services, asker, key_id))


@router.post("/keys/{key_id}/revoke", name="revoke_key")
def revoke(key_id: str, services: ServicesDep, asker: Asker) -> Response:
    revoke_key(services, asker, key_id)
    return RedirectResponse("/ui/keys", status_code=303, headers=HEADERS)


@router.get("/audit-log")
def audit_log(
    services: ServicesDep,
    tenant: Tenant,
    key: str = "",
    resource: str = "",
    since: str = "",
    cursor: str | None = None,
) -> Response:
    wanted = AuditFilter(key.strip(), resource.strip(), since.strip())
    loaded = load_audit_log(services, tenant, wanted, cursor)
    here = f"/ui/audit-log?{urlencode(asdict(wanted))}"
    return page("running/audit_log.html", section="keys", loaded=loaded, wanted=wanted, here=here)


def _keys(
    services: Services,
    asker: Principal,
    form: KeyForm,
    *,
    cursor: str | None = None,
    status: int = 200,
    notice: Notice | None = None,
) -> Response:
    loaded = load_keys(services, asker, cursor)
    if loaded.first and form == KeyForm():
        form = KeyForm(scopes=(ADMIN,))
    return page(
        "running/keys.html",
        section="keys",
        status=status,
        loaded=loaded,
        form=form,
        notice=notice,
        scope_rows=scope_rows(asker.scopes),
        latest=moment(asker.expires_at) if asker.expires_at else "",
        may_make=grants(asker.scopes, MAKE_KEYS),
        may_audit=grants(asker.scopes, "audit_log:read"),
    )
