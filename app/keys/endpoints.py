"""/v1/keys"""

from __future__ import annotations

from fastapi import APIRouter, Response

from app.bodies import problems
from app.dependencies import Asker, Paging, ReadSession, ServicesDep, Tenant, WriteSession
from app.keys.schemas import KeyCreate, KeyCreated, KeyOut
from app.keys.service import KeysService
from app.pagination import Page

# No IdempotentRoute: the answer to a POST holds the key, and is kept nowhere.
router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.post(
    "",
    status_code=201,
    operation_id="create_key",
    summary="Make an API key; it is shown this once",
    responses=problems(400, 413, 422, 503),
)
def create_key(
    body: KeyCreate, asker: Asker, services: ServicesDep, session: WriteSession, response: Response
) -> KeyCreated:
    keys = KeysService(session, asker.tenant)
    row, made = keys.create_for(asker, services.keys.secret, body.name, body.scopes, body.expires_at)
    response.headers.update({"Location": f"/v1/keys/{row.id}", "Cache-Control": "no-store"})
    return KeyCreated(**KeyOut.model_validate(row).model_dump(), key=made.text)


@router.get(
    "",
    operation_id="list_keys",
    summary="List API keys, newest first, revoked ones too",
    responses=problems(422, 503),
)
def list_keys(page: Paging, session: ReadSession, tenant: Tenant) -> Page[KeyOut]:
    rows, cursor = KeysService(session, tenant).page(page)
    return Page(data=[KeyOut.model_validate(row) for row in rows], next_cursor=cursor)


@router.get("/{key_id}", operation_id="get_key", summary="One API key", responses=problems(404, 422, 503))
def get_key(key_id: str, session: ReadSession, tenant: Tenant) -> KeyOut:
    return KeyOut.model_validate(KeysService(session, tenant).get(key_id))


@router.delete(
    "/{key_id}",
    status_code=204,
    operation_id="revoke_key",
    summary="Revoke an API key: the next request with it is refused",
    responses=problems(404, 422, 503),
)
def revoke_key(key_id: str, session: WriteSession, tenant: Tenant) -> None:
    KeysService(session, tenant).revoke(key_id)
