"""/v1/evaluations"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.amending import CHANGED, NamedPatch
from app.bodies import problems
from app.dependencies import Paging, ReadSession, ServicesDep, Tenant, WriteSession
from app.etags import ForChange, TaggedRoute, etag_of, tagged
from app.evaluations import service
from app.evaluations.schemas import (
    EvaluationCostOut,
    EvaluationCreate,
    EvaluationFiguresOut,
    EvaluationOut,
    EvaluationSummary,
    State,
)
from app.evaluations.service import EvaluationsService, shown_evaluation, shown_summary
from app.pagination import Page

router = APIRouter(prefix="/v1/evaluations", tags=["evaluations"], route_class=TaggedRoute)


@router.post(
    "",
    status_code=202,
    operation_id="create_evaluation",
    summary="Measure how far an index can be trusted (a job)",
    responses=problems(400, 404, 409, 413, 422, 503),
)
def create_evaluation(
    body: EvaluationCreate, services: ServicesDep, tenant: Tenant, response: Response
) -> EvaluationSummary:
    row = service.create_evaluation(services, tenant, body)
    response.headers["Location"] = f"/v1/jobs/{row.job_id}"
    return shown_summary(row)


@router.post(
    "/estimate",
    operation_id="estimate_evaluation",
    summary="Retrainings and time of an evaluation, before they are spent",
    responses=problems(400, 404, 409, 413, 422, 503, 507),
)
def estimate_evaluation(body: EvaluationCreate, services: ServicesDep, tenant: Tenant) -> EvaluationCostOut:
    return EvaluationCostOut.model_validate(service.estimate_evaluation(services, tenant, body))


@router.get(
    "",
    operation_id="list_evaluations",
    summary="List evaluations, newest first, without their scorecards",
    responses=problems(422, 503),
)
def list_evaluations(
    page: Paging,
    services: ServicesDep,
    session: ReadSession,
    tenant: Tenant,
    name: Annotated[str | None, Query(description="Only those of this name.")] = None,
    state: Annotated[State | None, Query(description="Only those in this state.")] = None,
    model: Annotated[str | None, Query(description="Only of this model.")] = None,
    dataset: Annotated[str | None, Query(description="Only of this dataset.")] = None,
    index: Annotated[str | None, Query(description="Only of this index.")] = None,
) -> Page[EvaluationSummary]:
    wanted = {"name": name, "state": state, "model": model, "dataset": dataset, "index": index}
    rows, cursor = EvaluationsService(session, tenant, services.settings).page(page, **wanted)
    return Page(data=[shown_summary(row) for row in rows], next_cursor=cursor)


@router.get(
    "/{evaluation_id}",
    operation_id="get_evaluation",
    summary="One evaluation, with its scorecard",
    **tagged(404, 422, 503),
)
def get_evaluation(evaluation_id: str, services: ServicesDep, session: ReadSession, tenant: Tenant) -> EvaluationOut:
    return shown_evaluation(EvaluationsService(session, tenant, services.settings).get(evaluation_id))


@router.get(
    "/{evaluation_id}/figures",
    operation_id="get_evaluation_figures",
    summary="What a scorecard's charts show: predicted against measured, falls, curves",
    **tagged(404, 422, 503),
)
def get_evaluation_figures(
    evaluation_id: str, services: ServicesDep, session: ReadSession, tenant: Tenant
) -> EvaluationFiguresOut:
    return EvaluationsService(session, tenant, services.settings).figures(evaluation_id)


@router.patch(
    "/{evaluation_id}",
    operation_id="update_evaluation",
    summary="Rename an evaluation, or note something",
    responses=CHANGED,
)
def update_evaluation(
    evaluation_id: str,
    body: NamedPatch,
    preconditions: ForChange,
    services: ServicesDep,
    session: WriteSession,
    tenant: Tenant,
    response: Response,
) -> EvaluationOut:
    evaluation = EvaluationsService(session, tenant, services.settings).amend(evaluation_id, body, preconditions)
    response.headers["ETag"] = etag_of(evaluation)
    return evaluation


@router.delete(
    "/{evaluation_id}",
    status_code=204,
    operation_id="delete_evaluation",
    summary="Delete an evaluation, its files and its scorecard",
    responses=problems(404, 409, 422, 503),
)
def delete_evaluation(evaluation_id: str, services: ServicesDep, tenant: Tenant) -> None:
    service.delete_evaluation(services, tenant, evaluation_id)
