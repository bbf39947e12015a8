"""/ui/attributions/{id}: one answer, its rows as CSV, deleting it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from app.dashboard.asking.export import rows_csv
from app.dashboard.asking.forms import AskForm
from app.dashboard.asking.page import delete_stored, load_stored
from app.dashboard.asking.shown import page_headers, problem_response, stored_fragment, stored_page
from app.dashboard.pages import wants_fragment
from app.dependencies import ServicesDep, Tenant
from app.errors import AppError, NotReady

router = APIRouter(prefix="/ui/attributions", include_in_schema=False)


@router.get("/{attribution_id}")
def attribution(request: Request, attribution_id: str, services: ServicesDep, tenant: Tenant) -> Response:
    """The permalink; for htmx, the answer alone."""
    try:
        stored = load_stored(services, tenant, attribution_id)
    except AppError as error:
        return problem_response(request, services, tenant, AskForm(), error)
    if wants_fragment(request.headers):
        return HTMLResponse(stored_fragment(request, services, stored), headers=page_headers())
    return stored_page(request, services, tenant, stored)


@router.get("/{attribution_id}/rows.csv")
def rows(attribution_id: str, services: ServicesDep, tenant: Tenant) -> Response:
    """Raises NotFound; NotReady where there is no answer (yet)."""
    stored = load_stored(services, tenant, attribution_id)
    if "query" not in stored.body:
        detail = f"Attribution '{attribution_id[:60]}' is {stored.body['state']}: it has no rows."
        raise NotReady(detail, remedy="Wait until it is answered, or ask again.")
    names = {"Content-Disposition": f'attachment; filename="{stored.body["id"]}.csv"'}
    return Response(rows_csv(stored.body), media_type="text/csv; charset=utf-8", headers=page_headers(names))


@router.post("/{attribution_id}/delete")
def delete(attribution_id: str, services: ServicesDep, tenant: Tenant) -> Response:
    """Raises NotFound, InUse."""
    delete_stored(services, tenant, attribution_id)
    return RedirectResponse("/ui/attributions", status_code=303, headers=page_headers())
