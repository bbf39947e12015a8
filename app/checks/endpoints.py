"""/v1/attributions/{id}/verify and /v1/checks"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.amending import CHANGED, NamedPatch
from app.bodies import problems
from app.checks import service
from app.checks.schemas import CheckCostOut, CheckCreate, CheckOut, CheckSummary, State
from app.checks.service import ChecksService, shown_check, shown_summary
from app.dependencies import Paging, ReadSession, ServicesDep, Tenant, WriteSession
from app.etags import ForChange, TaggedRoute, etag_of, tagged
from app.pagination import Page
from engine.causal.checks import CheckKind

router = APIRouter(prefix="/v1", tags=["checks"], route_class=TaggedRoute)
KindQuery = Annotated[CheckKind | None, Query(description="Only of this kind.")]


@router.post(
    "/attributions/{attribution_id}/verify",
    status_code=202,
    operation_id="verify_attribution",
    summary="Check an answer by an experiment: change the training and measure (a job)",
    responses=problems(400, 404, 409, 413, 422, 503),
)
def verify_attribution(
    attribution_id: str, body: CheckCreate, services: ServicesDep, tenant: Tenant, response: Response
) -> CheckSummary:
    row = service.create_check(services, tenant, attribution_id, body)
    response.headers["Location"] = f"/v1/jobs/{row.job_id}"
    return shown_summary(row)


@router.post(
    "/attributions/{attribution_id}/verify/estimate",
    operation_id="estimate_verification",
    summary="Retrainings, time and memory of a check, before they are spent",
    responses=problems(400, 404, 409, 413, 422, 503, 507),
)
def estimate_verification(
    attribution_id: str, body: CheckCreate, services: ServicesDep, tenant: Tenant
) -> CheckCostOut:
    return CheckCostOut.model_validate(service.estimate_check(services, tenant, attribution_id, body))


@router.get(
    "/attributions/{attribution_id}/checks",
    operation_id="list_attribution_checks",
    summary="List the checks of an answer, newest first, without their results",
    responses=problems(404, 422, 503),
)
def list_attribution_checks(
    attribution_id: str, page: Paging, services: ServicesDep, session: ReadSession, tenant: Tenant
) -> Page[CheckSummary]:
    rows, cursor = ChecksService(session, tenant, services.settings).of_answer(attribution_id, page)
    return Page(data=[shown_summary(row) for row in rows], next_cursor=cursor)


@router.get(
    "/checks",
    operation_id="list_checks",
    summary="List checks, newest first, without their results",
    responses=problems(422, 503),
)
def list_checks(
    page: Paging,
    services: ServicesDep,
    session: ReadSession,
    tenant: Tenant,
    name: Annotated[str | None, Query(description="Only those of this name.")] = None,
    state: Annotated[State | None, Query(description="Only those in this state.")] = None,
    kind: KindQuery = None,
    attribution: Annotated[str | None, Query(description="Only of this answer.")] = None,
    model: Annotated[str | None, Query(description="Only of this model.")] = None,
    index: Annotated[str | None, Query(description="Only of this index.")] = None,
) -> Page[CheckSummary]:
    wanted = {"name": name, "state": state, "kind": kind, "attribution": attribution, "model": model, "index": index}
    rows, cursor = ChecksService(session, tenant, services.settings).page(page, **wanted)
    return Page(data=[shown_summary(row) for row in rows], next_cursor=cursor)


@router.get(
    "/checks/{check_id}", operation_id="get_check", summary="One check, with its result", **tagged(404, 422, 503)
)
def get_check(check_id: str, services: ServicesDep, session: ReadSession, tenant: Tenant) -> CheckOut:
    return shown_check(ChecksService(session, tenant, services.settings).get(check_id))


@router.patch(
    "/checks/{check_id}",
    operation_id="update_check",
    summary="Rename a check, or note something",
    responses=CHANGED,
)
def update_check(
    check_id: str,
    body: NamedPatch,
    preconditions: ForChange,
    services: ServicesDep,
    session: WriteSession,
    tenant: Tenant,
    response: Response,
) -> CheckOut:
    check = ChecksService(session, tenant, services.settings).amend(check_id, body, preconditions)
    response.headers["ETag"] = etag_of(check)
    return check


@router.delete(
    "/checks/{check_id}",
    status_code=204,
    operation_id="delete_check",
    summary="Delete a check, its files and its result",
    responses=problems(404, 409, 422, 503),
)
def delete_check(check_id: str, services: ServicesDep, tenant: Tenant) -> None:
    service.delete_check(services, tenant, check_id)
