"""/v1/datasets"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query, Request, Response

from app.amending import CHANGED, NamedPatch
from app.bodies import problems
from app.datasets import service
from app.datasets.schemas import CREATE_BODY, DatasetOut, ExampleOut, State
from app.datasets.service import DatasetsService
from app.datasets.uploads import DatasetBody
from app.dependencies import Paging, ReadSession, ServicesDep, Tenant, WriteSession
from app.etags import ForChange, TaggedRoute, etag_of, tagged
from app.pagination import Page
from engine.dataset import RowFilter
from engine.types import Example

if TYPE_CHECKING:
    from engine.dataset import Dataset

router = APIRouter(prefix="/v1/datasets", tags=["datasets"], route_class=TaggedRoute)

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
def list_datasets(
    page: Paging,
    services: ServicesDep,
    session: ReadSession,
    tenant: Tenant,
    name: Annotated[str | None, Query(description="Only those of this name.")] = None,
    state: Annotated[State | None, Query(description="Only those in this state.")] = None,
) -> Page[DatasetOut]:
    rows, cursor = DatasetsService(session, tenant, services.settings).page(page, name=name, state=state)
    return Page(data=[DatasetOut.model_validate(row) for row in rows], next_cursor=cursor)


@router.get("/{dataset_id}", operation_id="get_dataset", summary="One dataset", **tagged(404, 422, 503))
def get_dataset(dataset_id: str, services: ServicesDep, session: ReadSession, tenant: Tenant) -> DatasetOut:
    return DatasetOut.model_validate(DatasetsService(session, tenant, services.settings).get(dataset_id))


@router.patch(
    "/{dataset_id}", operation_id="update_dataset", summary="Rename a dataset, or note something", responses=CHANGED
)
def update_dataset(
    dataset_id: str,
    body: NamedPatch,
    preconditions: ForChange,
    services: ServicesDep,
    session: WriteSession,
    tenant: Tenant,
    response: Response,
) -> DatasetOut:
    dataset = DatasetsService(session, tenant, services.settings).amend(dataset_id, body, preconditions)
    response.headers["ETag"] = etag_of(dataset)
    return dataset


@router.delete(
    "/{dataset_id}",
    status_code=204,
    operation_id="delete_dataset",
    summary="Delete a dataset that no index uses",
    responses=problems(404, 409, 422, 503),
)
def delete_dataset(dataset_id: str, services: ServicesDep, tenant: Tenant) -> None:
    service.delete_dataset(services, tenant, dataset_id)


@router.get(
    "/{dataset_id}/examples",
    operation_id="list_examples",
    summary="Rows in file order; filter by tag.<key>=<value>, label and text",
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
    label: Annotated[str | None, Query(max_length=1000, description="Label that a row has.")] = None,
) -> Page[ExampleOut]:
    rows = _rows(dataset_id, services, session, tenant)
    parameters = request.query_params
    tags = {name.removeprefix(TAG_PREFIX): parameters[name] for name in parameters if name.startswith(TAG_PREFIX)}
    found, cursor = service.examples_page(rows, page, RowFilter(tags, query, label))
    return Page(data=[_out(position, example) for position, example in found], next_cursor=cursor)


@router.get(
    "/{dataset_id}/examples/{example_id:path}",
    operation_id="get_example",
    summary="One row by its id",
    **tagged(404, 409, 422, 503),
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
