"""Registering models, and turning their rows into what the engine understands."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import true
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.amending import MetadataPatch, amended
from app.dependencies import Services
from app.errors import Conflict, InUse
from app.etags import Preconditions
from app.models.repository import ModelName, ModelsRepository
from app.models.schemas import ModelCreate, ModelOut, RecipeBody, first_cause
from app.pagination import PageRequest
from app.paths import PathPolicy
from app.tables import ModelRow
from engine.causal.recipe import FoundRecipe
from engine.config import ModelConfig, Recipe
from engine.types import ModelInfo

__all__ = ["ModelName", "ModelsService", "config_of", "register_model", "trained_states"]

VERSION_RACES = 10
_RECIPE = TypeAdapter(Recipe)


class ModelsService:
    """Registered models of one tenant, within one transaction."""

    def __init__(self, session: Session, tenant: str) -> None:
        self.repository = ModelsRepository(session, tenant)

    def get(self, model_id: str) -> ModelRow:
        return self.repository.get(model_id)

    def some(self, model_ids: Collection[str]) -> dict[str, ModelRow]:
        """Those of these that exist, by id."""
        return self.repository.some(model_ids)

    def names(self, model_ids: Collection[str]) -> dict[str, ModelName]:
        """Of those of these that exist, by id."""
        return self.repository.names(ModelRow.id.in_(set(model_ids)), len(model_ids))

    def newest_names(self, limit: int) -> dict[str, ModelName]:
        return self.repository.names(true(), limit)

    def page(self, request: PageRequest, *, name: str | None = None) -> tuple[list[ModelRow], str | None]:
        return self.repository.matching(request, name=name)

    def amend(self, model_id: str, patch: MetadataPatch, preconditions: Preconditions) -> ModelOut:
        """Name and version say which model it is, so they stay. Raises NotFound, PreconditionFailed."""
        row = self.repository.get(model_id)
        return amended(self.repository.session, row, patch, preconditions, ModelOut.model_validate)

    def delete(self, model_id: str) -> None:
        """Forgets the model; its files stay where they are. Raises InUse."""
        row = self.repository.get(model_id)
        if user := self.repository.user(row.id):
            raise InUse(f"Model '{row.id}' is used by '{user}'.", used_by=user)
        self.repository.delete(row)

    def add(self, name: str, config: ModelConfig, info: ModelInfo, metadata: dict[str, Any] | None = None) -> ModelRow:
        fields = dataclasses.asdict(config) | {"checkpoints": list(config.checkpoints)}
        learned = dataclasses.asdict(info) | {"warnings": list(info.warnings)}
        del learned["checkpoints"]  # a count; the row keeps the paths
        version = self.repository.next_version(name)
        return self.repository.add(ModelRow(name=name, version=version, user_metadata=metadata, **fields, **learned))


def config_of(row: ModelRow, paths: PathPolicy) -> ModelConfig:
    """The row as the engine's configuration. Raises PathOutsideRoots: its files have been moved behind a link."""
    for path in filter(None, (row.base, row.adapter, row.tokenizer, *row.checkpoints)):
        paths.require_still(path)
    return ModelConfig(
        base=row.base,
        adapter=row.adapter,
        checkpoints=tuple(row.checkpoints),
        tokenizer=row.tokenizer,
        chat_template=row.chat_template,
        recipe=None if row.recipe is None else _RECIPE.validate_python(row.recipe),
        dtype=row.dtype,  # type: ignore[arg-type]  # written from a ModelConfig
        quantization=row.quantization,  # type: ignore[arg-type]
    )


def trained_states(row: ModelRow) -> list[str]:
    """The directories of what was trained, oldest first: the checkpoints, and the adapter unless it is one of them."""
    adapter = [row.adapter] if row.adapter and row.adapter not in row.checkpoints else []
    return [*row.checkpoints, *adapter]


def register_model(services: Services, tenant: str, body: ModelCreate) -> ModelRow:
    """Check the paths, let the engine look into the model and for its recipe, keep what it learned.

    The engine reads files for seconds, so no transaction is open meanwhile.
    """
    config = _config(body, PathPolicy(services.settings.roots))
    notes: tuple[str, ...] = ()
    if config.recipe is None and (found := services.engine.find_recipe(config, services.settings.roots)):
        recipe, notes = _checked(found)
        config = dataclasses.replace(config, recipe=recipe)
    info = services.engine.describe_model(config)
    info = dataclasses.replace(info, warnings=(*notes, *info.warnings))
    for _ in range(VERSION_RACES):
        try:
            with services.database.write() as session:
                return ModelsService(session, tenant).add(body.name, config, info, body.metadata)
        except IntegrityError:
            continue  # another request took this version number
    raise Conflict(f"Too many models named '{body.name}' are being registered at once.")


def _checked(found: FoundRecipe) -> tuple[Recipe | None, tuple[str, ...]]:
    """A recipe from a file passes what a recipe in a request passes, or is not used."""
    if found.recipe is None:
        return None, found.notes
    try:
        body = RecipeBody.model_validate(dataclasses.asdict(found.recipe))
    except ValidationError as error:
        return None, (f"the recipe beside the model was not used: {first_cause(error)}",)
    return body.recipe(), found.notes


def _config(body: ModelCreate, paths: PathPolicy) -> ModelConfig:
    return ModelConfig(
        base=paths.directory(body.base, "/base"),
        adapter=body.adapter and paths.directory(body.adapter, "/adapter"),
        checkpoints=tuple(paths.directory(path, f"/checkpoints/{n}") for n, path in enumerate(body.checkpoints)),
        tokenizer=body.tokenizer and paths.directory(body.tokenizer, "/tokenizer"),
        chat_template=body.chat_template,
        recipe=body.recipe and body.recipe.recipe(),
        dtype=body.dtype,
        quantization=body.quantization,
    )
