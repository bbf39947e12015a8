"""What a question needs before it can be asked: a model, an index that serves it, a well-formed query."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.attributions.asking import ask_of, check_size, query_of
from app.attributions.schemas import AttributionCreate
from app.engine_client import EngineClient
from app.indexes.service import IndexesService, LiveIndex
from app.settings import Settings
from app.tables import AttributionRow
from engine.config import fingerprint
from engine.types import AskOptions, Attribution, Query

# Not part of what is asked: the first two are replaced by the index that answers.
UNCACHED_FIELDS = {"model", "index"}


@dataclass(frozen=True)
class Plan:
    body: AttributionCreate
    live: LiveIndex
    query: Query
    options: AskOptions
    tenant: str

    @property
    def request(self) -> dict[str, Any]:
        """The request as it is stored: the model and the index that answer are named in it, whatever an alias, or
        nothing, stood for them."""
        return self.body.model_dump(mode="json") | {"model": self.live.model_id, "index": self.live.id}

    @property
    def cache_key(self) -> str:
        """A result is a pure function of the index's revision and the request (DESIGN §2.6)."""
        asked = {name: value for name, value in self.request.items() if name not in UNCACHED_FIELDS}
        return fingerprint("attribution", self.live.id, self.live.revision, asked)

    def submit(self, engine: EngineClient) -> Future[Attribution]:
        """Raises QueueFull at once."""
        live = self.live
        dataset, index = live.dataset_dir, live.index_dir
        return engine.submit_attribution(live.model, dataset, index, self.query, self.options, group=self.tenant)

    def row(self, state: str, asked_at: datetime) -> AttributionRow:
        return AttributionRow(
            created_at=asked_at,
            model_id=self.live.model_id,
            index_id=self.live.id,
            state=state,
            cache_key=self.cache_key,
            request=self.request,
            request_metadata=self.body.metadata,
        )


def plan_attribution(session: Session, tenant: str, settings: Settings, body: AttributionCreate) -> Plan:
    """Raises NotFound, IndexUnavailable, MethodNotServed, InvalidQuery and its kin."""
    check_size(body, settings.max_queries, settings.max_query_chars)
    query, options = query_of(body), ask_of(body, settings.max_top_k)
    indexes = IndexesService(session, tenant, settings)
    live = indexes.answering(body.model, body.index)
    if body.method is not None:
        indexes.must_serve(live.id, body.method)
    return Plan(body, live, query, options, tenant)
