"""The job that evaluates an index, and how the evaluation's row follows it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy.orm import Session

from app.attributions.answer import finite
from app.dependencies import Services
from app.errors import problem_of
from app.evaluations.questions import stored_questions
from app.evaluations.repository import EvaluationsRepository
from app.evaluations.reusing import take_over
from app.indexes.service import IndexesService, LiveIndex
from app.jobs.contract import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED, Done, JobContext
from app.tables import EvaluationRow, JobRow, utc_now
from engine.errors import Cancelled
from engine.evaluate.scorecard import EvaluationConfig, EvaluationQuery, Scorecard, from_json, to_json

EVALUATE = "evaluation.run"
_CONFIG = TypeAdapter(EvaluationConfig)


@dataclass(frozen=True)
class Work:
    """All that the engine needs to evaluate, and where the retrainings of earlier evaluations lie."""

    live: LiveIndex
    queries: tuple[EvaluationQuery, ...]
    config: EvaluationConfig
    source: str
    earlier: tuple[Path, ...]


def run_evaluation(services: Services, context: JobContext) -> Done:
    """Evaluates, or goes on evaluating: finished retrainings of an earlier attempt are kept by the engine."""
    evaluation_id = context.payload["evaluation"]
    work, live = _work(services, context.tenant, evaluation_id), services.settings.evaluations_dir / evaluation_id
    take_over(work.earlier, live)
    index = work.live
    scorecard = services.engine.evaluate(
        index.model, index.dataset_dir, index.index_dir, work.queries, work.config, live, context.checkpoint
    )
    scorecard = replace(scorecard, scope=replace(scorecard.scope, queries=work.source))
    stored = finite(to_json(scorecard))
    from_json(stored)  # what cannot be read back fails here, not in every answer
    summed = {"evaluation": evaluation_id, "verdicts": verdicts_of(scorecard)}
    return Done(summed | {"retrainings": scorecard.retrainings}, stored)


def _work(services: Services, tenant: str, evaluation_id: str) -> Work:
    with services.database.read() as session:
        repository = EvaluationsRepository(session, tenant)
        row = repository.get(evaluation_id)
        live = IndexesService(session, tenant, services.settings).live(row.index_id)
        earlier = tuple(services.settings.evaluations_dir / found for found in repository.same_study(row))
        return Work(live, stored_questions(row.questions), _CONFIG.validate_python(row.config), row.source, earlier)


def follow_evaluation(services: Services, session: Session, job: JobRow, scorecard: dict[str, Any] | None) -> None:
    """The evaluation's row follows its job; a cancelled one is a failed evaluation that can be resumed."""
    row = EvaluationsRepository(session, job.tenant).find(job.payload["evaluation"])
    if row is None:
        return
    if job.state == SUCCEEDED and scorecard is not None:
        _ready(row, scorecard)
    elif job.state in (QUEUED, RUNNING):
        row.state, row.error = job.state, None
    elif job.state in (FAILED, CANCELLED):
        row.state, row.error = "failed", job.error or problem_of(Cancelled("The evaluation was cancelled."))


def _ready(row: EvaluationRow, stored: dict[str, Any]) -> None:
    scorecard = from_json(stored)
    row.scorecard, row.verdicts = stored, verdicts_of(scorecard)
    row.index_revision = scorecard.index_revision
    row.retrainings, row.seconds = scorecard.retrainings, scorecard.seconds
    row.state, row.error, row.ready_at = "ready", None, utc_now()


def verdicts_of(scorecard: Scorecard) -> dict[str, str]:
    """Of the index's own method, by question."""
    own = next((method for method in scorecard.methods if method.role == "index"), None)
    return {} if own is None else {question: verdict.verdict for question, verdict in own.verdicts.items()}
