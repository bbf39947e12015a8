"""What other resources ask of aliases: which index a name stands for, and whether one stands for an index."""

from __future__ import annotations

import re
from collections.abc import Collection

from sqlalchemy.orm import Session

from app.aliases.repository import AliasesRepository
from app.errors import NotFound

# No id has this form: an id has an underscore.
ALIAS_NAME = r"^[a-z][a-z0-9-]{0,62}$"
_NAME = re.compile(ALIAS_NAME)


class AliasTargets:
    """The aliases of one tenant, within one transaction."""

    def __init__(self, session: Session, tenant: str) -> None:
        self.repository = AliasesRepository(session, tenant)

    def index_id(self, reference: str) -> str:
        """The id that a reference to an index means: an alias's target, else the reference itself. Raises NotFound."""
        if _NAME.fullmatch(reference) is None:
            return reference
        row = self.repository.named(reference)
        if row is None:
            remedy = "GET /v1/aliases lists the aliases, GET /v1/indexes the indexes."
            raise NotFound(f"There is no alias '{reference}', and no index has such an id.", remedy=remedy)
        return row.index_id

    def names_of(self, index_ids: Collection[str]) -> dict[str, list[str]]:
        """The names of every alias of these indexes, by index; one without any is left out."""
        names: dict[str, list[str]] = {}
        for row in self.repository.of_indexes(index_ids):
            names.setdefault(row.index_id, []).append(row.name)
        return names

    def alias_of(self, index_id: str) -> str | None:
        """The name of an alias that points at the index."""
        row = self.repository.pointing_at(index_id)
        return None if row is None else row.name
