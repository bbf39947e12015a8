"""How far an answer can be trusted, joined when it is shown: what is stored is what the index said, for ever the same;
what is known about the index grows with its evaluations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy.orm import Session

from app.attributions.answer import finite, stored_body
from app.checks.effects import CheckEvidence, left_out, measured_effects
from app.evaluations.evidence import EvidenceService, Judge
from app.tables import AttributionRow, CheckRow
from engine.evaluate.trust import trust_of
from engine.types import Attribution, Diagnostics, Hit, Measurement, Token

SIDES = ("proponents", "opponents")


class TrustedAnswers:
    """Stored attributions of one tenant as the API gives them, within one transaction."""

    def __init__(self, session: Session, tenant: str) -> None:
        self.evidence = EvidenceService(session, tenant)
        self.checks = CheckEvidence(session, tenant)

    def shown(self, row: AttributionRow) -> dict[str, Any]:
        """The answer with today's trust, or why there is none yet."""
        body = stored_body(row)
        return body if row.result is None else self.trusted(body)

    def all_shown(self, rows: Sequence[AttributionRow]) -> list[dict[str, Any]]:
        """Each of them, what was measured of them in one read."""
        self.checks.look_up([row.id for row in rows])
        return [self.shown(row) for row in rows]

    def trusted(self, body: dict[str, Any]) -> dict[str, Any]:
        """Of an answer as it is stored."""
        judge = self.evidence.judge_of(body["index"], body["revision"])
        return trusted(body, judge, self.checks.of(body["id"]))


def trusted(body: dict[str, Any], judge: Judge | None, checks: Sequence[CheckRow] = ()) -> dict[str, Any]:
    """`body` with its trust, and with what leaving each hit out would do, and did where that was measured. It is not
    changed itself. checks: of this answer, newest first."""
    scorecard = None if judge is None else judge.scorecard
    found = trust_of(scorecard, attribution_of(body), remedy_command=f"whence evaluate {body['index']}")
    trust = finite(found.to_json())
    effects: dict[str, dict[str, Any]] = trust.pop("effects") or {}
    measured = measured_effects(checks)
    hits = {side: [hit | _known_of(hit, effects, measured) for hit in body[side]] for side in SIDES}
    of_this_answer = left_out(checks, body["measurement"]["kind"])
    return body | hits | {"trust": trust | {"scorecard": judge and judge.evaluation_id, "measured": of_this_answer}}


def _known_of(hit: dict[str, Any], predicted: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    return {"predicted_effect": _effect(hit, predicted), "effect": measured.get(hit["example_id"])}


def _effect(hit: dict[str, Any], effects: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """None too where a figure of it, or the score, is not finite."""
    found = effects.get(str(hit["position"]))
    known = found is not None and hit["score"] is not None and None not in found.values()
    return found if known else None


def attribution_of(body: dict[str, Any]) -> Attribution:
    """A stored answer as the engine gave it, as far as trust depends on it. What was not finite is NaN again."""
    return Attribution(
        method=body["method"],
        signed=body["signed"],
        additive=body["additive"],
        revision=body["revision"],
        prompt=body["query"]["prompt"],
        completion=body["query"]["completion"],
        tokens=tuple(Token(**_known(Token, token)) for token in body["query"]["tokens"]),
        measurement=Measurement(**body["measurement"] | {"value": _number(body["measurement"]["value"])}),
        tuned_minus_base=body["tuned_minus_base"],
        proponents=tuple(_hit(hit) for hit in body["proponents"]),
        opponents=tuple(_hit(hit) for hit in body["opponents"]),
        groups=None,
        diagnostics=_diagnostics(body["diagnostics"]),
        timings_ms={},
    )


def _hit(body: dict[str, Any]) -> Hit:
    return Hit(
        rank=body["rank"],
        position=body["position"],
        example_id=body["example_id"],
        score=_number(body["score"]),
        normalized_score=body["normalized_score"],
        percentile=_number(body["percentile"]),
    )


def _diagnostics(body: dict[str, Any]) -> Diagnostics:
    known = _known(Diagnostics, body)
    known["warnings"] = tuple(body["warnings"])
    return Diagnostics(**known)


def _known(kind: type, body: dict[str, Any]) -> dict[str, Any]:
    """Answers stored by other versions may hold more."""
    return {field.name: body[field.name] for field in fields(kind) if field.name in body}


def _number(value: float | None) -> float:
    return math.nan if value is None else value
