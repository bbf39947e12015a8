"""/ui/models: registered models, and the form that registers one."""

from __future__ import annotations

from typing import Any, get_args

from fastapi import APIRouter
from starlette.responses import RedirectResponse, Response

from app.amending import MetadataPatch
from app.dashboard.browsing.forms import REFUSALS, Refusal, Sent, given, json_object, refusal_of
from app.dashboard.browsing.page_models import change_model, delete_model, load_model, load_models
from app.dashboard.browsing.words import address_of
from app.dashboard.pages import HEADERS, page
from app.dependencies import Services, ServicesDep, Tenant
from app.models.schemas import ModelCreate
from app.models.service import register_model
from engine.config import DType

router = APIRouter(prefix="/ui/models", include_in_schema=False)

FIELDS = ("name", "base", "adapter", "checkpoints", "tokenizer", "chat_template", "recipe", "dtype", "quantization")


@router.get("")
def models(services: ServicesDep, tenant: Tenant, name: str = "", cursor: str | None = None) -> Response:
    loaded = load_models(services, tenant, name=name.strip() or None, cursor=cursor)
    return page("browsing/models.html", section="models", loaded=loaded, name=name, paged=cursor is not None)


@router.get("/new")
def new_model(name: str = "") -> Response:
    return _form({"name": name}, None)


@router.post("")
def create_model(sent: Sent, services: ServicesDep, tenant: Tenant) -> Response:
    try:
        row = register_model(services, tenant, _body(sent))
    except REFUSALS as error:
        return _form(sent, refusal_of(error, FIELDS))
    return _to(row.id)


@router.get("/{model_id}")
def model(model_id: str, services: ServicesDep, tenant: Tenant) -> Response:
    return _model(services, tenant, model_id)


@router.post("/{model_id}")
def change(model_id: str, sent: Sent, services: ServicesDep, tenant: Tenant) -> Response:
    try:
        patch = MetadataPatch(metadata=json_object(sent.get("metadata", ""), "metadata"))
        change_model(services, tenant, model_id, patch, sent.get("etag"))
    except REFUSALS as error:
        return _model(services, tenant, model_id, refusal_of(error, ("metadata",)), sent)
    return _to(model_id)


@router.post("/{model_id}/delete")
def delete(model_id: str, services: ServicesDep, tenant: Tenant) -> Response:
    try:
        delete_model(services, tenant, model_id)
    except REFUSALS as error:
        return _model(services, tenant, model_id, refusal_of(error))
    return RedirectResponse("/ui/models", status_code=303, headers=HEADERS)


def _body(sent: dict[str, str]) -> ModelCreate:
    """Raises ValidationError, InvalidRequest."""
    values: dict[str, Any] = dict(given(sent, FIELDS))
    values["checkpoints"] = [line.strip() for line in sent.get("checkpoints", "").splitlines() if line.strip()]
    values["recipe"] = json_object(sent.get("recipe", ""), "recipe")
    return ModelCreate.model_validate(values)


def _form(sent: dict[str, str], refusal: Refusal | None) -> Response:
    status = 200 if refusal is None else refusal.status
    values = dict.fromkeys(FIELDS, "") | {"dtype": "float32"} | sent
    return page(
        "browsing/model_new.html",
        section="models",
        status=status,
        values=values,
        refusal=refusal,
        dtypes=[(name, name) for name in get_args(DType)],
    )


def _model(
    services: Services, tenant: str, model_id: str, refusal: Refusal | None = None, sent: dict[str, str] | None = None
) -> Response:
    """Raises NotFound."""
    loaded = load_model(services, tenant, model_id)
    return page(
        "browsing/model.html",
        section="models",
        status=200 if refusal is None else refusal.status,
        loaded=loaded,
        model=loaded.model,
        refusal=refusal,
        used_by=address_of(refusal.used_by) if refusal else None,
        metadata=(sent or {}).get("metadata", loaded.metadata),
    )


def _to(model_id: str) -> Response:
    return RedirectResponse(f"/ui/models/{model_id}", status_code=303, headers=HEADERS)
