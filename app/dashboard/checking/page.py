"""What the pages load of checks: those of one answer, one alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session

from app.attributions.trusted import TrustedAnswers
from app.checks.service import ChecksService, shown_check
from app.dashboard.checking.forms import KINDS, CheckForm
from app.dashboard.checking.views import CheckView, check_view
from app.dashboard.running.views_jobs import job_view
from app.dependencies import Services
from app.errors import NotFound
from app.pagination import PageRequest
from app.settings import Settings
from app.tables import CheckRow
from engine.causal.checks import CheckCost

SHOWN = 20  # of an answer's checks, the newest


@dataclass(frozen=True)
class ChecksPart:
    """The part of an answer's page that checks it. shown: what goes on or failed, and the newest ready one of each kind
    with all that it measured; older: the rest. cost: of what `form` asks for, once it was asked."""

    attribution: str
    shown: tuple[CheckView, ...] = ()
    older: tuple[CheckView, ...] = ()
    form: CheckForm = field(default_factory=CheckForm)
    cost: CheckCost | None = None

    @property
    def kinds(self) -> dict[str, str]:
        return KINDS


def load_checks(
    session: Session,
    tenant: str,
    settings: Settings,
    body: Mapping[str, Any],
    form: CheckForm | None = None,
    cost: CheckCost | None = None,
) -> ChecksPart:
    """`body`: an answer as GET /v1/attributions/{id} gives it."""
    service = ChecksService(session, tenant, settings)
    rows, _ = service.of_answer(body["id"], PageRequest(None, SHOWN))
    views = _views(service, rows, body)
    shown, older, kinds = list[CheckView](), list[CheckView](), set[str]()
    for view in views:
        if view.state == "ready" and view.kind in kinds:
            older.append(view)
            continue
        kinds |= {view.kind} if view.state == "ready" else set()
        shown.append(view)
    usual = CheckForm(rows=str(min(10, max(1, len(body["proponents"])))))
    return ChecksPart(body["id"], tuple(shown), tuple(older), form or usual, cost)


def load_check(services: Services, tenant: str, check_id: str) -> CheckView:
    """Raises NotFound."""
    with services.database.read() as session:
        service = ChecksService(session, tenant, services.settings)
        row = service.get(check_id)
        try:
            answer = service.attributions.get(row.attribution_id)
            body = TrustedAnswers(session, tenant).shown(answer) if answer.result is not None else None
        except NotFound:
            body = None
        (view,) = _views(service, [row], body)
        return view


def _views(service: ChecksService, rows: Sequence[CheckRow], body: Mapping[str, Any] | None) -> list[CheckView]:
    jobs = service.jobs.some([row.job_id for row in rows if row.job_id])
    tokens = 0 if body is None else body["measurement"]["tokens"]
    hits = [] if body is None else [*body["proponents"], *body["opponents"]]
    predicted = {hit["example_id"]: hit["predicted_effect"]["value"] for hit in hits if hit["predicted_effect"]}
    return [
        check_view(
            shown_check(row),
            job_view(jobs[row.job_id]) if row.job_id in jobs else None,
            tokens=tokens,
            predicted=predicted,
        )
        for row in rows
    ]
