"""Rows of `attributions`."""

from __future__ import annotations

from datetime import datetime

from app.database import Repository
from app.pagination import PageRequest
from app.tables import AttributionRow


class AttributionsRepository(Repository[AttributionRow]):
    table, noun = AttributionRow, "attribution"

    def answered(self, cache_key: str) -> AttributionRow | None:
        return self.first(AttributionRow.cache_key == cache_key, AttributionRow.state == "succeeded")

    def matching(
        self,
        request: PageRequest,
        *,
        model: str | None,
        index: str | None,
        since: datetime | None,
        state: str | None = None,
    ) -> tuple[list[AttributionRow], str | None]:
        where = [AttributionRow.model_id == model] if model else []
        where += [AttributionRow.index_id == index] if index else []
        where += [AttributionRow.created_at >= since] if since else []
        where += [AttributionRow.state == state] if state else []
        return self.page(request, *where)
