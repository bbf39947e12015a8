"""What the pages about keys and the audit log show; making a key from a form."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from app.audit_log.service import AuditLog
from app.dashboard.running.views_keys import AuditFilter, AuditView, KeyForm, KeyView, audit_views, key_view
from app.dependencies import Services
from app.errors import InvalidRequest
from app.keys.schemas import KeyCreate
from app.keys.service import KeysService
from app.pagination import PageRequest
from app.principal import Principal
from app.tables import utc_now

PAGE = 25
MOST_DAYS = 3650


@dataclass(frozen=True)
class KeysPage:
    """first: no key exists yet, the service is open to this machine."""

    keys: list[KeyView]
    next_cursor: str | None
    first: bool


@dataclass(frozen=True)
class AuditPage:
    events: list[AuditView]
    next_cursor: str | None


def load_keys(services: Services, asker: Principal, cursor: str | None) -> KeysPage:
    """Raises BadCursor."""
    with services.database.read() as session:
        rows, following = KeysService(session, asker.tenant).page(PageRequest(cursor, PAGE))
        keys = [key_view(row, asker.key_id) for row in rows]
    return KeysPage(keys, following, first=not services.keys.has_keys())


def load_key(services: Services, asker: Principal, key_id: str) -> KeyView:
    """Raises NotFound."""
    with services.database.read() as session:
        return key_view(KeysService(session, asker.tenant).get(key_id), asker.key_id)


def make_key(services: Services, asker: Principal, form: KeyForm) -> tuple[KeyView, str]:
    """The key and its text, which is kept nowhere; it ends with its maker's key at the latest. Raises InvalidRequest,
    TooPowerful."""
    body = _body(form)
    ends = min(filter(None, (body.expires_at, asker.expires_at)), default=None)
    with services.database.write() as session:
        row, made = KeysService(session, asker.tenant).create_for(
            asker, services.keys.secret, body.name, body.scopes, ends
        )
        return key_view(row, asker.key_id), made.text


def revoke_key(services: Services, asker: Principal, key_id: str) -> None:
    """Raises NotFound."""
    with services.database.write() as session:
        KeysService(session, asker.tenant).revoke(key_id)


def load_audit_log(services: Services, tenant: str, wanted: AuditFilter, cursor: str | None) -> AuditPage:
    """Raises BadCursor, InvalidRequest."""
    since = moment_of(wanted.since)
    with services.database.read() as session:
        rows, following = AuditLog(session, tenant).page(
            PageRequest(cursor, PAGE), key=wanted.key or None, resource=wanted.resource or None, since=since
        )
        return AuditPage(audit_views(rows), following)


def moment_of(text: str) -> datetime | None:
    """Of a date and time as a form sends it, taken as UTC. Raises InvalidRequest."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError as error:
        detail = f"'{text[:40]}' is not a date and time."
        raise InvalidRequest(detail, remedy="Write it like 2026-11-21T16:00.", pointer="query:since") from error


def _body(form: KeyForm) -> KeyCreate:
    if not form.scopes:
        raise InvalidRequest("A key without any scope may do nothing.", remedy="Tick what it is for.")
    try:
        return KeyCreate(name=form.name, scopes=list(form.scopes), expires_at=_end(form.days))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InvalidRequest(f"{first['loc'][0]}: {first['msg']}.", pointer=f"/{first['loc'][0]}") from error


def _end(days: str) -> datetime | None:
    if not days:
        return None
    if not (days.isascii() and days.isdecimal() and 1 <= int(days[:9]) <= MOST_DAYS):
        remedy = f"Give a whole number from 1 to {MOST_DAYS}, or leave it empty."
        raise InvalidRequest(f"'{days[:20]}' is no number of days.", remedy=remedy)
    return utc_now() + timedelta(days=int(days))
