"""The adapter that unlearning made, as a new version of the model it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.dependencies import Services
from app.errors import Conflict
from app.indexes.service import LiveIndex
from app.models.service import VERSION_RACES, ModelsService
from engine.config import ModelConfig, Recipe
from engine.types import ModelInfo


@dataclass(frozen=True)
class Unlearned:
    """What is to be registered with the end of the job."""

    config: ModelConfig
    info: ModelInfo
    metadata: dict[str, Any]


def unlearned(services: Services, live: LiveIndex, adapter: Path, removed: Sequence[str], check_id: str) -> Unlearned:
    """Looks into the adapter, and for the recipe that the engine may have written beside it."""
    noted = {"unlearned_by": check_id, "unlearned_from": live.model_id, "unlearned_rows": list(removed)}
    model = replace(live.model, adapter=str(adapter.resolve()), checkpoints=(), recipe=None)
    found = services.engine.find_recipe(model, (*services.settings.roots, adapter.resolve().parent))
    recipe = found.recipe if found and found.recipe else _unrepeatable(live.model.recipe)
    model = replace(model, recipe=recipe and replace(recipe, details=recipe.details | noted))
    return Unlearned(model, services.engine.describe_model(model), noted)


def _unrepeatable(recipe: Recipe | None) -> Recipe | None:
    """How rows become tokens and losses stays; no training makes an adapter that an influence step has changed."""
    return recipe and replace(recipe, training=None)


def register(session: Session, tenant: str, model_id: str, made: Unlearned) -> str:
    """Its id, in the caller's transaction. Raises Conflict."""
    models = ModelsService(session, tenant)
    name = models.get(model_id).name
    for _ in range(VERSION_RACES):
        try:
            with session.begin_nested():
                return models.add(name, made.config, made.info, made.metadata).id
        except IntegrityError:
            continue  # another server took this version number
    raise Conflict(f"Too many models named '{name}' are being registered at once.")
