"""/v1/datasets"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.bodies import problems
from app.datasets import service
from app.datasets.schemas import CREATE_BODY, DatasetOut, ExampleOut
from app.datasets.service import DatasetsService
from app.datasets.uploads import DatasetBody
from app.dependencies import Paging, ReadSession, ServicesDep, Tenant
from app.idempotency import IdempotentRoute
from app.pagination import Page
from engine.dataset import Dataset
from engine.types import Example

router = APIRouter(prefix="/v1/datasets", tags=["datasets"], route_class=IdempotentRoute)

TAG_PREFIX = "tag."


@router.post(
    "",
    status_code=201,
    operation_id="create_dataset",
    summary="Upload or import a dataset",
    openapi_extra=CREATE_BODY,
    responses={202: {"model": DatasetOut, "description": "Large: a job loads it"}}
    | problems(400, 409, 413, 415, 422, 503, 507),
)
def create_dataset(body: DatasetBody, services: ServicesDep, tenant: Tenant, response: Response) -> DatasetOut:
    row = service.create_dataset(services, tenant, body)
    response.headers["Location"] = f"/v1/datasets/{row.id}"
    if row.job_id is not None:
        response.status_code = 202
        response.headers["Location"] = f"/v1/jobs/{row.job_id}"
    return DatasetOut.model_validate(row)


@router.get("", operation_id="list_datasets", summary="List datasets, newest first", responses=problems(422, 503))
def list_datasets(page: Paging, services: ServicesDep, session: ReadSession, tenant: Tenant) -> Page[DatasetOut]:
    rows, cursor = DatasetsService(session, tenant, services.settings).page(page)
    return Page(data=[DatasetOut.model_validate(row) for row in rows], next_cursor=cursor)


@router.get("/{dataset_id}", operation_id="get_dataset", summary="One dataset", responses=problems(404, 422, 503))
def get_dataset(dataset_id: str, services: ServicesDep, session: ReadSession, tenant: Tenant) -> DatasetOut:
    return DatasetOut.model_validate(DatasetsService(session, tenant, services.settings).get(dataset_id))


@router.delete(
    "/{dataset_id}",
    status_code=204,
    operation_id="delete_dataset",
    summary="Delete a dataset that no index uses",
    responses=problems(404, 409, 422, 503),
)
def delete_dataset(dataset_id: str, services: ServicesDep, tenant: Tenant) -> None:
    with services.database.write() as session:
        row = DatasetsService(session, tenant, services.settings).delete(dataset_id)
    service.remove_files(services, row)


@router.get(
    "/{dataset_id}/examples",
    operation_id="list_examples",
    summary="Rows in file order; filter by tag.<key>=<value> and by text",
    responses=problems(404, 409, 422, 503),
)
def list_examples(
    dataset_id: str,
    page: Paging,
    request: Request,
    services: ServicesDep,
    session: ReadSession,
    tenant: Tenant,
    query: Annotated[str | None, Query(max_length=1000, description="Text that a row contains; case ignored.")] = None,
) -> Page[ExampleOut]:
    rows = _rows(dataset_id, services, session, tenant)
    parameters = request.query_params
    tags = {name.removeprefix(TAG_PREFIX): parameters[name] for name in parameters if name.startswith(TAG_PREFIX)}
    found, cursor = service.examples_page(rows, page, tags, query)
    return Page(data=[_out(position, example) for position, example in found], next_cursor=cursor)


@router.get(
    "/{dataset_id}/examples/{example_id:path}",
    operation_id="get_example",
    summary="One row by its id",
    responses=problems(404, 409, 422, 503),
)
def get_example(
    dataset_id: str, example_id: str, services: ServicesDep, session: ReadSession, tenant: Tenant
) -> ExampleOut:
    return _out(*service.example_by_id(_rows(dataset_id, services, session, tenant), example_id))


def _rows(dataset_id: str, services: ServicesDep, session: ReadSession, tenant: Tenant) -> Dataset:
    datasets = DatasetsService(session, tenant, services.settings)
    return datasets.rows(datasets.ready(dataset_id))


def _out(position: int, example: Example) -> ExampleOut:
    fields = {name: getattr(example, name) for name in ("id", "prompt", "completion", "text", "tags", "label")}
    turns = None if example.messages is None else [{"role": m.role, "content": m.content} for m in example.messages]
    return ExampleOut(position=position, messages=turns, **fields)  # type: ignore[arg-type]
