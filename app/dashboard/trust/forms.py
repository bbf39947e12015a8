"""The form that asks for an evaluation: from what was typed to the API's body, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from app.errors import InvalidRequest
from app.evaluations.schemas import DEFAULT_ROWS, EvaluationCreate
from engine.evaluate.scorecard import EvaluationConfig


@dataclass(frozen=True)
class Field:
    """A number that says how much is measured."""

    name: str
    label: str
    hint: str


_USUAL = EvaluationConfig()
_MEASUREMENT = "log_prob"
NUMBERS = (
    Field("half_subsets", "Random halves", "Train on so many random halves of the rows: what other rows would do."),
    Field("half_seeds", "Seeds for each half", "From two on it is known what a perfect method could reach."),
    Field("drop_subsets", "Small removals", "Repeat this run so often without a few rows: what single rows did."),
    Field("leave_out_queries", "Questions left without their top rows", "Really remove what the ranking names."),
    Field("leave_out_rows", "Top rows left out", "For each of these questions."),
    Field(
        "directions",
        "Directions of the metasmoothness",
        "Is the run steady enough to speak of single rows?",
    ),
    Field("canaries", "Planted facts", "Invented facts that one more run learns and the method has to find; 0: none."),
)
# No field of the form: the usual, or those of the evaluation that a new one goes on from.
UNASKED = ("seed", "drop_share", "leave_out_draws", "leave_out_seeds", "tuning_share")
EMPTY: Mapping[str, str] = {
    "index": "",
    "name": "",
    "rows": str(DEFAULT_ROWS),
    "group_by": "",
    "candidates": "",
    "mislabelled": "",
    "like": "",
    "measurement": _MEASUREMENT,
    **{field.name: str(getattr(_USUAL, field.name)) for field in NUMBERS},
}


def body_of(typed: Mapping[str, str], like: Mapping[str, Any] | None) -> EvaluationCreate:
    """`like`: questions and unasked settings of the evaluation that this one goes on from. Raises InvalidRequest."""
    given: dict[str, Any] = {"index": typed["index"], "measurement": typed["measurement"]}
    given |= {name: typed[name] for name in ("name", "group_by") if typed[name]}
    given |= {field.name: _number(typed[field.name], field) for field in NUMBERS if typed[field.name]}
    given |= {"candidates": _candidates(typed["candidates"]), "mislabelled": _tags(typed["mislabelled"])}
    if like is not None:
        given |= like
        given.pop("group_by", None)
    elif typed["rows"]:
        given["rows"] = _number(typed["rows"], Field("rows", "Questions", ""))
    try:
        return EvaluationCreate.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "index"
        raise InvalidRequest(f"{label_of(name)}: {first['msg']}.", remedy="Change it.", pointer=f"/{name}") from error


def label_of(name: str) -> str:
    labels = {field.name: field.label for field in NUMBERS}
    return labels.get(name, {"rows": "Questions", "group_by": "Rows of one fact"}.get(name, name.capitalize()))


def _number(text: str, field: Field) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise InvalidRequest(
            f"{field.label}: '{text[:20]}' is no number.", remedy="Give a whole number.", pointer=f"/{field.name}"
        )
    return int(text)


def _candidates(text: str) -> list[dict[str, Any]]:
    """One a line: METHOD, or METHOD:{"option": value}, as `whence evaluate --candidate` takes it."""
    return [_candidate(line.strip()) for line in text.splitlines() if line.strip()]


def _candidate(line: str) -> dict[str, Any]:
    method, _, options = line.partition(":")
    try:
        return {"method": method.strip(), "options": json.loads(options) if options.strip() else {}}
    except ValueError as error:
        detail = f"Candidates: '{options[:60]}' is no JSON."
        remedy = 'Write one a line, like kfac or ekfac:{"damping": 0.1}.'
        raise InvalidRequest(detail, remedy=remedy, pointer="/candidates") from error


def candidate_line(candidate: Mapping[str, Any]) -> str:
    """As `_candidate` reads it."""
    options = candidate.get("options") or {}
    return candidate["method"] + (f":{json.dumps(options)}" if options else "")


def _tags(text: str) -> dict[str, str]:
    """One a line: key=value."""
    pairs = [line.partition("=") for line in text.splitlines() if line.strip()]
    if any(not separator for _, separator, _ in pairs):
        detail = "Rows known to be wrong: a line is not of the form key=value."
        raise InvalidRequest(detail, remedy="Write one tag a line, like quality=wrong.", pointer="/mislabelled")
    return {key.strip(): value.strip() for key, _, value in pairs}
