"""recipe.json: what a training run did, as `engine.config.Recipe` knows it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from engine.config import Recipe, Training
from engine.durable import write_durably
from engine.errors import InvalidOption, MissingNeed

RECIPE_FILE = "recipe.json"
REMOVED = "removed"  # of Recipe.details
_RECIPE = TypeAdapter(Recipe)


@dataclass(frozen=True)
class FoundRecipe:
    """recipe None: there was one, but it could not be used. notes: where it comes from and what it leaves open."""

    recipe: Recipe | None
    notes: tuple[str, ...]


def save_recipe(path: Path, recipe: Recipe) -> None:
    text = json.dumps(asdict(recipe), sort_keys=True, indent=1)
    write_durably(path, lambda sink: sink.write(text.encode()))


def load_recipe(path: Path) -> Recipe:
    """What `save_recipe` wrote; fields that a file of an older version lacks have their defaults.

    Raises InvalidOption when the file is not a recipe: some other tool's recipe.json must not pass for one.
    """
    try:
        content = path.read_bytes()
        recipe = _RECIPE.validate_json(content)
    except ValidationError as error:
        raise _not_a_recipe(path, error.errors(include_url=False)[0]["msg"]) from None
    except OSError as error:
        raise _not_a_recipe(path, error.strerror or str(error)) from None
    if strangers := _unknown_fields(json.loads(content), asdict(recipe), ""):
        raise _not_a_recipe(path, f"it has no field {strangers[0][:200]!r}")
    return recipe


def repeatable(recipe: Recipe | None, rows: int, *, what: str, remedy: str, pointer: str) -> Training:
    """The training that `what` repeats. Raises MissingNeed where it is unknown, InvalidOption where the recipe was
    recorded on another number of rows than the dataset's."""
    if recipe is None or recipe.training is None:
        detail = f"{what} repeats the training, and this model's training recipe is not known."
        raise MissingNeed(detail, remedy=remedy, pointer=pointer)
    recorded = recipe.details.get("rows")
    if recorded is not None and recorded != rows:
        raise InvalidOption(
            f"The recipe was recorded on {recorded} rows, this dataset has {rows}: {what.lower()} would be of another "
            "model.",
            remedy=remedy,
            pointer=pointer,
        )
    return recipe.training


def removed_rows(recipe: Recipe, rows: int) -> tuple[int, ...]:
    """Positions that the recorded run itself left out (engine/causal/unlearn.py): whoever repeats it leaves them out
    too. Raises InvalidOption where they are no positions."""
    found = recipe.details.get(REMOVED, ())
    if not isinstance(found, (list, tuple)) or not all(type(p) is int and 0 <= p < rows for p in found):
        raise InvalidOption(
            f"The recipe's details name rows to leave out that are no positions among {rows}.",
            pointer="/recipe/details/removed",
            remedy=f"Correct details.{REMOVED} of the recipe, or take it out.",
        )
    return tuple(found)


def _unknown_fields(given: dict[str, Any], known: dict[str, Any], prefix: str) -> list[str]:
    found = [prefix + name for name in given if name not in known]
    for name in given.keys() & known.keys() - {"details"}:
        if isinstance(given[name], dict) and isinstance(known[name], dict):
            found += _unknown_fields(given[name], known[name], f"{prefix}{name}.")
    return found


def _not_a_recipe(path: Path, cause: str) -> InvalidOption:
    return InvalidOption(
        f"{path} cannot be read as a recipe: {cause}.",
        pointer="/recipe",
        remedy="Give the recipe.json that the training run wrote.",
    )
