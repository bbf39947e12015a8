"""What a scorecard's evidence is about, and whether an answer lies beyond it: index, measurement, kind of query.

Ranges are those of the evaluation's own queries, each side moved out by WIDENED of their width: of n like queries the
next one lies outside of all others with probability 2/(n + 1) for each feature, which would be a false alarm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.evaluate.scorecard import MethodEvidence, Scorecard
from engine.methods import get_method
from engine.types import Attribution

WIDENED = 0.25
_WORDS = {
    "completion_tokens": "explained tokens",
    "prompt_tokens": "prompt tokens",
    "measurement_per_token": "nats of measurement for each explained token",
    "tuned_minus_base": "nats gained by fine-tuning",
}


def scope_features(attribution: Attribution) -> dict[str, float]:
    """What tells a query from another without its content. Of a set: over all its members' tokens."""
    measured = attribution.measurement
    found = {
        "completion_tokens": float(measured.tokens),
        "prompt_tokens": float(sum(token.part == "prompt" for token in attribution.tokens)),
        "measurement_per_token": measured.value / max(1, measured.tokens),
    }
    if attribution.tuned_minus_base is not None:
        found["tuned_minus_base"] = attribution.tuned_minus_base
    return found


def scope_ranges(features: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """feature → (lowest, highest) over the queries that have it, each moved out by WIDENED of the difference."""
    names = dict.fromkeys(name for each in features for name in each)
    return {name: _widened([each[name] for each in features if name in each]) for name in names}


def beyond(scorecard: Scorecard, evidence: MethodEvidence, attribution: Attribution) -> list[str]:
    """Why the evidence is not about this answer, in words; empty where it is."""
    found = []
    if attribution.revision != scorecard.index_revision:
        found.append("the evaluation was of another index, or of this one before it was built anew")
    if not same_measurement(scorecard, attribution):
        found.append(
            f"{attribution.measurement.kind} is explained, and the evaluation measured {scorecard.scope.measurement}"
        )
    if not same_normalization(evidence, attribution):
        found.append("rows are ranked by cosine in one of evaluation and answer, and not in the other")
    return found + _outside(scope_features(attribution), scorecard.scope.ranges)


def same_measurement(scorecard: Scorecard, attribution: Attribution) -> bool:
    return attribution.measurement.kind in scorecard.scope.measurement.split(", ")


def same_normalization(evidence: MethodEvidence, attribution: Attribution) -> bool:
    """An answer of an additive method that does not add up was asked for as cosines."""
    method = get_method(attribution.method)
    if not method.additive:
        return True
    usual = getattr(method.parse({}), "normalize", "none")
    return (evidence.options.get("normalize", usual) == "cosine") == (not attribution.additive)


def _outside(features: Mapping[str, float], ranges: Mapping[str, tuple[float, float]]) -> list[str]:
    return [
        f"this query has {value:.4g} {_WORDS.get(name, name)}, the evaluation's had {low:.4g} to {high:.4g}"
        for name, value in features.items()
        for low, high in [ranges.get(name, (value, value))]
        if not low <= value <= high
    ]


def _widened(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = WIDENED * (high - low) + 1e-6 * max(abs(low), abs(high))  # the latter: rounding
    return low - margin, high + margin
