"""/ui/indexes/{id}/self-influence: odd and mislabelled rows, to look at and to take away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from app.dashboard.browsing.forms import Refusal, refusal_of
from app.dashboard.browsing.page_self_influence import (
    MOST_EXPORTED,
    Format,
    Order,
    chosen_rows,
    first_rows,
    load_self_influence,
)
from app.dashboard.browsing.rows import RowFields
from app.dashboard.pages import HEADERS, fragment, page, wants_fragment
from app.dependencies import Services, ServicesDep, Tenant
from app.errors import AppError

router = APIRouter(prefix="/ui/indexes/{index_id}/self-influence", include_in_schema=False)

_TYPES = {"jsonl": "application/jsonl", "csv": "text/csv; charset=utf-8"}


@router.get("")
def self_influence(
    request: Request,
    index_id: str,
    services: ServicesDep,
    tenant: Tenant,
    order: Order = "desc",
    q: str = "",
    tag: str = "",
    label: str = "",
    start: Annotated[int, Query(ge=0, lt=2**63)] = 0,
) -> Response:
    fields = RowFields(q, tag.strip(), label)
    try:
        return _page(request, services, tenant, index_id, fields, order, start)
    except AppError as error:
        if not error.errors or error.status != 422:
            raise
        return _page(
            request, services, tenant, index_id, RowFields(), order, 0, refusal_of(error, ("q", "tag", "label")), fields
        )


@router.get("/export")
def export(
    index_id: str,
    services: ServicesDep,
    tenant: Tenant,
    row: Annotated[list[int] | None, Query()] = None,
    first: Annotated[int | None, Query(ge=1, le=MOST_EXPORTED)] = None,
    format: Format = "jsonl",
    order: Order = "desc",
    q: str = "",
    tag: str = "",
    label: str = "",
) -> Response:
    """The rows that are ticked (`row`, positions), or the `first` of the list."""
    if first is None:
        lines = chosen_rows(services, tenant, index_id, row or [], format)
    else:
        fields = RowFields(q, tag.strip(), label)
        lines = first_rows(services, tenant, index_id, fields, order, first, format)
    return _file(lines, f"self-influence-{index_id}.{format}", format)


def _file(lines: Iterator[bytes], name: str, format: Format) -> Response:
    headers = HEADERS | {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(lines, media_type=_TYPES[format], headers=headers)


def _page(
    request: Request,
    services: Services,
    tenant: str,
    index_id: str,
    fields: RowFields,
    order: Order,
    start: int,
    refusal: Refusal | None = None,
    typed: RowFields | None = None,
) -> Response:
    """`typed`: a filter that was refused."""
    loaded = load_self_influence(services, tenant, index_id, fields, order, start)
    variables = {
        "loaded": loaded,
        "index": loaded.index,
        "address": f"/ui/indexes/{loaded.index.id}/self-influence",
        "fields": typed or fields,
        "order": order,
        "most": min(MOST_EXPORTED, loaded.total),
        "refusal": refusal,
    }
    if wants_fragment(request.headers):
        return fragment("browsing/_self_rows.html", **variables)
    return page(
        "browsing/self_influence.html",
        section="indexes",
        status=200 if refusal is None else refusal.status,
        **variables,
    )
