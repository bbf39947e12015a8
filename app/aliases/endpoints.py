"""/v1/aliases"""

from __future__ import annotations

from fastapi import APIRouter, Response

from app.aliases.schemas import AliasName, AliasOut, AliasPut
from app.aliases.service import AliasesService, put_alias
from app.bodies import problems
from app.dependencies import Paging, ReadSession, ServicesDep, Tenant, WriteSession
from app.etags import ForChange, ForPut, TaggedRoute, etag_of, tagged
from app.pagination import Page

router = APIRouter(prefix="/v1/aliases", tags=["aliases"], route_class=TaggedRoute)


@router.put(
    "/{name}",
    operation_id="put_alias",
    summary="Point a name at an index: make the alias (201), or move it at once (200)",
    responses={201: {"model": AliasOut, "description": "Made"}} | problems(400, 404, 409, 412, 413, 422, 503),
)
def put(
    name: AliasName, body: AliasPut, preconditions: ForPut, services: ServicesDep, tenant: Tenant, response: Response
) -> AliasOut:
    done = put_alias(services, tenant, name, body.index, preconditions)
    response.headers["ETag"] = etag_of(done.alias)
    if done.created:
        response.status_code = 201
        response.headers["Location"] = f"/v1/aliases/{name}"
    return done.alias


@router.get("", operation_id="list_aliases", summary="List aliases, newest first", responses=problems(422, 503))
def list_aliases(page: Paging, services: ServicesDep, session: ReadSession, tenant: Tenant) -> Page[AliasOut]:
    aliases, cursor = AliasesService(session, tenant, services.settings).page(page)
    return Page(data=aliases, next_cursor=cursor)


@router.get("/{name}", operation_id="get_alias", summary="One alias", **tagged(404, 422, 503))
def get_alias(name: AliasName, services: ServicesDep, session: ReadSession, tenant: Tenant) -> AliasOut:
    return AliasesService(session, tenant, services.settings).get(name)


@router.delete(
    "/{name}",
    status_code=204,
    operation_id="delete_alias",
    summary="Forget an alias; its index stays",
    responses=problems(404, 412, 422, 503),
)
def delete_alias(
    name: AliasName, preconditions: ForChange, services: ServicesDep, session: WriteSession, tenant: Tenant
) -> None:
    AliasesService(session, tenant, services.settings).delete(name, preconditions)
