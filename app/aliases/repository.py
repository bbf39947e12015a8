"""Rows of `aliases`."""

from __future__ import annotations

from collections.abc import Collection

from app.database import Repository
from app.tables import AliasRow


class AliasesRepository(Repository[AliasRow]):
    table, noun = AliasRow, "alias"

    def named(self, name: str) -> AliasRow | None:
        return self.session.scalars(self.rows(AliasRow.name == name)).one_or_none()

    def lock(self, name: str) -> AliasRow | None:
        """The row, held until the transaction ends: two that move it take turns."""
        query = self.rows(AliasRow.name == name).with_for_update()
        return self.session.scalars(query, execution_options={"populate_existing": True}).one_or_none()

    def of_indexes(self, index_ids: Collection[str]) -> list[AliasRow]:
        """Every alias of these indexes, by name."""
        return list(self.session.scalars(self.rows(AliasRow.index_id.in_(set(index_ids))).order_by(AliasRow.name)))

    def pointing_at(self, index_id: str) -> AliasRow | None:
        """The newest alias of an index."""
        return self.first(AliasRow.index_id == index_id)
