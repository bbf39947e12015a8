"""`Idempotency-Key` on POST: a repeated request gets the first answer again, and is not done twice.

Same key and body → the first answer; another body → 422; still running → 409. Per tenant and
route. A request that failed leaves no trace, so it can be sent again with its key. The answer is kept
after the endpoint's own commit, so POST endpoints here open their transactions themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Protocol

import anyio
from fastapi import Depends, Header, Request, Response
from fastapi.routing import APIRoute
from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from app.bodies import read_form
from app.dependencies import Services, tenant_of
from app.errors import Conflict, InvalidRequest
from app.tables import IdempotencyKeyRow, utc_now

HEADER = "Idempotency-Key"
KEPT_HEADERS = ("content-type", "location", "preference-applied")
# A first request that was killed must not block its key for a day.
GRACE_SECONDS = 60.0
CHUNK_BYTES = 2**20


class IdempotencyKeyReused(InvalidRequest):
    code, title = "idempotency-key-reused", "Idempotency-Key used for another body"
    remedy = "Use a new key for a new request; the same key only with the very same body."


class IdempotencyKeyInUse(Conflict):
    code, title = "idempotency-key-in-use", "The first request with this key still runs"
    remedy = "Send the request again a little later, with the same key."


class InvalidIdempotencyKey(InvalidRequest):
    code, title = "invalid-idempotency-key", "Invalid Idempotency-Key"
    remedy = "Use 1 to 200 visible ASCII characters, for example a UUID."


def _declared(
    idempotency_key: Annotated[
        str | None, Header(description="Up to 200 visible ASCII characters: sent again, the first answer comes again.")
    ] = None,
) -> None:
    """Declares the header; IdempotentRoute reads it."""


class IdempotentRoute(APIRoute):
    """A route whose POST honours `Idempotency-Key`."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if "POST" in (options.get("methods") or ()):
            options["dependencies"] = [*(options.get("dependencies") or ()), Depends(_declared)]
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def once(request: Request) -> Response:
            key = request.headers.get(HEADER) if request.method == "POST" else None
            if key is None:
                return await handle(request)
            return await _once(request, _checked(key), f"POST {self.path}", handle)

        return once


def _checked(key: str) -> str:
    if not 0 < len(key) <= 200 or not key.isascii() or not key.isprintable():
        raise InvalidIdempotencyKey("The Idempotency-Key is empty, too long or not plain.", pointer=f"header:{HEADER}")
    return key


async def _once(request: Request, key: str, route: str, handle: Callable[[Request], Any]) -> Response:
    services: Services = request.app.state.services
    claim = _Claim(services, tenant_of(request), route, key, await _body_hash(request))
    if (kept := await run_in_threadpool(claim.take)) is not None:
        return kept
    try:
        response = await handle(request)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await run_in_threadpool(claim.release)
        raise
    await run_in_threadpool(claim.keep, response)
    return response


async def _body_hash(request: Request) -> str:
    """Of the JSON's bytes; of a form, what it carries: the boundary differs from try to try."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return hashlib.sha256(await request.body()).hexdigest()
    return await run_in_threadpool(_form_hash, await read_form(request))


def _form_hash(form: FormData) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(form.multi_items(), key=lambda item: item[0]):
        _add(digest, name.encode())
        if isinstance(value, UploadFile):
            _add(digest, (value.filename or "").encode())
            value.file.seek(0)
            digest.update(hashlib.file_digest(value.file, "sha256").digest())  # type: ignore[arg-type]
            value.file.seek(0)
        else:
            _add(digest, value.encode())
    return digest.hexdigest()


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


def _add(digest: _Digest, part: bytes) -> None:
    """With its length, so that two parts never read as another two."""
    digest.update(len(part).to_bytes(8, "big") + part)


@dataclass(frozen=True)
class _Claim:
    """One key on its way from taken to kept or released."""

    services: Services
    tenant: str
    route: str
    key: str
    body_hash: str

    def take(self) -> Response | None:
        """None: the key is ours. Else the answer of the first request."""
        try:
            with self.services.database.write() as session:
                self._forget_old(session)
                kept = session.get(IdempotencyKeyRow, self._primary_key)
                if kept is not None:
                    return self._answer(kept)
                session.add(self._row())
        except IntegrityError:
            raise self._in_use() from None  # another server took it in this moment
        return None

    def keep(self, response: Response) -> None:
        with self.services.database.write() as session:
            row = session.get(IdempotencyKeyRow, self._primary_key)
            if row is not None:
                row.status, row.body = response.status_code, bytes(response.body)
                row.headers = {name: value for name, value in response.headers.items() if name in KEPT_HEADERS}

    def release(self) -> None:
        with self.services.database.write() as session:
            session.execute(delete(IdempotencyKeyRow).where(*self._where))

    @property
    def _primary_key(self) -> tuple[str, str, str]:
        return self.tenant, self.route, self.key

    @property
    def _where(self) -> tuple[Any, ...]:
        table = IdempotencyKeyRow
        return table.tenant == self.tenant, table.route == self.route, table.key == self.key

    def _row(self) -> IdempotencyKeyRow:
        return IdempotencyKeyRow(tenant=self.tenant, route=self.route, key=self.key, body_hash=self.body_hash)

    def _answer(self, kept: IdempotencyKeyRow) -> Response:
        if kept.body_hash != self.body_hash:
            raise IdempotencyKeyReused("This Idempotency-Key came with another body.", pointer=f"header:{HEADER}")
        if kept.status is None:
            raise self._in_use()
        return Response(
            kept.body, status_code=kept.status, headers=(kept.headers or {}) | {"Idempotent-Replay": "true"}
        )

    def _in_use(self) -> IdempotencyKeyInUse:
        detail = "The first request with this Idempotency-Key has not ended."
        return IdempotencyKeyInUse(detail, headers={"Retry-After": "1"})

    def _forget_old(self, session: Session) -> None:
        settings, table = self.services.settings, IdempotencyKeyRow
        session.execute(delete(table).where(table.created_at < _ago(settings.idempotency_hours * 3600)))
        stuck = _ago(settings.max_wait_seconds + GRACE_SECONDS)
        session.execute(delete(table).where(*self._where, table.status.is_(None), table.created_at < stuck))


def _ago(seconds: float) -> datetime:
    return utc_now() - timedelta(seconds=seconds)
