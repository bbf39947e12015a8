"""/ui/attributions/{id}/verify: what a check costs, and its start; /ui/checks/{id}: one alone.

What changes something is named as the API's operation is: the audit log tells it by that name.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from app.checks.service import create_check, delete_check, estimate_check
from app.dashboard.asking.page import load_stored
from app.dashboard.asking.shown import stored_page
from app.dashboard.checking.forms import CheckForm, check_of
from app.dashboard.checking.page import load_check
from app.dashboard.pages import HEADERS, Notice, fragment, notice_of, page, wants_fragment
from app.dependencies import Services, ServicesDep, Tenant
from app.errors import AppError, problem_of
from engine.causal.checks import CheckCost
from engine.errors import EngineError

router = APIRouter(prefix="/ui", include_in_schema=False)
Sent = Annotated[CheckForm, Form()]


@router.post("/attributions/{attribution_id}/verify/estimate", name="estimate_verification")
def estimate(request: Request, attribution_id: str, services: ServicesDep, tenant: Tenant, form: Sent) -> Response:
    try:
        cost = estimate_check(services, tenant, attribution_id, check_of(form))
    except (AppError, EngineError) as error:
        return _refused(request, services, tenant, attribution_id, form, error)
    return _part(request, services, tenant, attribution_id, form, cost=cost)


@router.post("/attributions/{attribution_id}/verify", name="verify_attribution")
def verify(request: Request, attribution_id: str, services: ServicesDep, tenant: Tenant, form: Sent) -> Response:
    try:
        create_check(services, tenant, attribution_id, check_of(form))
    except (AppError, EngineError) as error:
        return _refused(request, services, tenant, attribution_id, form, error)
    if wants_fragment(request.headers):
        return _part(request, services, tenant, attribution_id)
    return RedirectResponse(f"/ui/attributions/{attribution_id}#checks", status_code=303, headers=HEADERS)


@router.get("/checks/{check_id}")
def check(check_id: str, services: ServicesDep, tenant: Tenant) -> Response:
    """Raises NotFound."""
    return page("checking/check.html", section="attributions", it=load_check(services, tenant, check_id))


@router.post("/checks/{check_id}/delete", name="delete_check")
def delete(check_id: str, services: ServicesDep, tenant: Tenant) -> Response:
    """Raises NotFound, InUse."""
    attribution = load_check(services, tenant, check_id).attribution
    delete_check(services, tenant, check_id)
    return RedirectResponse(f"/ui/attributions/{attribution}#checks", status_code=303, headers=HEADERS)


def _refused(
    request: Request,
    services: Services,
    tenant: str,
    attribution_id: str,
    form: CheckForm,
    error: AppError | EngineError,
) -> Response:
    body = problem_of(error)
    return _part(request, services, tenant, attribution_id, form, notice=notice_of(body), status=body["status"])


def _part(
    request: Request,
    services: Services,
    tenant: str,
    attribution_id: str,
    form: CheckForm | None = None,
    *,
    cost: CheckCost | None = None,
    notice: Notice | None = None,
    status: int = 200,
) -> Response:
    """For htmx the part alone, else the whole answer with it. Raises NotFound."""
    stored = load_stored(services, tenant, attribution_id, form, cost)
    if stored.checks is None or not wants_fragment(request.headers):
        return stored_page(request, services, tenant, stored, status=status, refusal=notice)
    return fragment("checking/_part.html", status=status, checks=stored.checks, refusal=notice)
