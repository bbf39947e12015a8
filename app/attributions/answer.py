"""The engine's answer as it is stored: ids and example texts beside the figures. Trust is joined by trusted.py."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from app.datasets.rendering import shown
from app.tables import AttributionRow
from engine.types import Attribution, Hit

if TYPE_CHECKING:
    from engine.dataset import Dataset

SIGN_CONVENTION = "positive = proponent"
# A step that the method does not take, or that is not timed apart from another, is null.
STEPS = ("queue", "tokenize", "gradient", "sketch", "precondition", "search", "explain")
ALWAYS = ("rank", "example_id", "position", "score", "normalized_score", "percentile")
RANKS = ("rank_low", "rank_high", "tied", "rank_error", "rank_estimated", "cluster")
ASKED_FOR = (
    "position_shares",
    "query_token_scores",
    "train_tokens",
    "train_position_shares",
    "module_scores",
    "exact_score",
)


def stored_body(row: AttributionRow) -> dict[str, Any]:
    """A stored attribution: its answer without trust, or why there is none yet."""
    if row.result is not None:
        return row.result
    return _asked(row) | {"job_id": row.job_id, "error": row.error}


def _asked(row: AttributionRow) -> dict[str, Any]:
    """Whose answer it is."""
    body: dict[str, Any] = {"id": row.id, "state": row.state, "model": row.model_id, "index": row.index_id}
    if row.request_metadata is not None:
        body["metadata"] = row.request_metadata
    return body | {"created_at": row.created_at.isoformat().replace("+00:00", "Z")}


def answer_body(row: AttributionRow, attribution: Attribution, rows: Dataset) -> dict[str, Any]:
    """JSON-able; a figure that is not finite becomes null. `store` and `total` of the timings are the caller's."""
    given = attribution
    body = _asked(row) | {
        "state": "succeeded",
        "method": given.method,
        "sign_convention": SIGN_CONVENTION,
        "measurement": dataclasses.asdict(given.measurement),
        "query": {
            "prompt": given.prompt,
            "completion": given.completion,
            "tokens": [dataclasses.asdict(token) for token in given.tokens],
        },
        "proponents": [_hit(hit, rows) for hit in given.proponents],
        "opponents": [_hit(hit, rows) for hit in given.opponents],
        "clusters": [dataclasses.asdict(cluster) for cluster in given.clusters],
        "trust": None,  # its place: known when the answer is shown
        "tuned_minus_base": given.tuned_minus_base,
        "signed": given.signed,
        "additive": given.additive,
        "revision": given.revision,
        "diagnostics": dataclasses.asdict(given.diagnostics),
        "timings_ms": dict.fromkeys(STEPS) | given.timings_ms,
    }
    if given.members is not None:
        body["query"]["members"] = [dataclasses.asdict(member) for member in given.members]
    if given.groups is not None:
        body["groups"] = [dataclasses.asdict(group) for group in given.groups]
    if given.removal is not None:
        body["removal"] = dataclasses.asdict(given.removal)
    return finite(body)


def _hit(hit: Hit, rows: Dataset) -> dict[str, Any]:
    body = {name: getattr(hit, name) for name in (*ALWAYS, *RANKS)} | shown(rows[hit.position])
    return body | {name: value for name in ASKED_FOR if (value := getattr(hit, name)) is not None}


def finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity; tuples become lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
