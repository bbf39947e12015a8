"""What the list of saved answers shows, loaded from the services."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from app.attributions.service import AttributionsService
from app.attributions.trusted import TrustedAnswers
from app.dashboard.words import moment, shorten
from app.dependencies import Services
from app.errors import InvalidRequest
from app.indexes.service import IndexesService, IndexName
from app.models.service import ModelName
from app.pagination import MAX_LIMIT, PageRequest
from app.tables import AttributionRow

PAGE = 25
STATES = ("succeeded", "running", "failed", "cancelled")


@dataclass(frozen=True)
class AnswerFilter:
    """As it was typed. since: a day, YYYY-MM-DD, in UTC."""

    model: str = ""
    index: str = ""
    since: str = ""
    state: str = ""

    @property
    def any(self) -> bool:
        return bool(self.model or self.index or self.since or self.state)

    def moment(self) -> datetime | None:
        """Raises InvalidRequest."""
        if not self.since:
            return None
        try:
            return datetime.strptime(self.since, "%Y-%m-%d").replace(tzinfo=UTC)
        except ValueError as error:
            remedy = "Write it as 2026-11-21."
            raise InvalidRequest(f"'{self.since[:40]}' is no day.", remedy=remedy, pointer="/since") from error


@dataclass(frozen=True)
class AnswerLine:
    """verdict: empty while there is no answer. model, index: None where it is gone."""

    id: str
    prompt: str
    completion: str
    state: str
    verdict: str
    method: str
    when: str
    index_id: str
    model: ModelName | None
    index: IndexName | None


@dataclass(frozen=True)
class AnswersPage:
    answers: list[AnswerLine]
    next_cursor: str | None
    models: list[ModelName]
    indexes: list[IndexName]


def load_answers(services: Services, tenant: str, wanted: AnswerFilter, cursor: str | None) -> AnswersPage:
    """Raises BadCursor, InvalidRequest."""
    with services.database.read() as session:
        answers = AttributionsService(session, tenant)
        rows, following = answers.page(
            PageRequest(cursor, PAGE),
            model=wanted.model or None,
            index=wanted.index or None,
            since=wanted.moment(),
            state=wanted.state or None,
        )
        indexes = IndexesService(session, tenant, services.settings)
        known_models = indexes.models.names([row.model_id for row in rows])
        known_indexes = indexes.names([row.index_id for row in rows])
        verdicts = _Verdicts(session, tenant)
        lines = [
            _line(row, verdicts.of(row), known_models.get(row.model_id), known_indexes.get(row.index_id))
            for row in rows
        ]
        models = indexes.models.newest_names(MAX_LIMIT) | indexes.models.names([wanted.model])
        built = indexes.newest_names(MAX_LIMIT) | indexes.names([wanted.index])
        return AnswersPage(lines, following, list(models.values()), list(built.values()))


class _Verdicts:
    """Of the answers in a list. A verdict is about an index and a method; what one answer adds to it, its reliability
    and the effect of each of its rows, is not listed, so it is not worked out either."""

    def __init__(self, session: Session, tenant: str) -> None:
        self._answers = TrustedAnswers(session, tenant)
        self._known: dict[tuple[str, ...], str] = {}

    def of(self, row: AttributionRow) -> str:
        if row.result is None:
            return ""
        about = row.index_id, str(row.revision), row.result["method"]
        if about not in self._known:
            self._known[about] = self._answers.shown(row)["trust"]["verdict"]
        return self._known[about]


def _line(row: AttributionRow, verdict: str, model: ModelName | None, index: IndexName | None) -> AnswerLine:
    query = (row.result or {}).get("query") or row.request
    members = query.get("members") or query.get("queries") or ()
    prompt = query.get("prompt") or " / ".join(turn["content"] for turn in query.get("messages") or ())
    if not prompt and members:
        prompt = members[0].get("prompt") or ""
    return AnswerLine(
        id=row.id,
        prompt=shorten(prompt) or "(no prompt)",
        completion=shorten(query.get("completion") or "…"),
        state=row.state,
        verdict=verdict,
        method=row.method or "",
        when=moment(row.created_at),
        index_id=row.index_id,
        model=model,
        index=index,
    )
