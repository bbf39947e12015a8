"""Answers that are found instead of computed, and those that are kept: for requests and for batches alike."""

from __future__ import annotations

import time
from datetime import datetime

from sqlalchemy.orm import Session

from app.attributions.answer import answer_body
from app.attributions.planning import Plan
from app.attributions.repository import AttributionsRepository
from app.attributions.working import finish
from app.tables import AttributionRow
from engine.types import Attribution


class KeptAnswers:
    """The stored answers of one tenant, within one transaction."""

    def __init__(self, session: Session, tenant: str) -> None:
        self.repository = AttributionsRepository(session, tenant)

    def earlier(self, plan: Plan) -> AttributionRow | None:
        """The newest answer to this very question."""
        return self.repository.answered(plan.cache_key)

    def keep(self, plan: Plan, attribution: Attribution, asked_at: datetime) -> AttributionRow:
        """A new row, with what storing it took."""
        began = time.perf_counter()
        row = self.repository.add(plan.row("running", asked_at))
        answer = answer_body(row, attribution, plan.live.rows)
        answer["timings_ms"]["store"] = round((time.perf_counter() - began) * 1000, 3)
        finish(row, answer)
        return row
