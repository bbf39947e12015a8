"""The job that checks an answer, and how the check's row follows it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.attributions.answer import finite
from app.checks.planning import CONFIG, QUERY, RANKING
from app.checks.repository import ChecksRepository
from app.checks.schemas import CheckResultOut
from app.checks.unlearning import Unlearned, register, unlearned
from app.dependencies import Services
from app.errors import problem_of
from app.evaluations.reusing import take_over
from app.indexes.service import IndexesService, LiveIndex
from app.jobs.contract import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED, Done, JobContext
from app.tables import CheckRow, JobRow, utc_now
from engine.causal.checks import CheckConfig, CheckResult, RankedRow
from engine.durable import write_durably
from engine.errors import Cancelled
from engine.types import Query

CHECK = "check.run"
RESULT_FILE = "result.json"
_OF_THE_ROW = {"kind", "adapter", "retrainings", "seconds"}


@dataclass(frozen=True)
class Work:
    """All that the engine needs to check, and where the retrainings of earlier checks of the same answer lie."""

    live: LiveIndex
    query: Query
    ranked: tuple[RankedRow, ...]
    config: CheckConfig
    earlier: tuple[Path, ...]


@dataclass(frozen=True)
class Checked:
    """result: what is stored of it, as JSON. made: of unlearning."""

    result: dict[str, Any]
    retrainings: int
    seconds: float
    made: Unlearned | None


def run_check(services: Services, context: JobContext) -> Done:
    """Checks, or goes on checking: what an earlier attempt finished is kept by the engine."""
    check_id = context.payload["check"]
    work, directory = _work(services, context.tenant, check_id), services.settings.checks_dir / check_id
    directory.mkdir(parents=True, exist_ok=True)
    take_over(work.earlier, directory)
    live, asked = work.live, (work.query, work.ranked, work.config)
    found = services.engine.check(live.model, live.dataset_dir, live.index_dir, *asked, directory, context.checkpoint)
    stored = CheckResultOut.model_validate(stored_result(found)).model_dump(mode="json")
    write_durably(directory / RESULT_FILE, lambda sink: sink.write(json.dumps(stored, indent=1).encode()))
    summed = {"check": check_id, "kind": work.config.kind, "retrainings": found.retrainings}
    return Done(summed, Checked(stored, found.retrainings, found.seconds, _made(services, work, found, directory)))


def stored_result(found: CheckResult) -> dict[str, Any]:
    """As JSON: what is not finite is null."""
    fields = dataclasses.asdict(found)
    return finite({name: value for name, value in fields.items() if name not in _OF_THE_ROW})


def _made(services: Services, work: Work, found: CheckResult, directory: Path) -> Unlearned | None:
    if found.adapter is None:
        return None
    removed = work.config.ids or tuple(row.id for row in work.ranked[: work.config.rows])
    return unlearned(services, work.live, directory / found.adapter, removed, directory.name)


def _work(services: Services, tenant: str, check_id: str) -> Work:
    settings = services.settings
    with services.database.read() as session:
        repository = ChecksRepository(session, tenant)
        row = repository.get(check_id)
        live = IndexesService(session, tenant, settings).live(row.index_id)
        earlier = tuple(settings.checks_dir / found for found in repository.same_study(row.study_key, but=row.id))
        query, ranked = QUERY.validate_python(row.question), RANKING.validate_python(row.ranking)
        return Work(live, query, ranked, CONFIG.validate_python(row.config), earlier)


def follow_check(services: Services, session: Session, job: JobRow, outcome: Checked | None) -> None:
    """The check's row follows its job; a cancelled one is a failed check that can be resumed."""
    row = ChecksRepository(session, job.tenant).find(job.payload["check"])
    if row is None:
        return
    if job.state == SUCCEEDED and outcome is not None:
        _ready(session, row, outcome)
    elif job.state in (QUEUED, RUNNING):
        row.state, row.error, row.finished_at = job.state, None, None
    elif job.state in (FAILED, CANCELLED):
        row.state, row.error = "failed", job.error or problem_of(Cancelled("The check was cancelled."))
        row.finished_at = utc_now()


def _ready(session: Session, row: CheckRow, checked: Checked) -> None:
    rest = dict(checked.result)
    row.effects, row.sets, row.outcome = rest.pop("effects"), rest.pop("sets"), rest
    row.retrainings, row.seconds = checked.retrainings, checked.seconds
    if checked.made is not None:
        row.new_model_id = register(session, row.tenant, row.model_id, checked.made)
    row.state, row.error, row.finished_at = "ready", None, utc_now()
