"""/v1/attributions"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import JSONResponse

from app.attributions.prefer import preference
from app.attributions.schemas import AttributionCreate, AttributionOut, AttributionPending, QuerySetCreate, State
from app.attributions.service import AttributionsService, ask
from app.attributions.trusted import TrustedAnswers
from app.bodies import Moment, problems
from app.dependencies import Paging, ReadSession, ServicesDep, Tenant, WriteSession
from app.etags import TaggedRoute, tagged
from app.pagination import Page

router = APIRouter(prefix="/v1/attributions", tags=["attributions"], route_class=TaggedRoute)

# Answers are made by app.attributions.answer and trusted alone, so they leave as they are: models only document them.
ACCEPTED = {202: {"model": AttributionPending, "description": "A job goes on with it; see Location"}}

ASKED: dict[str, Any] = {
    "response_model": AttributionOut,
    "responses": ACCEPTED | problems(400, 404, 409, 413, 422, 429, 503, 507),
}
Prefer = Annotated[str | None, Header(description="`respond-async`, or `wait=<seconds>`: then 202 and a job.")]
CacheControl = Annotated[str | None, Header(description="`no-cache`: compute even what was asked before.")]


@router.post("", operation_id="create_attribution", summary="Which training examples caused this output?", **ASKED)
async def create_attribution(
    body: AttributionCreate,
    services: ServicesDep,
    tenant: Tenant,
    prefer: Prefer = None,
    cache_control: CacheControl = None,
) -> Response:
    wish = preference(prefer, services.settings.max_wait_seconds)
    use_stored = "no-cache" not in (cache_control or "").lower()
    answered = await ask(services, tenant, body, wish, use_stored=use_stored)
    return JSONResponse(answered.body, status_code=answered.status, headers=answered.headers)


@router.post(
    "/query-set", operation_id="attribute_query_set", summary="Which examples drive a behaviour: many queries", **ASKED
)
async def attribute_query_set(
    body: QuerySetCreate,
    services: ServicesDep,
    tenant: Tenant,
    prefer: Prefer = None,
    cache_control: CacheControl = None,
) -> Response:
    return await create_attribution(body, services, tenant, prefer, cache_control)


@router.get(
    "",
    operation_id="list_attributions",
    summary="List attributions, newest first",
    response_model=Page[AttributionOut | AttributionPending],
    responses=problems(422, 503),
)
def list_attributions(
    page: Paging,
    session: ReadSession,
    tenant: Tenant,
    model: Annotated[str | None, Query(description="Only of this model.")] = None,
    index: Annotated[str | None, Query(description="Only from this index.")] = None,
    since: Annotated[Moment | None, Query(description="Only those asked at or after (RFC 3339).")] = None,
    state: Annotated[State | None, Query(description="Only those in this state.")] = None,
) -> Response:
    rows, cursor = AttributionsService(session, tenant).page(page, model=model, index=index, since=since, state=state)
    return JSONResponse({"data": TrustedAnswers(session, tenant).all_shown(rows), "next_cursor": cursor})


@router.get(
    "/{attribution_id}",
    operation_id="get_attribution",
    summary="One attribution",
    response_model=AttributionOut | AttributionPending,
    **tagged(404, 422, 503),
)
def get_attribution(attribution_id: str, session: ReadSession, tenant: Tenant) -> Response:
    row = AttributionsService(session, tenant).get(attribution_id)
    return JSONResponse(TrustedAnswers(session, tenant).shown(row))


@router.delete(
    "/{attribution_id}",
    status_code=204,
    operation_id="delete_attribution",
    summary="Delete a stored answer",
    responses=problems(404, 409, 422, 503),
)
def delete_attribution(attribution_id: str, session: WriteSession, tenant: Tenant) -> None:
    AttributionsService(session, tenant).delete(attribution_id)
