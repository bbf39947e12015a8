"""/v1/attributions/batches, and /v1/attributions/batch, which makes one"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from app.batches import service
from app.batches.schemas import CREATE_BODY, RESULTS, BatchOut
from app.batches.service import BatchesService, shown_batch
from app.batches.uploads import BatchBody
from app.bodies import problems
from app.dependencies import Paging, ReadSession, ServicesDep, Tenant
from app.etags import TaggedRoute, tagged
from app.pagination import Page

router = APIRouter(prefix="/v1/attributions", tags=["attributions"], route_class=TaggedRoute)
CREATE: dict[str, Any] = {
    "status_code": 202,
    "summary": "Ask many questions at once (a job)",
    "openapi_extra": CREATE_BODY,
    "responses": problems(400, 404, 409, 413, 415, 422, 503, 507),
}


@router.post("/batch", operation_id="attribute_batch", **CREATE)
@router.post("/batches", operation_id="create_batch", **CREATE)
def create_batch(body: BatchBody, services: ServicesDep, tenant: Tenant, response: Response) -> BatchOut:
    row = service.create_batch(services, tenant, body)
    response.headers["Location"] = f"/v1/jobs/{row.job_id}"
    return shown_batch(row)


@router.get("/batches", operation_id="list_batches", summary="List batches, newest first", responses=problems(422, 503))
def list_batches(page: Paging, services: ServicesDep, session: ReadSession, tenant: Tenant) -> Page[BatchOut]:
    rows, cursor = BatchesService(session, tenant, services.settings).page(page)
    return Page(data=[shown_batch(row) for row in rows], next_cursor=cursor)


@router.get(
    "/batches/{batch_id}", operation_id="get_batch", summary="One batch: how far it is", **tagged(404, 422, 503)
)
def get_batch(batch_id: str, services: ServicesDep, session: ReadSession, tenant: Tenant) -> BatchOut:
    return shown_batch(BatchesService(session, tenant, services.settings).get(batch_id))


@router.get(
    "/batches/{batch_id}/results",
    operation_id="get_batch_results",
    summary="The answers of a batch as JSONL, in the order of its file",
    response_class=StreamingResponse,
    responses=RESULTS | problems(404, 409, 422, 503),
)
def get_batch_results(
    batch_id: str,
    services: ServicesDep,
    tenant: Tenant,
    partial: Annotated[bool, Query(description="Those there are, also while it is not ready.")] = False,
) -> Response:
    results = service.stream_results(services, tenant, batch_id, partial=partial)
    headers = {"Content-Disposition": f'attachment; filename="{batch_id}.jsonl"'}
    return StreamingResponse(results, media_type="application/x-ndjson", headers=headers)


@router.delete(
    "/batches/{batch_id}",
    status_code=204,
    operation_id="delete_batch",
    summary="Delete a batch and its file of results; the answers stay",
    responses=problems(404, 409, 422, 503),
)
def delete_batch(batch_id: str, services: ServicesDep, tenant: Tenant) -> None:
    service.delete_batch(services, tenant, batch_id)
