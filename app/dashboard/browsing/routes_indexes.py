"""/ui/indexes: indexes, and the form that builds one."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from app.amending import NamedPatch
from app.dashboard.browsing.forms import REFUSALS, Refusal, Sent, given, json_object, refusal_of
from app.dashboard.browsing.options import PREFIX, given_options, option_fields
from app.dashboard.browsing.page_indexes import (
    STATES,
    change_index,
    estimated,
    load_choices,
    load_index,
    load_indexes,
    steer_build,
)
from app.dashboard.browsing.words import address_of
from app.dashboard.pages import HEADERS, fragment, page, wants_fragment
from app.dependencies import Services, ServicesDep, Tenant
from app.indexes.options import AUTO, SharedOptions
from app.indexes.schemas import IndexCreate
from app.indexes.service import create_index, delete_index
from engine.types import IndexEstimate, MethodSpec

router = APIRouter(prefix="/ui/indexes", include_in_schema=False)

FIELDS = ("model", "dataset", "name", "method", "checkpoints")
USUAL = "ekfac"  # whose options `auto` takes
SHARED_SCHEMA = SharedOptions.model_json_schema()


@router.get("")
def indexes(
    services: ServicesDep, tenant: Tenant, state: str = "", model: str = "", name: str = "", cursor: str | None = None
) -> Response:
    chosen = {"state": state, "model": model, "name": name}
    loaded = load_indexes(services, tenant, state=state or None, model=model or None, name=name or None, cursor=cursor)
    return page(
        "browsing/indexes.html",
        section="indexes",
        loaded=loaded,
        states=STATES,
        chosen=chosen,
        filtered=any(chosen.values()),
        paged=cursor is not None,
    )


@router.get("/new")
def new_index(request: Request, services: ServicesDep, tenant: Tenant) -> Response:
    """The form, filled in with the query: so the options of another method are shown without a script, too."""
    return _form(request, services, tenant, dict(request.query_params))


@router.post("/estimate")
def estimate(request: Request, sent: Sent, services: ServicesDep, tenant: Tenant) -> Response:
    try:
        found = estimated(services, tenant, _body(services, sent))
    except REFUSALS as error:
        return _form(request, services, tenant, sent, refusal=refusal_of(error, _known(services, sent)))
    return _form(request, services, tenant, sent, estimate=found)


@router.post("")
def build(request: Request, sent: Sent, services: ServicesDep, tenant: Tenant) -> Response:
    try:
        row = create_index(services, tenant, _body(services, sent))
    except REFUSALS as error:
        return _form(request, services, tenant, sent, refusal=refusal_of(error, _known(services, sent)))
    return _to(row.id)


@router.get("/{index_id}")
def index(index_id: str, services: ServicesDep, tenant: Tenant) -> Response:
    return _index(services, tenant, index_id)


@router.post("/{index_id}")
def change(index_id: str, sent: Sent, services: ServicesDep, tenant: Tenant) -> Response:
    try:
        name = {"name": sent["name"]} if sent.get("name", "").strip() else {}
        patch = NamedPatch(metadata=json_object(sent.get("metadata", ""), "metadata"), **name)
        change_index(services, tenant, index_id, patch, sent.get("etag"))
    except REFUSALS as error:
        return _index(services, tenant, index_id, refusal_of(error, ("name", "metadata")), sent)
    return _to(index_id)


@router.post("/{index_id}/delete")
def delete(index_id: str, services: ServicesDep, tenant: Tenant) -> Response:
    try:
        delete_index(services, tenant, index_id)
    except REFUSALS as error:
        return _index(services, tenant, index_id, refusal_of(error))
    return RedirectResponse("/ui/indexes", status_code=303, headers=HEADERS)


@router.post("/{index_id}/cancel")
def cancel(index_id: str, services: ServicesDep, tenant: Tenant) -> Response:
    return _steered(services, tenant, index_id, resume=False)


@router.post("/{index_id}/resume")
def resume(index_id: str, services: ServicesDep, tenant: Tenant) -> Response:
    return _steered(services, tenant, index_id, resume=True)


def _steered(services: Services, tenant: str, index_id: str, *, resume: bool) -> Response:
    try:
        steer_build(services, tenant, index_id, resume=resume)
    except REFUSALS as error:
        return _index(services, tenant, index_id, refusal_of(error))
    return _to(index_id)


def _body(services: Services, sent: dict[str, str]) -> IndexCreate:
    """Raises ValidationError."""
    values: dict[str, Any] = dict(given(sent, FIELDS))
    values["options"] = given_options([SHARED_SCHEMA, _method(services, sent).options], sent)
    return IndexCreate.model_validate(values)


def _known(services: Services, sent: dict[str, str]) -> list[str]:
    """Every field of the form, as problems point at it."""
    options = [SHARED_SCHEMA, _method(services, sent).options]
    return [*FIELDS, *(PREFIX + name for schema in options for name in schema.get("properties", {}))]


def _method(services: Services, sent: dict[str, str]) -> MethodSpec:
    methods = {spec.name: spec for spec in services.engine.methods()}
    return methods.get(sent.get("method", AUTO), methods[USUAL])


def _form(
    request: Request,
    services: Services,
    tenant: str,
    sent: dict[str, str],
    *,
    refusal: Refusal | None = None,
    estimate: IndexEstimate | None = None,
) -> Response:
    method = _method(services, sent)
    values = dict.fromkeys(FIELDS, "") | {"method": AUTO, "checkpoints": "all"} | sent
    variables: dict[str, Any] = {
        "status": 200 if refusal is None else refusal.status,
        "choices": load_choices(services, tenant, values["model"], values["dataset"]),
        "method": method,
        "own": option_fields(method.options, sent),
        "shared": option_fields(SHARED_SCHEMA, sent),
        "shared_given": any(sent.get(PREFIX + name, "").strip() for name in SHARED_SCHEMA["properties"]),
        "values": values,
        "refusal": refusal,
        "used_by": None,
        "estimate": estimate,
    }
    if wants_fragment(request.headers):
        return fragment("browsing/_build_form.html", **variables)
    return page("browsing/index_new.html", section="indexes", **variables)


def _index(
    services: Services, tenant: str, index_id: str, refusal: Refusal | None = None, sent: dict[str, str] | None = None
) -> Response:
    """Raises NotFound."""
    loaded = load_index(services, tenant, index_id)
    return page(
        "browsing/index.html",
        section="indexes",
        status=200 if refusal is None else refusal.status,
        loaded=loaded,
        index=loaded.index,
        address=f"/ui/indexes/{loaded.index.id}",
        refusal=refusal,
        used_by=address_of(refusal.used_by) if refusal else None,
        sent={"name": loaded.index.name or "", "metadata": loaded.metadata} | (sent or {}),
    )


def _to(index_id: str) -> Response:
    return RedirectResponse(f"/ui/indexes/{index_id}", status_code=303, headers=HEADERS)
