"""The form that asks for a check: from what was typed to the API's body."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from app.checks.schemas import CheckCreate
from app.errors import InvalidRequest
from app.problems import message_of, pointer_of

# kind → what it does, as the form offers it.
KINDS = {
    "leave_out": "Train again without the top rows",
    "tail_patch": "One more step on each row (quick)",
    "replay": "Replay the run: the exact effect of each row",
    "flip": "The smallest set whose removal changes the answer",
    "unlearn": "Unlearn the rows: a new version of the model",
}
_NUMBERS = ("rows", "seeds", "draws", "learning_rate", "seed")
_LABELS = {
    "kind": "What is tried", "rows": "Top rows", "seeds": "Trainings of each set", "draws": "Random sets beside",
    "learning_rate": "Learning rate", "seed": "Seed", "ids": "Rows to unlearn", "how": "How to unlearn",
}  # fmt: skip
# Fields that only one kind takes: what is typed there is sent with that kind alone.
_OF_ONE_KIND = {"learning_rate": "tail_patch", "ids": "unlearn", "how": "unlearn"}


class CheckForm(BaseModel):
    """Fields as they were sent: texts, an empty one for what is left to the usual. ids: one row's id a line."""

    model_config = ConfigDict(frozen=True)

    kind: str = "leave_out"
    rows: str = ""
    seeds: str = "3"
    draws: str = "3"
    learning_rate: str = ""
    ids: str = ""
    how: str = "retrain"
    seed: str = ""

    def fields(self) -> dict[str, str]:
        return {name: value for name, value in self.model_dump().items() if value}


def check_of(form: CheckForm) -> CheckCreate:
    """Raises InvalidRequest."""
    typed = {name: value.strip() for name, value in form.model_dump().items() if value.strip()}
    body: dict[str, Any] = {
        name: value for name, value in typed.items() if _OF_ONE_KIND.get(name, form.kind) == form.kind
    }
    if "ids" in body:
        body["ids"] = [line.strip() for line in form.ids.replace("\r\n", "\n").split("\n") if line.strip()]
    for name in _NUMBERS:
        if name in body:
            body[name] = _number(body[name], name)
    try:
        return CheckCreate.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        pointer = pointer_of(("body", *first["loc"]))
        name = str(first["loc"][0])
        raise InvalidRequest(f"{_LABELS.get(name, name)}: {message_of(first)}.", pointer=pointer) from error


def _number(text: str, name: str) -> float:
    try:
        return float(text) if name == "learning_rate" else int(text)
    except ValueError:
        raise InvalidRequest(f"{_LABELS[name]}: {text[:40]!r} is no number.", pointer=f"/{name}") from None
