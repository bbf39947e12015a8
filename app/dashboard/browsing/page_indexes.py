"""What the pages about indexes show, loaded from the services."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.amending import NamedPatch
from app.dashboard.browsing.words import coverage_words, json_text
from app.dashboard.pages import Notice, notice_of
from app.dashboard.running.page_jobs import load_job_of
from app.dashboard.running.views_jobs import JobView
from app.dashboard.words import moment
from app.dependencies import Services
from app.errors import NotFound
from app.etags import Preconditions, etag_of
from app.evaluations.service import EvaluationsService
from app.indexes.schemas import IndexCreate
from app.indexes.service import READY, IndexesService, amend_index, estimate_index, shown_index
from app.jobs.service import JobsService
from app.models.service import ModelName
from app.pagination import MAX_LIMIT, PageRequest
from app.tables import DatasetRow, EvaluationRow, IndexRow
from engine.types import IndexEstimate, MethodSpec

PAGE = 25
RELATED = 10
BUILDS_FOLLOWED = 3  # as many as live.js follows
STATES = ("queued", "building", "ready", "failed", "stale")


@dataclass(frozen=True)
class IndexLine:
    index: IndexRow
    model: ModelName | None
    dataset: DatasetRow | None
    aliases: list[str]
    job: JobView | None


@dataclass(frozen=True)
class IndexesPage:
    lines: list[IndexLine]
    next_cursor: str | None
    model: ModelName | None


@dataclass(frozen=True)
class IndexPage:
    index: IndexRow
    model: ModelName | None
    dataset: DatasetRow | None
    job: JobView | None
    problem: Notice | None
    coverage: str
    aliases: list[str]
    evaluations: list[EvaluationRow]
    options: Mapping[str, Any]
    timings: Mapping[str, float]
    metadata: str
    etag: str
    created: str
    ready: str


@dataclass(frozen=True)
class BuildChoices:
    models: list[ModelName]
    datasets: list[DatasetRow]
    methods: list[MethodSpec]


def load_indexes(
    services: Services, tenant: str, *, state: str | None, model: str | None, name: str | None, cursor: str | None
) -> IndexesPage:
    """Raises BadCursor."""
    with services.database.read() as session:
        indexes = IndexesService(session, tenant, services.settings)
        rows, following = indexes.page(PageRequest(cursor, PAGE), state=state, model=model, name=name)
        models = indexes.models.names([*(row.model_id for row in rows), *filter(None, [model])])
        datasets = indexes.datasets.some([row.dataset_id for row in rows])
        aliases = indexes.aliases.names_of([row.id for row in rows])
    building = [row for row in rows if row.state in ("queued", "building")][:BUILDS_FOLLOWED]
    jobs = {row.id: load_job_of(services, tenant, row.job_id) for row in building}
    lines = [
        IndexLine(
            row, models.get(row.model_id), datasets.get(row.dataset_id), aliases.get(row.id, []), jobs.get(row.id)
        )
        for row in rows
    ]
    return IndexesPage(lines, following, models.get(model) if model else None)


def load_index(services: Services, tenant: str, index_id: str) -> IndexPage:
    """By id or alias. Raises NotFound."""
    with services.database.read() as session:
        indexes = IndexesService(session, tenant, services.settings)
        row = indexes.named(index_id)
        model = indexes.models.names([row.model_id]).get(row.model_id)
        dataset = indexes.datasets.some([row.dataset_id]).get(row.dataset_id)
        evaluations, _ = EvaluationsService(session, tenant, services.settings).page(
            PageRequest(None, RELATED), index=row.id
        )
        aliases = indexes.aliases.names_of([row.id]).get(row.id, [])
    shown = shown_index(row)
    return IndexPage(
        index=row,
        model=model,
        dataset=dataset,
        job=None if row.state == READY else load_job_of(services, tenant, row.job_id),
        problem=notice_of(row.error) if row.error else None,
        coverage=coverage_words(row.coverage),
        aliases=aliases,
        evaluations=evaluations,
        options={name: value for name, value in shown.options.items() if value is not None},
        timings=row.timings_s or {},
        metadata=json_text(row.user_metadata),
        etag=etag_of(shown),
        created=moment(row.created_at),
        ready=moment(row.ready_at),
    )


def load_choices(services: Services, tenant: str, model: str, dataset: str) -> BuildChoices:
    """The newest models and ready datasets; those that were asked for, however old they are."""
    with services.database.read() as session:
        indexes = IndexesService(session, tenant, services.settings)
        models = indexes.models.newest_names(MAX_LIMIT) | indexes.models.names([model])
        datasets, _ = indexes.datasets.page(PageRequest(None, MAX_LIMIT), state=READY)
        datasets += [
            row for row in indexes.datasets.some([dataset]).values() if row not in datasets and row.state == READY
        ]
    return BuildChoices(list(models.values()), datasets, services.engine.methods())


def estimated(services: Services, tenant: str, body: IndexCreate) -> IndexEstimate:
    """Raises what a build that cannot be made raises."""
    return estimate_index(services, tenant, body)


def change_index(services: Services, tenant: str, index_id: str, patch: NamedPatch, etag: str | None) -> None:
    """Raises NotFound, PreconditionFailed, Conflict."""
    amend_index(services, tenant, index_id, patch, Preconditions(etag or None))


def steer_build(services: Services, tenant: str, index_id: str, *, resume: bool) -> None:
    """Cancels or resumes the job that builds it. Raises NotFound, Conflict."""
    with services.database.write() as session:
        jobs = JobsService(session, tenant)
        row = IndexesService(session, tenant, services.settings).get(index_id)
        if row.job_id is None:
            raise NotFound(f"Index '{row.id}' was not built by a job of this server.")
        (jobs.resume if resume else jobs.cancel)(row.job_id, services.worker.follow)
