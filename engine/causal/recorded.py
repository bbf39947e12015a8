"""The recipe that lies beside a model: our recipe.json, or what a Hugging Face Trainer left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.causal.huggingface import read_run
from engine.causal.recipe import RECIPE_FILE, FoundRecipe, load_recipe
from engine.causal.trainer_files import MAX_FILE_BYTES, allowed, read_trainer_files
from engine.config import ModelConfig, Recipe
from engine.errors import InvalidOption


def recipe_at(directory: Path, rows: int | None = None, roots: Sequence[Path] | None = None) -> Recipe | None:
    """Of a run in `directory`; None where none left anything there. Raises InvalidOption for broken files."""
    own = directory / RECIPE_FILE
    if allowed(own, roots):
        if own.stat().st_size > MAX_FILE_BYTES:
            raise InvalidOption(f"{own} is larger than {MAX_FILE_BYTES >> 20} MiB.", pointer="/recipe")
        return load_recipe(own)
    return None if read_trainer_files(directory, roots) is None else read_run(directory, rows, roots)


def find_recipe(model: ModelConfig, roots: Sequence[Path] | None = None) -> FoundRecipe | None:
    """Beside the state that is explained (adapter, else last checkpoint), or one directory above it.

    A dense model registered alone is looked at where it lies only: the directory above it may hold anything.
    roots: only files below these are opened, symbolic links followed.
    """
    tuned = model.adapter or (model.checkpoints[-1] if model.checkpoints else None)
    places = [Path(model.base)] if tuned is None else [Path(tuned), Path(tuned).parent]
    for place in places:
        try:
            recipe = recipe_at(place, roots=roots)
        except InvalidOption as error:
            return FoundRecipe(None, (f"the recipe beside the model was not used: {error.detail}",))
        if recipe is not None:
            return FoundRecipe(recipe, (f"the recipe was taken from {place}", *open_points(recipe)))
    return None


def open_points(recipe: Recipe, order_matters: bool = True) -> tuple[str, ...]:
    """What a recipe read from another trainer's files leaves open, a sentence each."""
    details = recipe.details
    found: list[str] = []
    if order_matters and isinstance(order := details.get("order"), str) and recipe.steps is None:
        found.append(f"the order of rows is {order}; gradients are token sums")
    if unknown := details.get("unknown"):
        found.append(f"the recipe does not know {_listed(unknown)}; it holds Transformers' defaults there")
    if unsupported := details.get("unsupported"):
        found.append(f"the recipe cannot repeat {_listed(unsupported)}")
    if isinstance(not_read := details.get("not_read"), list):
        found += [f"not read: {note}" for note in not_read]
    return tuple(found)


def _listed(names: object) -> str:
    if isinstance(names, dict):
        return ", ".join(f"{name} = {value}" for name, value in names.items())
    return ", ".join(map(str, names)) if isinstance(names, (list, tuple)) else str(names)
