"""/ui/datasets: datasets and their rows, and the form that uploads one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from app.amending import NamedPatch
from app.dashboard.browsing.forms import REFUSALS, Refusal, Sent, json_object, refusal_of
from app.dashboard.browsing.page_datasets import (
    change_dataset,
    find_row,
    load_dataset,
    load_datasets,
    load_row,
    load_rows,
    load_standings,
    steer_load,
)
from app.dashboard.browsing.rows import RowFields
from app.dashboard.browsing.words import address_of
from app.dashboard.pages import HEADERS, fragment, page, wants_fragment
from app.datasets.service import create_dataset, delete_dataset
from app.datasets.uploads import upload_of
from app.dependencies import Services, ServicesDep, Tenant
from app.errors import AppError
from app.forms import sent_file

router = APIRouter(prefix="/ui/datasets", include_in_schema=False)

FIELDS = ("name", "file", "format")
FORMATS = [("", "told by the file"), ("jsonl", "JSONL"), ("json", "JSON"), ("csv", "CSV"), ("parquet", "Parquet")]
Position = Annotated[int, Query(ge=0, lt=2**63)]


@router.get("")
def datasets(services: ServicesDep, tenant: Tenant, name: str = "", cursor: str | None = None) -> Response:
    loaded = load_datasets(services, tenant, name=name.strip() or None, cursor=cursor)
    return page("browsing/datasets.html", section="datasets", loaded=loaded, name=name, paged=cursor is not None)


@router.get("/new")
def new_dataset(services: ServicesDep, name: str = "") -> Response:
    return _form(services, {"name": name}, None)


@router.post("")
async def upload(request: Request, services: ServicesDep, tenant: Tenant) -> Response:
    """As POST /v1/datasets takes it, and within the same limits: the file goes to the disk as it comes."""
    sent: dict[str, Any] = {}
    try:
        async with sent_file(request) as found:
            sent = {name: value for name, value in found.fields.items() if isinstance(value, str)}
            body = upload_of(found, {name: value for name, value in sent.items() if value})
            row = await run_in_threadpool(create_dataset, services, tenant, body)
    except REFUSALS as error:
        return await run_in_threadpool(_form, services, sent, refusal_of(error, FIELDS))
    return _to(row.id)


@router.get("/{dataset_id}")
def dataset(
    request: Request,
    dataset_id: str,
    services: ServicesDep,
    tenant: Tenant,
    q: str = "",
    tag: str = "",
    label: str = "",
    start: Position = 0,
    before: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
    go: str = "",
) -> Response:
    fields = RowFields(q, tag.strip(), label)
    try:
        if go.strip():
            position, by_id = find_row(services, tenant, dataset_id, go.strip())
            there = f"/rows/{position}" if by_id else f"?start={position}"
            return RedirectResponse(f"/ui/datasets/{dataset_id}{there}", status_code=303, headers=HEADERS)
        if wants_fragment(request.headers):
            rows = load_rows(services, tenant, dataset_id, fields, start=start, before=before)
            address = f"/ui/datasets/{dataset_id}"
            return fragment("browsing/_rows.html", rows=rows, fields=fields, address=address)
        return _dataset(services, tenant, dataset_id, fields=fields, start=start, before=before)
    except AppError as error:
        if not error.errors:
            raise
        return _dataset(
            services, tenant, dataset_id, refusal_of(error, ("go", "q", "tag", "label")), typed=fields, go=go
        )


@router.post("/{dataset_id}")
def change(dataset_id: str, sent: Sent, services: ServicesDep, tenant: Tenant) -> Response:
    try:
        metadata = json_object(sent.get("metadata", ""), "metadata")
        patch = NamedPatch(name=sent.get("name", ""), metadata=metadata)
        change_dataset(services, tenant, dataset_id, patch, sent.get("etag"))
    except REFUSALS as error:
        return _dataset(services, tenant, dataset_id, refusal_of(error, ("name", "metadata")), sent=sent)
    return _to(dataset_id)


@router.post("/{dataset_id}/delete")
def delete(dataset_id: str, services: ServicesDep, tenant: Tenant) -> Response:
    try:
        delete_dataset(services, tenant, dataset_id)
    except REFUSALS as error:
        return _dataset(services, tenant, dataset_id, refusal_of(error))
    return RedirectResponse("/ui/datasets", status_code=303, headers=HEADERS)


@router.post("/{dataset_id}/cancel")
def cancel(dataset_id: str, services: ServicesDep, tenant: Tenant) -> Response:
    return _steered(services, tenant, dataset_id, resume=False)


@router.post("/{dataset_id}/resume")
def resume(dataset_id: str, services: ServicesDep, tenant: Tenant) -> Response:
    return _steered(services, tenant, dataset_id, resume=True)


@router.get("/{dataset_id}/rows/{position}")
def row(
    request: Request, dataset_id: str, position: int, services: ServicesDep, tenant: Tenant, standing: bool = False
) -> Response:
    """The permalink of a row. With `standing`: also its place in every index, which takes longer."""
    if standing and wants_fragment(request.headers):
        standings = load_standings(services, tenant, dataset_id, position)
        return fragment("browsing/_standings.html", standings=standings, address=None)
    loaded = load_row(services, tenant, dataset_id, position)
    standings = load_standings(services, tenant, dataset_id, position) if standing else None
    address = f"/ui/datasets/{dataset_id}/rows/{position}?standing=1"
    return page("browsing/row.html", section="datasets", loaded=loaded, standings=standings, address=address)


def _steered(services: Services, tenant: str, dataset_id: str, *, resume: bool) -> Response:
    try:
        steer_load(services, tenant, dataset_id, resume=resume)
    except REFUSALS as error:
        return _dataset(services, tenant, dataset_id, refusal_of(error))
    return _to(dataset_id)


def _dataset(
    services: Services,
    tenant: str,
    dataset_id: str,
    refusal: Refusal | None = None,
    *,
    fields: RowFields | None = None,
    typed: RowFields | None = None,
    sent: dict[str, str] | None = None,
    start: int = 0,
    before: int | None = None,
    go: str = "",
) -> Response:
    """`typed`: a filter that was refused; the rows are then shown without one. Raises NotFound."""
    fields = fields or RowFields()
    loaded = load_dataset(services, tenant, dataset_id, fields, start=start, before=before)
    return page(
        "browsing/dataset.html",
        section="datasets",
        status=200 if refusal is None else refusal.status,
        loaded=loaded,
        dataset=loaded.dataset,
        address=f"/ui/datasets/{dataset_id}",
        rows=loaded.rows,
        fields=typed or fields,
        go=go,
        refusal=refusal,
        used_by=address_of(refusal.used_by) if refusal else None,
        sent={"name": loaded.dataset.name, "metadata": loaded.metadata} | (sent or {}),
    )


def _form(services: Services, sent: dict[str, str], refusal: Refusal | None) -> Response:
    return page(
        "browsing/dataset_new.html",
        section="datasets",
        status=200 if refusal is None else refusal.status,
        values=dict.fromkeys(FIELDS, "") | sent,
        formats=FORMATS,
        limits=services.settings,
        refusal=refusal,
    )


def _to(dataset_id: str) -> Response:
    return RedirectResponse(f"/ui/datasets/{dataset_id}", status_code=303, headers=HEADERS)
