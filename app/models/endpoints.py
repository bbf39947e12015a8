"""/v1/models"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.amending import CHANGED, MetadataPatch
from app.bodies import problems
from app.dependencies import Paging, ReadSession, ServicesDep, Tenant, WriteSession
from app.etags import ForChange, TaggedRoute, etag_of, tagged
from app.models.schemas import ModelCreate, ModelOut
from app.models.service import ModelsService, register_model
from app.pagination import Page

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=TaggedRoute)


@router.post(
    "",
    status_code=201,
    operation_id="create_model",
    summary="Register a fine-tuned model",
    responses=problems(400, 409, 413, 422, 503, 507),
)
def create_model(body: ModelCreate, services: ServicesDep, tenant: Tenant, response: Response) -> ModelOut:
    row = register_model(services, tenant, body)
    response.headers["Location"] = f"/v1/models/{row.id}"
    return ModelOut.model_validate(row)


@router.get("", operation_id="list_models", summary="List models, newest first", responses=problems(422, 503))
def list_models(
    page: Paging,
    session: ReadSession,
    tenant: Tenant,
    name: Annotated[str | None, Query(description="Only those of this name: its versions.")] = None,
) -> Page[ModelOut]:
    rows, cursor = ModelsService(session, tenant).page(page, name=name)
    return Page(data=[ModelOut.model_validate(row) for row in rows], next_cursor=cursor)


@router.get("/{model_id}", operation_id="get_model", summary="One model", **tagged(404, 422, 503))
def get_model(model_id: str, session: ReadSession, tenant: Tenant) -> ModelOut:
    return ModelOut.model_validate(ModelsService(session, tenant).get(model_id))


@router.patch("/{model_id}", operation_id="update_model", summary="Change what is noted on a model", responses=CHANGED)
def update_model(
    model_id: str,
    body: MetadataPatch,
    preconditions: ForChange,
    session: WriteSession,
    tenant: Tenant,
    response: Response,
) -> ModelOut:
    model = ModelsService(session, tenant).amend(model_id, body, preconditions)
    response.headers["ETag"] = etag_of(model)
    return model


@router.delete(
    "/{model_id}",
    status_code=204,
    operation_id="delete_model",
    summary="Forget a model (its files stay)",
    responses=problems(404, 409, 422, 503),
)
def delete_model(model_id: str, session: WriteSession, tenant: Tenant) -> None:
    ModelsService(session, tenant).delete(model_id)
