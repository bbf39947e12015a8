"""recipe.json: what a training run did, as `engine.config.Recipe` knows it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from engine.config import Recipe
from engine.durable import write_durably
from engine.errors import InvalidOption

RECIPE_FILE = "recipe.json"
_RECIPE = TypeAdapter(Recipe)


def save_recipe(path: Path, recipe: Recipe) -> None:
    text = json.dumps(asdict(recipe), sort_keys=True, indent=1)
    write_durably(path, lambda sink: sink.write(text.encode()))


def load_recipe(path: Path) -> Recipe:
    """Raises InvalidOption when the file is not a recipe."""
    try:
        return _RECIPE.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        cause = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        raise InvalidOption(
            f"{path} cannot be read as a recipe: {cause}.",
            pointer="/recipe",
            remedy="Give the recipe.json that the training run wrote.",
        ) from None
