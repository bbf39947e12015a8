"""Recipes that commands are given: a recipe's file, or the directory of a run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError

from app.commands.console import warn
from app.models.schemas import RecipeBody, first_cause
from engine.config import Recipe
from engine.errors import EngineUnavailable, InvalidOption


def read_recipe(path: Path, option: str, order_matters: bool = True) -> Recipe:
    """order_matters: False for a run that is to be done again, its rows in an order of its own.

    Raises typer.BadParameter, naming the field; InvalidOption for a directory that holds no run.
    """
    try:
        value = _json_object(path, option) if path.is_file() else asdict(_of_run(path, None, order_matters))
        return RecipeBody.model_validate(value).recipe()
    except ValidationError as error:
        raise typer.BadParameter(first_cause(error), param_hint=option) from None


def recipe_as_json(path: Path, option: str, rows: int | None) -> dict[str, Any]:
    """A file as it is, for the server to check; of a directory, its recipe.json or Hugging Face run.

    rows: of the training set, from which a Hugging Face run's order of rows is told.
    """
    return _json_object(path, option) if path.is_file() else asdict(_of_run(path, rows))


def _of_run(directory: Path, rows: int | None, order_matters: bool = True) -> Recipe:
    """With a warning for what the run leaves open."""
    try:
        from engine.causal.recorded import open_points, recipe_at
    except ImportError as error:
        raise EngineUnavailable(f"Reading a run needs the engine's libraries: {error}.") from error
    found = recipe_at(directory, rows)
    if found is None:
        raise InvalidOption(
            f"{directory} holds no recipe.json and no trainer_state.json.",
            remedy="Give a recipe's file, or the directory of a run of `whence train` or of a Hugging Face Trainer.",
        )
    for point in open_points(found, order_matters):
        warn(point)
    return found


def _json_object(path: Path, option: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise typer.BadParameter(f"{path} is not JSON: {error}", param_hint=option) from None
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{path} holds no JSON object", param_hint=option)
    return value
