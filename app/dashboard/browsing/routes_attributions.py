"""/ui/attributions: the saved answers. One of them is in app/dashboard/asking."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from app.dashboard.browsing.forms import Refusal, refusal_of
from app.dashboard.browsing.page_attributions import STATES, AnswerFilter, load_answers
from app.dashboard.pages import page
from app.dependencies import Services, ServicesDep, Tenant
from app.errors import AppError, BadCursor

router = APIRouter(prefix="/ui/attributions", include_in_schema=False)


@router.get("")
def answers(
    services: ServicesDep,
    tenant: Tenant,
    model: str = "",
    index: str = "",
    since: str = "",
    state: str = "",
    cursor: str | None = None,
) -> Response:
    wanted = AnswerFilter(model, index, since.strip(), state)
    try:
        return _page(services, tenant, wanted, cursor)
    except AppError as error:
        if isinstance(error, BadCursor):
            raise
        shown = AnswerFilter(model, index, "", state)
        return _page(services, tenant, shown, None, refusal_of(error, ("since",)), wanted)


def _page(
    services: Services,
    tenant: str,
    wanted: AnswerFilter,
    cursor: str | None,
    refusal: Refusal | None = None,
    typed: AnswerFilter | None = None,
) -> Response:
    """`typed`: a filter that was refused."""
    loaded = load_answers(services, tenant, wanted, cursor)
    fields = typed or wanted
    return page(
        "browsing/attributions.html",
        section="attributions",
        status=200 if refusal is None else refusal.status,
        loaded=loaded,
        fields=fields,
        query={"model": fields.model, "index": fields.index, "since": fields.since, "state": fields.state},
        states=STATES,
        paged=cursor is not None,
        refusal=refusal,
    )
