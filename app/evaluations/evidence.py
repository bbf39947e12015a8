"""What other resources ask of evaluations: the scorecard that judges an answer, the method that `auto` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.evaluations.repository import EvaluationsRepository
from engine.evaluate.scorecard import Scorecard, from_json


@dataclass(frozen=True)
class Judge:
    evaluation_id: str
    scorecard: Scorecard


@dataclass(frozen=True)
class Choice:
    """The method that was measured to be best, with the options that it had."""

    evaluation_id: str
    method: str
    options: dict[str, Any]


class EvidenceService:
    """The scorecards of one tenant, within one transaction; each is read once."""

    def __init__(self, session: Session, tenant: str) -> None:
        self.repository = EvaluationsRepository(session, tenant)
        self._judges: dict[tuple[str, str | None], Judge | None] = {}

    def judge_of(self, index_id: str, revision: str | None) -> Judge | None:
        """The newest of the index as it was then, else the newest of the index: the answer is then extrapolated. None
        while no evaluation of this index is ready."""
        key = index_id, revision
        if key not in self._judges:
            self._judges[key] = self._find(index_id, revision)
        return self._judges[key]

    def choice_for(self, model_id: str, dataset_id: str) -> Choice | None:
        """What the newest evaluation that could choose has chosen, for `composition`."""
        for row in self.repository.with_candidates(model_id, dataset_id):
            scorecard = from_json(row.scorecard or {})
            tuned = scorecard.tuned.get("composition")
            found = tuned and scorecard.of(tuned.chosen)
            if found:
                return Choice(row.id, found.method, found.options)
        return None

    def _find(self, index_id: str, revision: str | None) -> Judge | None:
        row = self.repository.newest_ready(index_id, revision) or self.repository.newest_ready(index_id)
        return None if row is None else Judge(row.id, from_json(row.scorecard or {}))
