"""/v1/indexes"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import StreamingResponse

from app.amending import CHANGED, NamedPatch
from app.bodies import problems
from app.datasets.rendering import shown
from app.dependencies import Paging, ReadSession, ServicesDep, Tenant
from app.etags import ForChange, TaggedRoute, etag_of, tagged
from app.indexes import service
from app.indexes.exporting import export_index as exported
from app.indexes.importing import import_index as imported
from app.indexes.schemas import IMPORT_BODY, EstimateOut, IndexCreate, IndexOut, SelfInfluenceOut, State
from app.indexes.service import IndexesService, shown_index
from app.indexes.uploads import ImportBody
from app.pagination import MAX_LIMIT, Page, decode_place, encode_cursor

router = APIRouter(prefix="/v1/indexes", tags=["indexes"], route_class=TaggedRoute)

_TAR = {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}


@router.post(
    "",
    status_code=202,
    operation_id="create_index",
    summary="Build an index (a job)",
    responses=problems(400, 404, 409, 413, 422, 503),
)
def create_index(body: IndexCreate, services: ServicesDep, tenant: Tenant, response: Response) -> IndexOut:
    row = service.create_index(services, tenant, body)
    response.headers["Location"] = f"/v1/jobs/{row.job_id}"
    return shown_index(row)


@router.post(
    "/estimate",
    operation_id="estimate_index",
    summary="Time, memory and disk of a build, before they are spent",
    responses=problems(400, 404, 409, 413, 422, 503),
)
def estimate_index(body: IndexCreate, services: ServicesDep, tenant: Tenant) -> EstimateOut:
    return EstimateOut.model_validate(service.estimate_index(services, tenant, body))


@router.get("", operation_id="list_indexes", summary="List indexes, newest first", responses=problems(422, 503))
def list_indexes(
    page: Paging,
    services: ServicesDep,
    session: ReadSession,
    tenant: Tenant,
    name: Annotated[str | None, Query(description="Only those of this name: its versions.")] = None,
    state: Annotated[State | None, Query(description="Only those in this state.")] = None,
    model: Annotated[str | None, Query(description="Only of this model.")] = None,
    dataset: Annotated[str | None, Query(description="Only of this dataset.")] = None,
) -> Page[IndexOut]:
    indexes = IndexesService(session, tenant, services.settings)
    rows, cursor = indexes.page(page, name=name, state=state, model=model, dataset=dataset)
    return Page(data=[shown_index(row) for row in rows], next_cursor=cursor)


@router.get("/{index_id}", operation_id="get_index", summary="One index", **tagged(404, 422, 503))
def get_index(index_id: str, services: ServicesDep, session: ReadSession, tenant: Tenant) -> IndexOut:
    return shown_index(IndexesService(session, tenant, services.settings).get(index_id))


@router.patch(
    "/{index_id}",
    operation_id="update_index",
    summary="Name an index that has no name, or note something",
    responses=CHANGED,
)
def update_index(
    index_id: str, body: NamedPatch, preconditions: ForChange, services: ServicesDep, tenant: Tenant, response: Response
) -> IndexOut:
    index = service.amend_index(services, tenant, index_id, body, preconditions)
    response.headers["ETag"] = etag_of(index)
    return index


@router.delete(
    "/{index_id}",
    status_code=204,
    operation_id="delete_index",
    summary="Delete an index and its files; stored answers and evaluations stay",
    responses=problems(404, 409, 422, 503),
)
def delete_index(index_id: str, services: ServicesDep, tenant: Tenant) -> None:
    service.delete_index(services, tenant, index_id)


@router.post(
    "/import",
    status_code=201,
    operation_id="import_index",
    summary="Take in an exported index",
    openapi_extra=IMPORT_BODY,
    responses=problems(400, 404, 409, 413, 415, 422, 503, 507),
)
def import_index(body: ImportBody, services: ServicesDep, tenant: Tenant, response: Response) -> IndexOut:
    row = imported(services, tenant, body.fields, body.file)
    response.headers["Location"] = f"/v1/indexes/{row.id}"
    return shown_index(row)


@router.get(
    "/{index_id}/export",
    operation_id="export_index",
    summary="The index and its rows as one file, for another server",
    response_class=StreamingResponse,
    responses={200: {"description": "A tar; the connection breaks off where a file is found damaged", "content": _TAR}}
    | problems(404, 409, 422, 503),
)
def export_index(index_id: str, services: ServicesDep, tenant: Tenant) -> StreamingResponse:
    archive = exported(services, tenant, index_id)
    attachment = f'attachment; filename="{index_id}.tar"'
    headers = {"Content-Length": str(archive.bytes), "Content-Disposition": attachment}
    return StreamingResponse(iter(archive), media_type="application/x-tar", headers=headers)


@router.get(
    "/{index_id}/self-influence",
    operation_id="list_self_influence",
    summary="Rows by their score against themselves: mislabelled and odd rows first",
    responses=problems(404, 409, 422, 503),
)
def list_self_influence(
    index_id: Annotated[str, Path(description="An index, or an alias.")],
    services: ServicesDep,
    tenant: Tenant,
    order: Literal["desc", "asc"] = "desc",
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 50,
) -> Page[SelfInfluenceOut]:
    passed = 0 if cursor is None else decode_place(cursor)
    with services.database.read() as session:
        live = IndexesService(session, tenant, services.settings).live(index_id)
    found = services.engine.self_influence(live.dataset_dir, live.index_dir, order, limit, passed)
    rows = [
        SelfInfluenceOut(
            rank=rank,
            example_id=row.example_id,
            position=row.position,
            score=row.score,
            **shown(live.rows[row.position]),
        )
        for rank, row in enumerate(found, start=passed + 1)
    ]
    reached = passed + len(rows)
    return Page(data=rows, next_cursor=encode_cursor(reached) if reached < len(live.rows) else None)
