"""The rows of an answer as CSV (RFC 4180), for spreadsheets."""

from __future__ import annotations

import csv
import io
from typing import Any

from app.attributions.spreadsheet import safe_cell

COLUMNS = (
    "side",
    "rank",
    "example_id",
    "position",
    "score",
    "percentile",
    "predicted_effect",
    "effect_low",
    "effect_high",
    "measured_effect",
    "measured_low",
    "measured_high",
    "measured_by",
    "rank_low",
    "rank_high",
    "label",
    "tags",
    "prompt",
    "completion",
    "text",
)
SIDES = {"proponents": "proponent", "opponents": "opponent"}


def rows_csv(body: dict[str, Any]) -> str:
    """`body`: an attribution as GET /v1/attributions/{id} gives it. Effects in nats."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for side, name in SIDES.items():
        for hit in body[side]:
            writer.writerow([safe_cell(value) for value in _cells(name, hit)])
    return out.getvalue()


def _cells(side: str, hit: dict[str, Any]) -> list[str | float | None]:
    effect, measured = hit["predicted_effect"] or {}, hit.get("effect") or {}
    tags = "; ".join(f"{key}={value}" for key, value in hit["tags"].items())
    known: dict[str, Any] = hit | {
        "side": side,
        "predicted_effect": effect.get("value"),
        "effect_low": effect.get("low"),
        "effect_high": effect.get("high"),
        "measured_effect": measured.get("measured"),
        "measured_low": measured.get("low"),
        "measured_high": measured.get("high"),
        "measured_by": measured.get("kind"),
        "tags": tags,
    }
    return [known.get(column) for column in COLUMNS]
