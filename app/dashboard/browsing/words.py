"""Words and addresses that several of these pages share."""

from __future__ import annotations

import json
from typing import Any

from app.dashboard.words import count, share

_PAGES = {
    "idx": "indexes",
    "evl": "evaluations",
    "chk": "checks",
    "ds": "datasets",
    "mdl": "models",
    "att": "attributions",
    "job": "jobs",
}
MOST_STEPS = 3


def address_of(resource_id: str | None) -> str | None:
    """The page of what has this id; None where there is none (an alias)."""
    section = _PAGES.get((resource_id or "").partition("_")[0])
    return None if section is None else f"/ui/{section}/{resource_id}"


def coverage_words(coverage: dict[str, Any] | None) -> str:
    if coverage is None:
        return "–"
    tracked, trained = coverage["tracked_parameters"], coverage["trained_parameters"]
    return f"{share(coverage['share'])} ({count(tracked)} of {count(trained)} trained parameters)"


def json_text(value: Any) -> str:
    """For people to read and edit; empty for nothing."""
    return "" if value is None else json.dumps(value, indent=2, ensure_ascii=False)


def recipe_text(recipe: dict[str, Any] | None) -> str:
    """The recipe without its long list of steps."""
    if recipe is None:
        return ""
    steps = recipe.get("steps")
    if steps and len(steps) > MOST_STEPS:
        recipe = recipe | {"steps": f"{len(steps):,} steps, {sum(map(len, steps)):,} rows in all"}
    return json_text(recipe)
