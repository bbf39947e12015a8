"""Check rows: asking for an experiment on a stored answer, its cost, its result, deleting."""

from __future__ import annotations

import dataclasses
import uuid
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.amending import NamedPatch, amended
from app.attributions.service import AttributionsService
from app.checks.planning import CheckPlan, plan_check, question_json
from app.checks.repository import ChecksRepository
from app.checks.running import CHECK, follow_check, run_check
from app.checks.schemas import CheckCreate, CheckOut, CheckResultOut, CheckSummary
from app.dependencies import Services
from app.errors import InUse
from app.etags import Preconditions
from app.evaluations.reusing import take_over
from app.jobs.service import JobsService
from app.pagination import PageRequest
from app.settings import Settings
from app.storage import remove_directory, undecided
from app.tables import CheckRow
from engine.causal.checks import CheckCost

__all__ = ["CHECK", "ChecksService", "follow_check", "run_check", "shown_check", "shown_summary"]

QUEUED = "queued"


class ChecksService:
    """Checks of one tenant, within one transaction."""

    def __init__(self, session: Session, tenant: str, settings: Settings) -> None:
        self.repository = ChecksRepository(session, tenant)
        self.attributions = AttributionsService(session, tenant)
        self.jobs = JobsService(session, tenant)
        self.session, self.tenant, self.settings = session, tenant, settings

    def get(self, check_id: str) -> CheckRow:
        return self.repository.get(check_id)

    def page(self, request: PageRequest, **wanted: str | None) -> tuple[list[CheckRow], str | None]:
        """wanted: name, state, kind, attribution, model, index."""
        return self.repository.matching(request, **wanted)

    def of_answer(self, attribution_id: str, request: PageRequest) -> tuple[list[CheckRow], str | None]:
        """Raises NotFound where there is no such answer."""
        answer = self.attributions.get(attribution_id)
        return self.repository.matching(request, attribution=answer.id)

    def amend(self, check_id: str, patch: NamedPatch, preconditions: Preconditions) -> CheckOut:
        """Raises NotFound, PreconditionFailed."""
        row = self.repository.get(check_id)
        return amended(self.session, row, patch, preconditions, shown_check)

    def plan(self, attribution_id: str, body: CheckCreate) -> CheckPlan:
        """What the engine is to do. Raises what app.checks.planning says."""
        return plan_check(self.session, self.tenant, self.settings, attribution_id, body)

    def create(self, attribution_id: str, body: CheckCreate) -> CheckRow:
        """The check and the job that makes it, in one transaction."""
        plan = self.plan(attribution_id, body)
        row = CheckRow(
            name=body.name,
            user_metadata=body.metadata,
            attribution_id=plan.answer.id,
            model_id=plan.live.model_id,
            dataset_id=plan.index.dataset_id,
            index_id=plan.live.id,
            index_revision=plan.live.revision or "",
            study_key=plan.study_key,
            kind=plan.config.kind,
            config=dataclasses.asdict(plan.config),
            measurement=plan.measurement,
            question=question_json(plan.query),
            ranking=[dataclasses.asdict(ranked) for ranked in plan.ranked],
            state=QUEUED,
        )
        self.repository.add(row)
        row.job_id = self.jobs.enqueue(CHECK, {"check": row.id}, resource_id=row.id).id
        return row

    def earlier(self, plan: CheckPlan) -> list[Path]:
        """Where the retrainings lie that this plan would take over."""
        return [self.settings.checks_dir / found for found in self.repository.same_study(plan.study_key)]

    def delete(self, check_id: str) -> None:
        """Forgets the check; its files follow the commit. Raises InUse."""
        row = self.repository.get(check_id)
        if job := self.jobs.active_for(row.id):
            raise InUse(f"Check '{row.id}' is being made by '{job.id}'.", used_by=job.id)
        if model := self.repository.made_model(row):
            remedy = "Delete that model first: its adapter lies among the check's files."
            raise InUse(f"Model '{model}' was made by check '{row.id}'.", remedy=remedy, used_by=model)
        self.repository.delete(row)


def create_check(services: Services, tenant: str, attribution_id: str, body: CheckCreate) -> CheckRow:
    with services.database.write() as session:
        return ChecksService(session, tenant, services.settings).create(attribution_id, body)


def estimate_check(services: Services, tenant: str, attribution_id: str, body: CheckCreate) -> CheckCost:
    """A few steps are timed, in a directory of their own that knows what has been done before."""
    with services.database.read() as session:
        service = ChecksService(session, tenant, services.settings)
        plan = service.plan(attribution_id, body)
        earlier = service.earlier(plan)
    work, live = services.settings.checks_dir / f".estimate-{uuid.uuid4().hex[:12]}", plan.live
    try:
        take_over(earlier, work)
        return services.engine.estimate_check(
            live.model, live.dataset_dir, live.index_dir, plan.query, plan.ranked, plan.config, work
        )
    finally:
        remove_directory(work)


def delete_check(services: Services, tenant: str, check_id: str) -> None:
    with services.database.read() as session:
        directory = services.settings.checks_dir / ChecksRepository(session, tenant).get(check_id).id
    with undecided(directory):
        with services.database.write() as session:
            ChecksService(session, tenant, services.settings).delete(check_id)
        remove_directory(directory)


def shown_summary(row: CheckRow) -> CheckSummary:
    """The row as lists give it: without its result."""
    return CheckSummary(**_fields(row))


def shown_check(row: CheckRow) -> CheckOut:
    """The row as the API gives it."""
    result = None
    if row.outcome is not None:
        stored = row.outcome | {"effects": row.effects or [], "sets": row.sets or []}
        result = CheckResultOut.model_validate(stored)
    return CheckOut(**_fields(row), result=result)


def _fields(row: CheckRow) -> dict[str, Any]:
    named: dict[str, Any] = {"attribution": row.attribution_id, "model": row.model_id, "dataset": row.dataset_id}
    named |= {"index": row.index_id, "new_model": row.new_model_id, "metadata": row.user_metadata}
    same = [name for name in CheckSummary.model_fields if name not in named]
    return {name: getattr(row, name) for name in same} | named
