"""Making and revoking keys, and finding out whose a key is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cached_property

import structlog
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.database import Database
from app.errors import AppError, InvalidRequest
from app.keys.material import NewKey, digest_of, new_key, prefix_of, same
from app.keys.repository import KeysRepository, any_key, key_by_id, key_by_prefix, mark_used
from app.keys.scopes import grants
from app.pagination import PageRequest
from app.principal import Principal
from app.secret import server_secret
from app.settings import Settings
from app.tables import ApiKeyRow, utc_now

log = structlog.get_logger("whence.keys")

USE_NOTED_EVERY = timedelta(minutes=1)  # a write a request would cost more than the request


class InvalidKey(AppError):
    status, code, title = 401, "invalid-key", "Invalid API key"
    remedy = "Send a key that exists, is not revoked and has not expired: `Authorization: Bearer whk_…`."


class TooPowerful(AppError):
    status, code, title = 403, "insufficient-scope", "Not allowed"
    remedy = "Ask somebody whose key has them, or run `whence keys create` on the server."


class KeysService:
    """Keys of one tenant, within one transaction."""

    def __init__(self, session: Session, tenant: str) -> None:
        self.repository = KeysRepository(session, tenant)

    def get(self, key_id: str) -> ApiKeyRow:
        return self.repository.get(key_id)

    def page(self, request: PageRequest) -> tuple[list[ApiKeyRow], str | None]:
        return self.repository.page(request)

    def create(
        self, secret: bytes, name: str, scopes: Sequence[str], expires_at: datetime | None, created_by: str | None
    ) -> tuple[ApiKeyRow, NewKey]:
        """Raises InvalidRequest for a moment that has passed."""
        if expires_at is not None and expires_at <= utc_now():
            raise InvalidRequest(f"{expires_at.isoformat()} has passed.", pointer="/expires_at")
        made = new_key(secret)
        row = ApiKeyRow(
            name=name,
            prefix=made.prefix,
            digest=made.digest,
            scopes=list(dict.fromkeys(scopes)),
            created_by=created_by,
            expires_at=expires_at,
        )
        return self.repository.add(row), made

    def create_for(
        self, maker: Principal, secret: bytes, name: str, scopes: Sequence[str], expires_at: datetime | None
    ) -> tuple[ApiKeyRow, NewKey]:
        """A key that may do no more than its maker, and lives no longer. Raises TooPowerful."""
        beyond = [scope for scope in scopes if not grants(maker.scopes, scope)]
        if beyond:
            raise TooPowerful(f"Your key does not have {', '.join(beyond)} to give.", pointer="/scopes")
        if maker.expires_at is not None and (expires_at is None or expires_at > maker.expires_at):
            detail = f"Your key ends at {maker.expires_at.isoformat()}: one it makes must end by then."
            raise TooPowerful(detail, remedy="Give an expires_at that is not later.", pointer="/expires_at")
        return self.create(secret, name, scopes, expires_at, maker.key_id)

    def revoke(self, key_id: str) -> ApiKeyRow:
        """From the next request on it is of no use; twice is once."""
        row = self.repository.get(key_id)
        row.revoked_at = row.revoked_at or utc_now()
        return row


class KeyRing:
    """Finds out whose a key is: every request asks, so one read of one row must do."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings = settings
        self.database = database

    @cached_property
    def secret(self) -> bytes:
        return server_secret(self.settings)

    def has_keys(self) -> bool:
        with self.database.read() as session:
            return any_key(session)

    def principal(self, text: str) -> Principal:
        """Raises InvalidKey; why a key no longer holds is told only to who has all of it."""
        prefix = prefix_of(text)
        if prefix is None:
            raise InvalidKey("This is no API key of Whence.")
        with self.database.read() as session:
            row = key_by_prefix(session, prefix)
        if row is None or not same(row.digest, digest_of(self.secret, text)):
            raise InvalidKey("There is no such API key.")
        return self._valid(row)

    def principal_of(self, key_id: str) -> Principal:
        """Of a session that this key opened. Raises InvalidKey."""
        with self.database.read() as session:
            row = key_by_id(session, key_id)
        if row is None:
            raise InvalidKey("There is no such API key.")
        return self._valid(row)

    def _valid(self, row: ApiKeyRow) -> Principal:
        now = utc_now()
        if row.revoked_at is not None:
            raise InvalidKey("This API key was revoked.")
        if row.expires_at is not None and row.expires_at <= now:
            raise InvalidKey("This API key has expired.")
        if row.last_used_at is None or row.last_used_at < now - USE_NOTED_EVERY:
            self._note_use(row.id, now)
        return Principal(row.tenant, row.id, frozenset(row.scopes), row.expires_at)

    def _note_use(self, key_id: str, now: datetime) -> None:
        try:
            with self.database.write() as session:
                mark_used(session, key_id, now, now - USE_NOTED_EVERY)
        except OperationalError as error:  # that a request gets its answer matters more
            log.warning("use of a key not noted", cause=str(error.orig))
