"""Evaluation rows: asking for a scorecard, finding the one that an answer is judged by, deleting."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.amending import NamedPatch, amended
from app.dependencies import Services
from app.errors import InUse
from app.etags import Preconditions
from app.evaluations.figures import figures_of
from app.evaluations.questions import Questions, questions_of
from app.evaluations.repository import EvaluationsRepository
from app.evaluations.reusing import take_over
from app.evaluations.running import EVALUATE, follow_evaluation, run_evaluation
from app.evaluations.schemas import (
    CandidateBody,
    EvaluationCreate,
    EvaluationFiguresOut,
    EvaluationOut,
    EvaluationSummary,
)
from app.indexes.service import IndexesService, LiveIndex
from app.jobs.service import JobsService
from app.pagination import PageRequest
from app.settings import Settings
from app.storage import remove_directory, undecided
from app.tables import EvaluationRow, IndexRow
from engine.config import fingerprint
from engine.errors import EngineError, InvalidOption
from engine.evaluate.requirements import check_config, training_of
from engine.evaluate.scorecard import EvaluationConfig, EvaluationCost
from engine.methods.specs import validate_method

__all__ = ["EvaluationsService", "follow_evaluation", "run_evaluation", "shown_evaluation", "shown_summary"]

QUEUED = "queued"


@dataclass(frozen=True)
class Plan:
    """index: the row of `live`."""

    index: IndexRow
    live: LiveIndex
    questions: Questions
    config: EvaluationConfig

    @property
    def study_key(self) -> str:
        """Of what a retraining's outcomes depend on, beside its rows and seed."""
        files = (self.index.fingerprints or {}).get("model")
        asked = [question.query for question in self.questions.queries]
        return fingerprint("study", self.live.model, files, self.live.rows.sha256, asked)


class EvaluationsService:
    """Evaluations of one tenant, within one transaction."""

    def __init__(self, session: Session, tenant: str, settings: Settings) -> None:
        self.repository = EvaluationsRepository(session, tenant)
        self.indexes = IndexesService(session, tenant, settings)
        self.jobs = JobsService(session, tenant)
        self.settings = settings

    def get(self, evaluation_id: str) -> EvaluationRow:
        return self.repository.get(evaluation_id)

    def figures(self, evaluation_id: str) -> EvaluationFiguresOut:
        """What its charts show. Raises NotFound, also where there are none."""
        return figures_of(self.settings, self.repository.get(evaluation_id))

    def page(self, request: PageRequest, **wanted: str | None) -> tuple[list[EvaluationRow], str | None]:
        """wanted: name, state, model, dataset, index."""
        return self.repository.matching(request, **wanted)

    def amend(self, evaluation_id: str, patch: NamedPatch, preconditions: Preconditions) -> EvaluationOut:
        """Raises NotFound, PreconditionFailed."""
        row = self.repository.get(evaluation_id)
        return amended(self.repository.session, row, patch, preconditions, shown_evaluation)

    def plan(self, body: EvaluationCreate) -> Plan:
        """What the engine is to measure. Raises NotFound, IndexUnavailable, MissingNeed, UnknownMethod, InvalidOption,
        InvalidQuery and its kin."""
        live = self.indexes.live(body.index)
        training_of(live.model, len(live.rows))
        _check_candidates(body.candidates)
        questions, config = questions_of(body, live.rows), body.config()
        check_config(config, len(live.rows), questions.queries)
        return Plan(self.indexes.get(live.id), live, questions, config)

    def create(self, body: EvaluationCreate) -> EvaluationRow:
        """The evaluation and the job that makes it, in one transaction."""
        plan = self.plan(body)
        row = EvaluationRow(
            name=body.name,
            user_metadata=body.metadata,
            model_id=plan.live.model_id,
            dataset_id=plan.index.dataset_id,
            index_id=plan.live.id,
            index_revision=plan.live.revision or "",
            study_key=plan.study_key,
            config=dataclasses.asdict(plan.config),
            asked=len(plan.questions.queries),
            source=plan.questions.source,
            measurement=body.measurement,
            questions=plan.questions.to_json(),
            state=QUEUED,
        )
        self.repository.add(row)
        row.job_id = self.jobs.enqueue(EVALUATE, {"evaluation": row.id}, resource_id=row.id).id
        return row

    def earlier(self, plan: Plan) -> list[Path]:
        """Where the retrainings lie that this plan would take over."""
        like = EvaluationRow(id="", study_key=plan.study_key)
        return [self.settings.evaluations_dir / found for found in self.repository.same_study(like)]

    def delete(self, evaluation_id: str) -> None:
        """Forgets the evaluation; its files follow the commit. Raises InUse."""
        row = self.repository.get(evaluation_id)
        job = self.jobs.active_for(row.id)
        if user := (job and job.id) or self.repository.user(row.id):
            raise InUse(f"Evaluation '{row.id}' is used by '{user}'.", used_by=user)
        self.repository.delete(row)


def create_evaluation(services: Services, tenant: str, body: EvaluationCreate) -> EvaluationRow:
    with services.database.write() as session:
        return EvaluationsService(session, tenant, services.settings).create(body)


def estimate_evaluation(services: Services, tenant: str, body: EvaluationCreate) -> EvaluationCost:
    """A few training steps are timed, in a directory of their own that knows what has been done before."""
    with services.database.read() as session:
        service = EvaluationsService(session, tenant, services.settings)
        plan = service.plan(body)
        earlier = service.earlier(plan)
    work, live = services.settings.evaluations_dir / f".estimate-{uuid.uuid4().hex[:12]}", plan.live
    try:
        take_over(earlier, work)
        return services.engine.estimate_evaluation(
            live.model, live.dataset_dir, live.index_dir, plan.questions.queries, plan.config, work
        )
    finally:
        remove_directory(work)


def delete_evaluation(services: Services, tenant: str, evaluation_id: str) -> None:
    with services.database.read() as session:
        directory = services.settings.evaluations_dir / EvaluationsRepository(session, tenant).get(evaluation_id).id
    with undecided(directory):
        with services.database.write() as session:
            EvaluationsService(session, tenant, services.settings).delete(evaluation_id)
        remove_directory(directory)


def shown_summary(row: EvaluationRow) -> EvaluationSummary:
    """The row as lists give it: without its scorecard."""
    return EvaluationSummary(**_fields(row))


def shown_evaluation(row: EvaluationRow) -> EvaluationOut:
    """The row as the API gives it."""
    return EvaluationOut(**_fields(row), scorecard=row.scorecard)


def _fields(row: EvaluationRow) -> dict[str, Any]:
    named: dict[str, Any] = {"model": row.model_id, "dataset": row.dataset_id, "index": row.index_id}
    named |= {"questions": row.asked, "metadata": row.user_metadata}
    same = [name for name in EvaluationSummary.model_fields if name not in named]
    return {name: getattr(row, name) for name in same} | named


def _check_candidates(candidates: Sequence[CandidateBody]) -> None:
    """Raises UnknownMethod, InvalidOption, with pointers into the candidate."""
    seen: list[CandidateBody] = []
    for number, candidate in enumerate(candidates):
        at = f"/candidates/{number}"
        if candidate.method == "auto":
            detail = "'auto' is not a method: candidates are what it chooses from."
            raise InvalidOption(detail, pointer=f"{at}/method")
        if candidate in seen:
            raise InvalidOption(f"Candidate {number} is given twice.", pointer=at)
        seen.append(candidate)
        try:
            validate_method(candidate.method, dict(candidate.options))
        except EngineError as error:
            error.pointer = at + (error.pointer or "")
            raise
