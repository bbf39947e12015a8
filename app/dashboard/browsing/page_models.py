"""What the pages about models show, loaded from the services."""

from __future__ import annotations

from dataclasses import dataclass

from app.amending import MetadataPatch
from app.dashboard.browsing.words import coverage_words, json_text, recipe_text
from app.dashboard.words import moment
from app.dependencies import Services
from app.etags import Preconditions, etag_of
from app.indexes.service import IndexesService
from app.models.schemas import ModelOut
from app.models.service import ModelsService
from app.pagination import PageRequest
from app.tables import IndexRow, ModelRow

PAGE = 25
RELATED = 25  # indexes and versions shown; all of them are one link away


@dataclass(frozen=True)
class ModelLine:
    id: str
    name: str
    version: int
    base: str
    adapter: str | None
    parameters: int
    trained: int
    coverage: float
    warnings: int
    ready: int
    when: str


@dataclass(frozen=True)
class ModelsPage:
    models: list[ModelLine]
    next_cursor: str | None


@dataclass(frozen=True)
class ModelPage:
    """etag: of the model as it is shown, for a change that must not undo another one."""

    model: ModelRow
    coverage: str
    recipe: str
    recipe_known: bool
    metadata: str
    etag: str
    when: str
    versions: list[ModelRow]
    indexes: list[IndexRow]
    aliases: dict[str, list[str]]
    more_indexes: bool


def load_models(services: Services, tenant: str, *, name: str | None, cursor: str | None) -> ModelsPage:
    """Raises BadCursor."""
    with services.database.read() as session:
        rows, following = ModelsService(session, tenant).page(PageRequest(cursor, PAGE), name=name)
        ready = IndexesService(session, tenant, services.settings).ready_counts([row.id for row in rows])
        return ModelsPage([_line(row, ready.get(row.id, 0)) for row in rows], following)


def load_model(services: Services, tenant: str, model_id: str) -> ModelPage:
    """Raises NotFound."""
    with services.database.read() as session:
        indexes = IndexesService(session, tenant, services.settings)
        row = indexes.models.get(model_id)
        versions, _ = indexes.models.page(PageRequest(None, RELATED), name=row.name)
        built, following = indexes.page(PageRequest(None, RELATED), model=row.id)
        return ModelPage(
            model=row,
            coverage=coverage_words(row.coverage),
            recipe=recipe_text(row.recipe),
            recipe_known=row.recipe is not None,
            metadata=json_text(row.user_metadata),
            etag=etag_of(ModelOut.model_validate(row)),
            when=moment(row.created_at),
            versions=[other for other in versions if other.id != row.id],
            indexes=built,
            aliases=indexes.aliases.names_of([index.id for index in built]),
            more_indexes=following is not None,
        )


def change_model(services: Services, tenant: str, model_id: str, patch: MetadataPatch, etag: str | None) -> None:
    """Raises NotFound, PreconditionFailed."""
    with services.database.write() as session:
        ModelsService(session, tenant).amend(model_id, patch, Preconditions(etag or None))


def delete_model(services: Services, tenant: str, model_id: str) -> None:
    """Raises NotFound, InUse."""
    with services.database.write() as session:
        ModelsService(session, tenant).delete(model_id)


def _line(row: ModelRow, ready: int) -> ModelLine:
    return ModelLine(
        id=row.id,
        name=row.name,
        version=row.version,
        base=row.base,
        adapter=row.adapter,
        parameters=row.parameters,
        trained=row.trained_parameters,
        coverage=row.coverage["share"],
        warnings=len(row.warnings),
        ready=ready,
        when=moment(row.created_at),
    )
