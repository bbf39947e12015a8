"""What the page shows besides the answer: the indexes to choose from, the form's values, the recent answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.attributions.answer import stored_body
from app.attributions.service import AttributionsService
from app.attributions.trusted import TrustedAnswers
from app.dashboard.views import RecentView, recent_view
from app.dependencies import Services
from app.indexes.service import READY, IndexesService
from app.pagination import MAX_LIMIT, PageRequest
from app.tables import IndexRow

RECENT = 10
DEFAULT_TOP_K = 5


@dataclass(frozen=True)
class IndexChoice:
    id: str
    title: str


@dataclass(frozen=True)
class AskForm:
    """The form as it was sent, or as a stored answer would have it."""

    index: str = ""
    prompt: str = ""
    completion: str = ""
    top_k: int = DEFAULT_TOP_K


@dataclass(frozen=True)
class Page:
    indexes: tuple[IndexChoice, ...]
    recent: tuple[RecentView, ...]


@dataclass(frozen=True)
class Stored:
    """An attribution as the API gives it (perhaps pending), and the form that asks it again."""

    body: dict[str, Any]
    form: AskForm


def load_page(services: Services, tenant: str) -> Page:
    with services.database.read() as session:
        return Page(_choices(session, tenant, services), _recent(session, tenant))


def load_stored(services: Services, tenant: str, attribution_id: str) -> Stored:
    """Raises NotFound."""
    with services.database.read() as session:
        row = AttributionsService(session, tenant).get(attribution_id)
        body, request = TrustedAnswers(session, tenant).shown(row), row.request
    query = body.get("query") or request
    form = AskForm(row.index_id, query.get("prompt") or "", query.get("completion") or "", request["top_k"])
    return Stored(body, form)


def model_of(services: Services, tenant: str, index_id: str) -> str:
    """Raises NotFound."""
    with services.database.read() as session:
        return IndexesService(session, tenant, services.settings).get(index_id).model_id


def _choices(session: Session, tenant: str, services: Services) -> tuple[IndexChoice, ...]:
    indexes = IndexesService(session, tenant, services.settings)
    rows, _ = indexes.page(PageRequest(None, MAX_LIMIT))
    return tuple(IndexChoice(row.id, _title(row, indexes)) for row in rows if row.state == READY)


def _title(row: IndexRow, indexes: IndexesService) -> str:
    model, dataset = indexes.models.get(row.model_id), indexes.datasets.get(row.dataset_id)
    named = f" “{row.name}”" if row.name else ""
    return f"{model.name} v{model.version} · {dataset.name} ({row.rows or 0:,} rows) · {row.method}{named}"


def _recent(session: Session, tenant: str) -> tuple[RecentView, ...]:
    rows, _ = AttributionsService(session, tenant).page(PageRequest(None, RECENT), model=None, index=None, since=None)
    return tuple(recent_view(stored_body(row), row.request) for row in rows)
