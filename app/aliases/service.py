"""Making, moving and forgetting aliases."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.aliases.repository import AliasesRepository
from app.aliases.schemas import AliasOut
from app.dependencies import Services
from app.errors import Conflict, NotFound
from app.etags import Preconditions, etag_of
from app.indexes.service import IndexesService
from app.pagination import PageRequest
from app.settings import Settings
from app.tables import AliasRow, utc_now

RACES = 10  # an alias made, or an index deleted, by another server in this very moment


@dataclass(frozen=True)
class Put:
    alias: AliasOut
    created: bool


class AliasesService:
    """Aliases of one tenant, within one transaction."""

    def __init__(self, session: Session, tenant: str, settings: Settings) -> None:
        self.repository = AliasesRepository(session, tenant)
        self.indexes = IndexesService(session, tenant, settings)

    def get(self, name: str) -> AliasOut:
        row = self.repository.named(name)
        if row is None:
            raise _missing(name)
        return _shown(row)

    def page(self, request: PageRequest) -> tuple[list[AliasOut], str | None]:
        rows, cursor = self.repository.page(request)
        return [_shown(row) for row in rows], cursor

    def put(self, name: str, index: str, preconditions: Preconditions) -> Put:
        """Raises PreconditionFailed; NotFound and IndexUnavailable for the index."""
        row = self.repository.lock(name)
        preconditions.check(None if row is None else etag_of(_shown(row)))
        target = self.indexes.ready(index).id
        if row is None:
            now = utc_now()
            made = self.repository.add(AliasRow(name=name, index_id=target, created_at=now, moved_at=now))
            return Put(_shown(made), created=True)
        if target != row.index_id:
            row.previous_index_id, row.index_id = row.index_id, target
            row.version, row.moved_at = row.version + 1, utc_now()
            self.repository.session.flush()
        return Put(_shown(row), created=False)

    def delete(self, name: str, preconditions: Preconditions) -> None:
        row = self.repository.lock(name)
        if row is None:
            raise _missing(name)
        preconditions.check(etag_of(_shown(row)))
        self.repository.delete(row)


def put_alias(services: Services, tenant: str, name: str, index: str, preconditions: Preconditions) -> Put:
    """Points the name at the index, in one transaction: every question sees the old target or the new one."""
    for _ in range(RACES):
        try:
            with services.database.write() as session:
                return AliasesService(session, tenant, services.settings).put(name, index, preconditions)
        except IntegrityError:
            continue  # looked at again: it exists now, or the index does not
    raise Conflict(f"The alias '{name}' is being moved by too many at once.")


def _shown(row: AliasRow) -> AliasOut:
    return AliasOut(
        name=row.name,
        index=row.index_id,
        version=row.version,
        previous_index=row.previous_index_id,
        created_at=row.created_at,
        moved_at=row.moved_at,
    )


def _missing(name: str) -> NotFound:
    return NotFound(f"There is no alias '{name}'.", remedy="GET /v1/aliases lists those that exist.")
