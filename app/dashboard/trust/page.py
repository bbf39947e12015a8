"""What the pages about trust show, loaded from the services."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.dashboard.pages import Notice, notice_of
from app.dashboard.running.views_jobs import JobView, job_view
from app.dashboard.trust.forms import EMPTY, NUMBERS, UNASKED, candidate_line
from app.dashboard.trust.views_scorecard import SHORT, VERDICTS
from app.dashboard.words import count, duration, moment
from app.dependencies import Services
from app.errors import NotFound
from app.evaluations.questions import asked_again
from app.evaluations.schemas import EvaluationFiguresOut
from app.evaluations.service import EvaluationsService
from app.indexes.service import READY
from app.pagination import PageRequest
from app.tables import EvaluationRow, IndexRow
from engine.evaluate.scorecard import Scorecard, from_json

PAGE, CHOICES = 25, 200


@dataclass(frozen=True)
class EvaluationView:
    """One line of the list, and the head of its own page. verdicts: (question's name, verdict, in words)."""

    id: str
    title: str
    index: str
    index_id: str
    model: str
    model_id: str
    dataset: str
    dataset_id: str
    state: str
    verdicts: list[tuple[str, str, str]]
    questions: str
    source: str
    retrainings: str
    took: str
    each: str
    created: str
    ready: str
    measurement: str
    problem: Notice | None
    job: JobView | None


@dataclass(frozen=True)
class EvaluationsPage:
    evaluations: list[EvaluationView]
    next_cursor: str | None
    any_index: bool

    @property
    def active(self) -> bool:
        return any(one.job is not None and one.job.active for one in self.evaluations)


@dataclass(frozen=True)
class ScorecardPage:
    """figures: None where there are none, `no_figures` then says why."""

    evaluation: EvaluationView
    scorecard: Scorecard | None
    figures: EvaluationFiguresOut | None
    no_figures: str


@dataclass(frozen=True)
class Choice:
    id: str
    title: str


def load_evaluations(
    services: Services, tenant: str, *, state: str | None, index: str | None, cursor: str | None
) -> EvaluationsPage:
    """Raises BadCursor."""
    with services.database.read() as session:
        evaluations = EvaluationsService(session, tenant, services.settings)
        rows, following = evaluations.page(PageRequest(cursor, PAGE), state=state, index=index)
        ready, _ = evaluations.indexes.page(PageRequest(None, 1), state=READY)
        return EvaluationsPage(_views(evaluations, rows), following, bool(ready))


def load_scorecard(services: Services, tenant: str, evaluation_id: str) -> ScorecardPage:
    """Raises NotFound."""
    with services.database.read() as session:
        evaluations = EvaluationsService(session, tenant, services.settings)
        row = evaluations.get(evaluation_id)
        scorecard = from_json(row.scorecard) if row.scorecard else None
        (view,) = _views(evaluations, [row])
        try:
            figures, why = evaluations.figures(evaluation_id), ""
        except NotFound as none:
            figures, why = None, f"{none.detail} {none.remedy or ''}".strip()
        return ScorecardPage(view, scorecard, figures, why)


def load_choices(services: Services, tenant: str, wanted: str) -> list[Choice]:
    """Indexes that can be evaluated, the newest; `wanted` however old it is."""
    with services.database.read() as session:
        indexes = EvaluationsService(session, tenant, services.settings).indexes
        rows, _ = indexes.page(PageRequest(None, CHOICES), state=READY)
        known = {row.id for row in rows}
        rows += [row for row in indexes.some([wanted]).values() if row.id not in known]
        models = indexes.models.some([row.model_id for row in rows])
        datasets = indexes.datasets.some([row.dataset_id for row in rows])
        named = {found.id: found.name for found in (*models.values(), *datasets.values())}
        return [Choice(row.id, _index_title(row, named)) for row in rows]


def load_typed(services: Services, tenant: str, like: str, more: Mapping[str, str]) -> dict[str, str]:
    """The form as an earlier evaluation would fill it, with more of some numbers. Raises NotFound."""
    with services.database.read() as session:
        row = EvaluationsService(session, tenant, services.settings).get(like)
        numbers = {field.name: str(row.config.get(field.name, EMPTY[field.name])) for field in NUMBERS}
        wrong = "\n".join(f"{key}={value}" for key, value in row.config.get("mislabelled", {}).items())
        lines = "\n".join(map(candidate_line, row.config.get("candidates", ())))
        kept = {"index": row.index_id, "name": row.name or "", "like": row.id, "mislabelled": wrong}
        kept |= {"measurement": row.measurement, "candidates": lines}
        return {**EMPTY, **numbers, **kept, **{name: more[name] for name in numbers if more.get(name)}}


def load_settings(services: Services, tenant: str, evaluation_id: str) -> dict[str, Any]:
    """What an evaluation that goes on from this one has in common with it, beside what the form asks: its questions,
    its seed and the like. Raises NotFound."""
    with services.database.read() as session:
        row = EvaluationsService(session, tenant, services.settings).get(evaluation_id)
        same = {name: row.config[name] for name in UNASKED if name in row.config}
        return {"queries": asked_again(row.questions), **same}


def _views(evaluations: EvaluationsService, rows: Sequence[EvaluationRow]) -> list[EvaluationView]:
    """A few reads for all of them."""
    indexes = evaluations.indexes.some([row.index_id for row in rows])
    models = evaluations.indexes.models.some([row.model_id for row in rows])
    datasets = evaluations.indexes.datasets.some([row.dataset_id for row in rows])
    jobs = evaluations.jobs.some([row.job_id for row in rows if row.job_id])
    named = {found.id: found.name for found in (*models.values(), *datasets.values())}
    titles = {index_id: _index_title(row, named) for index_id, row in indexes.items()}
    return [_view(row, titles, named, None if row.job_id not in jobs else job_view(jobs[row.job_id])) for row in rows]


def _index_title(row: IndexRow, named: Mapping[str, str]) -> str:
    own = f"{row.name}, version {row.version}: " if row.name else ""
    return f"{own}{named.get(row.model_id, row.model_id)} × {named.get(row.dataset_id, row.dataset_id)} ({row.method})"


def _view(
    row: EvaluationRow, titles: Mapping[str, str], named: Mapping[str, str], job: JobView | None
) -> EvaluationView:
    given: dict[str, Any] = row.verdicts or {}
    verdicts = [
        (SHORT.get(question, question), str(name), VERDICTS.get(name, str(name))) for question, name in given.items()
    ]
    each = duration(row.seconds / row.retrainings) if row.seconds and row.retrainings else "–"
    return EvaluationView(
        id=row.id,
        title=row.name or "Scorecard",
        index=titles.get(row.index_id, f"{row.index_id} (deleted)"),
        index_id=row.index_id,
        model=named.get(row.model_id, row.model_id),
        model_id=row.model_id,
        dataset=named.get(row.dataset_id, row.dataset_id),
        dataset_id=row.dataset_id,
        state=row.state,
        verdicts=verdicts,
        questions=count(row.asked),
        source=row.source,
        retrainings=count(row.retrainings),
        took=duration(row.seconds),
        each=each,
        created=moment(row.created_at),
        ready=moment(row.ready_at),
        measurement=row.measurement.replace("_", " "),
        problem=notice_of(row.error) if row.error else None,
        job=job,
    )
