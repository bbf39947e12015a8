"""Index rows: asking for a build, finding the index that answers, deleting."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.datasets.service import DatasetsService
from app.dependencies import Services
from app.errors import InUse
from app.evaluations.evidence import EvidenceService
from app.indexes.building import BUILD, follow_build, run_build
from app.indexes.options import AUTO, index_config, with_choice
from app.indexes.repository import IndexesRepository
from app.indexes.schemas import IndexCreate, IndexOut
from app.jobs.service import JobsService
from app.models.service import ModelsService, config_of, trained_states
from app.pagination import PageRequest
from app.settings import Settings
from app.storage import remove_directory
from app.tables import IndexRow
from engine.config import IndexConfig, ModelConfig
from engine.dataset import Dataset
from engine.errors import FingerprintMismatch, IndexUnavailable, MethodNotServed
from engine.methods.specs import validate_method
from engine.types import IndexEstimate

__all__ = ["IndexesService", "LiveIndex", "follow_build", "run_build", "shown_index"]

QUEUED, READY = "queued", "ready"


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
        self.settings = settings

    def get(self, index_id: str) -> IndexRow:
        return self.repository.get(index_id)

    def page(self, request: PageRequest) -> tuple[list[IndexRow], str | None]:
        return self.repository.page(request)

    def plan(self, body: IndexCreate) -> IndexPlan:
        """What the engine is to build. Raises NotFound, NotReady, UnknownMethod, InvalidOption."""
        model = self.models.get(body.model)
        dataset = self.datasets.ready(body.dataset)
        choice = self.evidence.choice_for(model.id, dataset.id) if body.method == AUTO else None
        settled = with_choice(body, choice)
        config = index_config(settled, trained_states(model))
        chosen_by = choice.evaluation_id if choice and settled is not body else None
        return IndexPlan(config_of(model), self.datasets.directory(dataset), config, chosen_by)

    def create(self, body: IndexCreate) -> IndexRow:
        """The index and the job that builds it, in one transaction."""
        plan = self.plan(body)
        row = IndexRow(
            name=body.name,
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

    def live(self, index_id: str, model_id: str | None = None) -> LiveIndex:
        """An index that can be asked. Raises NotFound, FingerprintMismatch, IndexUnavailable."""
        row = self.repository.get(index_id)
        if model_id is not None and row.model_id != model_id:
            detail = f"Index '{row.id}' was built for model '{row.model_id}', not for '{model_id}'."
            raise FingerprintMismatch(
                detail, remedy="Ask the model it was built for, or another index.", pointer="/index"
            )
        if row.state != READY:
            raise IndexUnavailable(f"Index '{row.id}' is {row.state}.", state=row.state, job_id=row.job_id)
        return self._live(row)

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
        """Forgets the index; `remove_files` follows the commit. Stored answers and evaluations stay. Raises InUse."""
        row = self.repository.get(index_id)
        job = self.jobs.active_for(row.id)
        users = (self.repository.running_evaluation, self.repository.running_attribution)
        if user := (job and job.id) or next((found for find in users if (found := find(row.id))), None):
            raise InUse(f"Index '{row.id}' is used by '{user}'.", used_by=user)
        self.repository.delete(row)

    def _live(self, row: IndexRow) -> LiveIndex:
        dataset = self.datasets.get(row.dataset_id)
        return LiveIndex(
            id=row.id,
            revision=row.revision,
            model_id=row.model_id,
            model=config_of(self.models.get(row.model_id)),
            dataset_dir=self.datasets.directory(dataset),
            index_dir=self.settings.indexes_dir / row.id,
            rows=self.datasets.rows(dataset),
        )


def create_index(services: Services, tenant: str, body: IndexCreate) -> IndexRow:
    with services.database.write() as session:
        return IndexesService(session, tenant, services.settings).create(body)


def estimate_index(services: Services, tenant: str, body: IndexCreate) -> IndexEstimate:
    with services.database.read() as session:
        plan = IndexesService(session, tenant, services.settings).plan(body)
    return services.engine.estimate_index(plan.model, plan.dataset_dir, plan.config)


def delete_index(services: Services, tenant: str, index_id: str) -> None:
    with services.database.write() as session:
        IndexesService(session, tenant, services.settings).delete(index_id)
    remove_directory(services.settings.indexes_dir / index_id)


def shown_index(row: IndexRow) -> IndexOut:
    """The row as the API gives it."""
    fields: dict[str, Any] = {name: getattr(row, name) for name in IndexOut.model_fields if hasattr(row, name)}
    asked = row.config["options"] | row.config["method_options"]
    return IndexOut(**fields | {"model": row.model_id, "dataset": row.dataset_id, "options": row.options or asked})
