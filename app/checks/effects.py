"""What checks say about an answer: the measured effect of each row, and what leaving its first rows out did."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy.orm import Session

from app.checks.repository import ChecksRepository
from app.checks.words import left_out_words
from app.tables import CheckRow

Json = dict[str, Any]


class CheckEvidence:
    """The finished checks of one tenant's answers, within one transaction; each answer is looked up once."""

    def __init__(self, session: Session, tenant: str) -> None:
        self.repository = ChecksRepository(session, tenant)
        self._found: dict[str, list[CheckRow]] = {}

    def look_up(self, attribution_ids: Collection[str]) -> None:
        """All of these in one read."""
        unknown = {found for found in attribution_ids if found not in self._found}
        self._found |= {attribution_id: [] for attribution_id in unknown}
        for row in self.repository.ready_of(unknown) if unknown else ():
            self._found[row.attribution_id].append(row)

    def of(self, attribution_id: str) -> list[CheckRow]:
        """Newest first."""
        self.look_up([attribution_id])
        return self._found[attribution_id]


def measured_effects(checks: Collection[CheckRow]) -> dict[str, Json]:
    """Of each row that one of them measured, by its id; by the newest. `checks`: newest first."""
    found: dict[str, Json] = {}
    for check in checks:
        for effect in check.effects or ():
            if effect["measured"] is not None:
                figures = {name: effect[name] for name in ("predicted", "measured", "low", "high")}
                found.setdefault(effect["id"], figures | {"kind": check.kind, "check": check.id})
    return found


def left_out(checks: Collection[CheckRow], measurement: str) -> Json | None:
    """What the newest leave-out check says of the very answer. `measurement`: the kind of what is explained."""
    for check in checks:
        sets = {one["name"]: one for one in check.sets or ()}
        top = sets.get("top")
        if check.kind == "leave_out" and top and None not in (top["before"], top["after"], top["change"]):
            figures = {name: top[name] for name in ("rows", "trainings", "before", "after", "change", "low", "high")}
            control = sets.get("random")
            difference = (check.outcome or {}).get("details", {}).get("difference")
            words = left_out_words(top, control, difference, measurement)
            words = f"Measured on this very answer. {words}"
            known = {"random_change": control and control["change"], "difference": difference, "words": words}
            return {"check": check.id} | figures | known
    return None
