"""Index rows: asking for a build, finding the index that answers, deleting."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import true
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.aliases.targets import AliasTargets
from app.amending import NamedPatch, amended
from app.datasets.service import DatasetsService
from app.dependencies import Services
from app.errors import Conflict, InUse, InvalidRequest
from app.etags import Preconditions
from app.evaluations.evidence import EvidenceService
from app.indexes.building import BUILD, follow_build, run_build
from app.indexes.options import AUTO, index_config, with_choice
from app.indexes.repository import IndexesRepository, IndexName
from app.indexes.schemas import IndexCreate, IndexOut
from app.jobs.service import JobsService
from app.models.service import ModelsService, config_of, trained_states
from app.pagination import PageRequest
from app.paths import PathPolicy
from app.settings import Settings
from app.storage import remove_directory, undecided
from app.tables import IndexRow
from engine.config import IndexConfig, ModelConfig
from engine.errors import FingerprintMismatch, IndexUnavailable, MethodNotServed
from engine.methods.specs import validate_method
from engine.types import IndexEstimate

if TYPE_CHECKING:
    from engine.dataset import Dataset

__all__ = ["IndexName", "IndexesService", "LiveIndex", "follow_build", "run_build", "shown_index"]

QUEUED, READY = "queued", "ready"
VERSION_RACES = 10

Done = TypeVar("Done")


@dataclass(frozen=True)
class IndexPlan:
    """What is to be built. chosen_by: the evaluation that `auto` was settled by."""

    model: ModelConfig
    dataset_dir: Path
    config: IndexConfig
    chosen_by: str | None


@dataclass(frozen=True)
class LiveIndex:
    """All that the engine needs to ask an index, and what the service says about it."""

    id: str
    revision: str | None
    model_id: str
    model: ModelConfig
    dataset_dir: Path
    index_dir: Path
    rows: Dataset


class IndexesService:
    """Indexes of one tenant, within one transaction."""

    def __init__(self, session: Session, tenant: str, settings: Settings) -> None:
        self.repository = IndexesRepository(session, tenant)
        self.models = ModelsService(session, tenant)
        self.datasets = DatasetsService(session, tenant, settings)
        self.jobs = JobsService(session, tenant)
        self.evidence = EvidenceService(session, tenant)
        self.aliases = AliasTargets(session, tenant)
        self.settings = settings
        self.paths = PathPolicy(settings.roots)

    def get(self, index_id: str) -> IndexRow:
        return self.repository.get(index_id)

    def some(self, index_ids: Collection[str]) -> dict[str, IndexRow]:
        """Those of these that exist, by id."""
        return self.repository.some(index_ids)

    def names(self, index_ids: Collection[str]) -> dict[str, IndexName]:
        """Of those of these that exist, by id."""
        return self.repository.names(IndexRow.id.in_(set(index_ids)), len(index_ids))

    def newest_names(self, limit: int) -> dict[str, IndexName]:
        return self.repository.names(true(), limit)

    def ready_counts(self, model_ids: Collection[str]) -> dict[str, int]:
        """How many ready indexes each of these models has; one without any is left out."""
        return self.repository.ready_counts(model_ids)

    def page(
        self,
        request: PageRequest,
        *,
        name: str | None = None,
        state: str | None = None,
        model: str | None = None,
        dataset: str | None = None,
    ) -> tuple[list[IndexRow], str | None]:
        return self.repository.matching(request, name=name, state=state, model=model, dataset=dataset)

    def amend(self, index_id: str, patch: NamedPatch, preconditions: Preconditions) -> IndexOut:
        """Raises NotFound, PreconditionFailed, Conflict for another name than it has."""
        row = self.repository.get(index_id)
        return amended(self.repository.session, row, patch, preconditions, shown_index, self._give_name)

    def _give_name(self, row: IndexRow, name: str) -> None:
        """Name and version say which index it is: once given they stay."""
        if row.name is None:
            self.repository.name(row, name)
        elif row.name != name:
            detail = f"Index '{row.id}' is '{row.name}', version {row.version}: that stays."
            raise Conflict(detail, remedy="Point an alias at it: PUT /v1/aliases/{name}.", pointer="/name")

    def plan(self, body: IndexCreate) -> IndexPlan:
        """What the engine is to build. Raises NotFound, NotReady, UnknownMethod, InvalidOption."""
        model = self.models.get(body.model)
        dataset = self.datasets.ready(body.dataset)
        choice = self.evidence.choice_for(model.id, dataset.id) if body.method == AUTO else None
        settled = with_choice(body, choice)
        config = index_config(settled, trained_states(model))
        chosen_by = choice.evaluation_id if choice and settled is not body else None
        return IndexPlan(config_of(model, self.paths), self.datasets.directory(dataset), config, chosen_by)

    def create(self, body: IndexCreate) -> IndexRow:
        """The index and the job that builds it, in one transaction."""
        plan = self.plan(body)
        row = IndexRow(
            name=body.name,
            user_metadata=body.metadata,
            model_id=body.model,
            dataset_id=body.dataset,
            method=plan.config.method,
            chosen_by=plan.chosen_by,
            config=dataclasses.asdict(plan.config),
            state=QUEUED,
        )
        self.repository.add(row)
        row.job_id = self.jobs.enqueue(BUILD, {"index": row.id}, resource_id=row.id).id
        return row

    def named(self, reference: str) -> IndexRow:
        """The index of an id, or the one that an alias points at now. Raises NotFound."""
        return self.repository.get(self.aliases.index_id(reference))

    def ready(self, reference: str, model_id: str | None = None) -> IndexRow:
        """One that can be asked, by id or alias; of this model. Raises NotFound, FingerprintMismatch,
        IndexUnavailable."""
        row = self.named(reference)
        if model_id is not None and row.model_id != model_id:
            detail = f"Index '{row.id}' was built for model '{row.model_id}', not for '{model_id}'."
            raise FingerprintMismatch(
                detail, remedy="Ask the model it was built for, or another index.", pointer="/index"
            )
        if row.state != READY:
            detail = f"Index '{row.id}' is {row.state}."
            raise IndexUnavailable(detail, pointer="/index", state=row.state, job_id=row.job_id)
        return row

    def live(self, reference: str) -> LiveIndex:
        """An index, by id or alias, that can be asked. Raises NotFound, IndexUnavailable."""
        return self._live(self.ready(reference))

    def answering(self, model: str | None, reference: str | None) -> LiveIndex:
        """The one place that decides which index answers a question: the one named, by id or alias, else the model's
        newest. Raises InvalidRequest, NotFound, FingerprintMismatch, IndexUnavailable."""
        if model is None and reference is None:
            raise InvalidRequest("Name the model to ask, or an index of it, or an alias of one.", pointer="/model")
        model_id = None if model is None else self.models.get(model).id
        if reference is not None:
            return self._live(self.ready(reference, model_id))
        assert model_id is not None
        return self.newest_live(model_id)

    def newest_live(self, model_id: str) -> LiveIndex:
        """The newest ready index of a model. Raises IndexUnavailable."""
        row = self.repository.newest_ready(model_id)
        if row is None:
            remedy = "Build one with POST /v1/indexes, or wait until the one being built is ready."
            raise IndexUnavailable(f"Model '{model_id}' has no ready index.", remedy=remedy, pointer="/index")
        return self._live(row)

    def must_serve(self, index_id: str, method: str) -> None:
        """Raises UnknownMethod, MethodNotServed (which lists those it serves)."""
        row = self.repository.get(index_id)
        validate_method(method, {})
        if method not in row.serves:
            listed = ", ".join(row.serves)
            detail = f"Index '{row.id}' ({row.method}) cannot serve '{method}'. It serves: {listed}."
            raise MethodNotServed(detail, pointer="/method", serves=list(row.serves))

    def delete(self, index_id: str) -> None:
        """Forgets the index; `delete_index` removes its files. Stored answers, evaluations and checks stay. Raises
        InUse."""
        row = self.repository.get(index_id)
        if alias := self.aliases.alias_of(row.id):
            remedy = "Point the alias at another index with PUT /v1/aliases/{name}, or delete it."
            raise InUse(f"Alias '{alias}' points at index '{row.id}'.", remedy=remedy, used_by=alias)
        job = self.jobs.active_for(row.id)
        users = (
            self.repository.running_evaluation,
            self.repository.running_check,
            self.repository.running_attribution,
            self.repository.running_batch,
        )
        if user := (job and job.id) or next((found for find in users if (found := find(row.id))), None):
            raise InUse(f"Index '{row.id}' is used by '{user}'.", used_by=user)
        self.repository.delete(row)

    def _live(self, row: IndexRow) -> LiveIndex:
        dataset = self.datasets.get(row.dataset_id)
        return LiveIndex(
            id=row.id,
            revision=row.revision,
            model_id=row.model_id,
            model=config_of(self.models.get(row.model_id), self.paths),
            dataset_dir=self.datasets.directory(dataset),
            index_dir=self.settings.indexes_dir / row.id,
            rows=self.datasets.rows(dataset),
        )


def create_index(services: Services, tenant: str, body: IndexCreate) -> IndexRow:
    return _with_version(services, tenant, lambda indexes: indexes.create(body))


def amend_index(
    services: Services, tenant: str, index_id: str, patch: NamedPatch, preconditions: Preconditions
) -> IndexOut:
    return _with_version(services, tenant, lambda indexes: indexes.amend(index_id, patch, preconditions))


def _with_version(services: Services, tenant: str, work: Callable[[IndexesService], Done]) -> Done:
    """In one transaction; again when another server took the version number in that moment."""
    for _ in range(VERSION_RACES):
        try:
            with services.database.write() as session:
                return work(IndexesService(session, tenant, services.settings))
        except IntegrityError:
            continue
    raise Conflict("Too many indexes of this name are being made at once.")


def estimate_index(services: Services, tenant: str, body: IndexCreate) -> IndexEstimate:
    with services.database.read() as session:
        plan = IndexesService(session, tenant, services.settings).plan(body)
    return services.engine.estimate_index(plan.model, plan.dataset_dir, plan.config)


def delete_index(services: Services, tenant: str, index_id: str) -> None:
    with services.database.read() as session:
        directory = services.settings.indexes_dir / IndexesRepository(session, tenant).get(index_id).id
    with undecided(directory):
        try:
            with services.database.write() as session:
                IndexesService(session, tenant, services.settings).delete(index_id)
        except IntegrityError as error:  # another server pointed an alias at it in this very moment
            raise InUse(f"An alias points at index '{index_id}'.") from error
        remove_directory(directory)


def shown_index(row: IndexRow) -> IndexOut:
    """The row as the API gives it."""
    fields: dict[str, Any] = {name: getattr(row, name) for name in IndexOut.model_fields if hasattr(row, name)}
    asked = row.config["options"] | row.config["method_options"]
    named: dict[str, Any] = {"model": row.model_id, "dataset": row.dataset_id, "metadata": row.user_metadata}
    named |= {"options": row.options or asked}
    return IndexOut(**fields | named)
