"""What the pages load: the indexes to choose from, stored answers and their forms, the recent ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.aliases.service import AliasesService
from app.attributions.answer import stored_body
from app.attributions.service import AttributionsService
from app.attributions.trusted import TrustedAnswers
from app.dashboard.asking.forms import AskForm, form_of
from app.dashboard.asking.views import RecentView, recent_view
from app.dashboard.checking.forms import CheckForm
from app.dashboard.checking.page import ChecksPart, load_checks
from app.dependencies import Services
from app.indexes.service import READY, IndexesService
from app.pagination import PageRequest
from app.tables import DatasetRow, IndexRow, ModelRow
from engine.causal.checks import CheckCost

RECENT = 10
CHOICES = 100  # the newest indexes; one that is older has its own page to be asked from


@dataclass(frozen=True)
class IndexChoice:
    """serves: the methods it can be asked by, its own first."""

    id: str
    title: str
    serves: tuple[str, ...]


@dataclass(frozen=True)
class Choices:
    """aliases: those that point at one of the indexes."""

    indexes: tuple[IndexChoice, ...]
    aliases: tuple[IndexChoice, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(method for index in self.indexes for method in index.serves))


@dataclass(frozen=True)
class Stored:
    """An attribution as the API gives it (perhaps pending), its request, and the form that asks it again. checks: None
    while there is nothing to check."""

    body: dict[str, Any]
    request: dict[str, Any]
    form: AskForm
    checks: ChecksPart | None = None


def load_choices(services: Services, tenant: str, wanted: str = "") -> Choices:
    """`wanted`: an index that is offered however old it is."""
    with services.database.read() as session:
        indexes = IndexesService(session, tenant, services.settings)
        rows, _ = indexes.page(PageRequest(None, CHOICES), state=READY)
        known = {row.id for row in rows}
        rows += [row for row in indexes.some([wanted]).values() if row.state == READY and row.id not in known]
        models = indexes.models.some([row.model_id for row in rows])
        datasets = indexes.datasets.some([row.dataset_id for row in rows])
        found = {row.id: _choice(row, models[row.model_id], datasets[row.dataset_id]) for row in rows}
        aliases, _ = AliasesService(session, tenant, services.settings).page(PageRequest(None, CHOICES))
        named = [
            IndexChoice(alias.name, f"{alias.name} → {found[alias.index].title}", found[alias.index].serves)
            for alias in aliases
            if alias.index in found
        ]
        return Choices(tuple(found.values()), tuple(named))


def load_recent(services: Services, tenant: str) -> tuple[RecentView, ...]:
    with services.database.read() as session:
        service = AttributionsService(session, tenant)
        rows, _ = service.page(PageRequest(None, RECENT), model=None, index=None, since=None)
        return tuple(recent_view(stored_body(row), row.request) for row in rows)


def load_stored(
    services: Services,
    tenant: str,
    attribution_id: str,
    check: CheckForm | None = None,
    cost: CheckCost | None = None,
) -> Stored:
    """check: a check as it was typed, and its cost, where that was asked for. Raises NotFound."""
    with services.database.read() as session:
        row = AttributionsService(session, tenant).get(attribution_id)
        body, request = TrustedAnswers(session, tenant).shown(row), row.request
        checks = load_checks(session, tenant, services.settings, body, check, cost) if "query" in body else None
    return Stored(body, request, form_of(request, body.get("query")), checks)


def delete_stored(services: Services, tenant: str, attribution_id: str) -> None:
    """Raises NotFound, InUse while a job computes it."""
    with services.database.write() as session:
        AttributionsService(session, tenant).delete(attribution_id)


def _choice(row: IndexRow, model: ModelRow, dataset: DatasetRow) -> IndexChoice:
    named = f" “{row.name}”" if row.name else ""
    title = f"{model.name} v{model.version} · {dataset.name} ({row.rows or 0:,} rows) · {row.method}{named}"
    return IndexChoice(row.id, title, tuple(dict.fromkeys((row.method, *row.serves))))
