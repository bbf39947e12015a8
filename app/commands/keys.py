"""`whence keys …`: straight on the database, because the first key is made before anybody can ask the server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated

import typer
from sqlalchemy.orm import Session

from app.audit_log.service import AuditLog
from app.commands.console import clean, err, out, print_json, table, when
from app.commands.options import Json, Limit
from app.database import Database
from app.errors import NotReady
from app.homelock import HomeInUse, HomeLock, require_writable
from app.keys.schemas import KeyCreated, KeyOut
from app.keys.scopes import ADMIN, SCOPES
from app.keys.service import KeysService
from app.pagination import PageRequest
from app.schema import is_at_head, upgrade
from app.secret import server_secret
from app.settings import Settings
from app.tables import ApiKeyRow
from app.tables.base import DEFAULT_TENANT, utc_now

app = typer.Typer(
    no_args_is_help=True,
    help="API keys of the server with these settings (WHENCE_HOME, WHENCE_DATABASE_URL). Once there is one, every "
    "request needs one.",
)
KeyId = Annotated[str, typer.Argument(help="Id of a key.", metavar="KEY_ID")]
Tenant = Annotated[str, typer.Option(help="Whose rows it sees; tenants see nothing of each other.")]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What it is for.", metavar="NAME")],
    scope: Annotated[
        list[str] | None, typer.Option(help=f"May be repeated; default: {ADMIN}. One of {', '.join(SCOPES)}.")
    ] = None,
    tenant: Tenant = DEFAULT_TENANT,
    days: Annotated[int | None, typer.Option(min=1, max=36500, help="Days until it expires; default: never.")] = None,
    json_: Json = False,
) -> None:
    """Make a key and show it, this once."""
    if not tenant or len(tenant) > 64 or not tenant.isascii() or not tenant.isprintable():
        raise typer.BadParameter("a tenant's name is 1 to 64 plain characters", param_hint="--tenant")
    scopes = _checked(scope or [ADMIN])
    expires_at = None if days is None else utc_now() + timedelta(days=days)
    settings = Settings()
    with _session(settings) as session:
        row, made = KeysService(session, tenant).create(server_secret(settings), name, scopes, expires_at, None)
        AuditLog(session, tenant).add("create_key", "whence keys create", 201, resource_id=row.id)
        shown = KeyCreated(**KeyOut.model_validate(row).model_dump(), key=made.text)
    if json_:
        print_json(shown)
        return
    out.print(made.text, highlight=False, soft_wrap=True)
    err.print(f"{shown.id} · {', '.join(shown.scopes)} · tenant {tenant}. It is not shown again.", style="dim")
    err.print("Use it: export WHENCE_API_KEY=…, or `Authorization: Bearer …`.", style="dim")


@app.command("list")
def list_(tenant: Tenant = DEFAULT_TENANT, limit: Limit = 50, json_: Json = False) -> None:
    """List keys, newest first, revoked ones too."""
    with _session(Settings()) as session:
        rows, _ = KeysService(session, tenant).page(PageRequest(None, limit))
        found = [KeyOut.model_validate(row) for row in rows]
    if json_:
        print_json(found)
        return
    columns = ["id", "name", "begins", "scopes", "last used", "state"]
    cells = [(k.id, clean(k.name, 40), k.prefix, ", ".join(k.scopes), when(k.last_used_at), _state(k)) for k in found]
    out.print(table(None, columns, cells))


@app.command("revoke")
def revoke(key_id: KeyId, tenant: Tenant = DEFAULT_TENANT, json_: Json = False) -> None:
    """Make a key useless from the next request on."""
    with _session(Settings()) as session:
        row: ApiKeyRow = KeysService(session, tenant).revoke(key_id)
        AuditLog(session, tenant).add("revoke_key", "whence keys revoke", 204, resource_id=row.id)
        shown = KeyOut.model_validate(row)
    if json_:
        print_json(shown)
    else:
        out.print(f"{shown.id} ({clean(shown.name, 60).plain}) is revoked.", highlight=False, markup=False)


def _checked(scopes: list[str]) -> list[str]:
    for scope in scopes:
        if scope not in SCOPES:
            raise typer.BadParameter(
                f"there is no scope {scope!r}; there are {', '.join(SCOPES)}", param_hint="--scope"
            )
    return scopes


def _state(key: KeyOut) -> str:
    if key.revoked_at is not None:
        return f"revoked {when(key.revoked_at)}"
    if key.expires_at is None:
        return "valid"
    return f"{'expired' if key.expires_at <= utc_now() else 'valid until'} {when(key.expires_at)}"


@contextmanager
def _session(settings: Settings) -> Iterator[Session]:
    """A write transaction on a database of this version."""
    require_writable(settings.home)
    database = Database(settings.database)
    try:
        _bring_to_head(settings, database)
        with database.write() as session:
            yield session
    finally:
        database.close()


def _bring_to_head(settings: Settings, database: Database) -> None:
    """SQLite is migrated as a server would; beside a running one there is nothing to do. Raises NotReady."""
    if is_at_head(database):
        return
    if settings.is_sqlite:
        lock = HomeLock(settings.home)
        try:
            lock.acquire()
            upgrade(database)
            return
        except HomeInUse:
            pass  # an older server runs on it
        finally:
            lock.release()
    raise NotReady("The database is not migrated to this version.", remedy="Stop older servers; run `whence migrate`.")
