"""/ui/evaluations: scorecards, and asking for one, its cost before it is spent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request
from starlette.responses import RedirectResponse, Response

from app.dashboard.pages import HEADERS, Notice, notice_of, page
from app.dashboard.trust.forms import EMPTY, NUMBERS, body_of, label_of
from app.dashboard.trust.page import load_choices, load_evaluations, load_scorecard, load_settings, load_typed
from app.dashboard.trust.views_page import scorecard_view
from app.dependencies import Services, ServicesDep, Tenant
from app.errors import AppError, problem_of
from app.evaluations.schemas import EvaluationCreate
from app.evaluations.service import create_evaluation, estimate_evaluation
from engine.errors import EngineError
from engine.evaluate.scorecard import EvaluationCost

router = APIRouter(prefix="/ui/evaluations", include_in_schema=False)
STATES = ("queued", "running", "ready", "failed")
Typed = Mapping[str, str]


async def _typed(request: Request) -> Typed:
    async with request.form(max_files=0, max_fields=2 * len(EMPTY)) as form:
        return {name: str(form.get(name, usual)).strip().replace("\r\n", "\n") for name, usual in EMPTY.items()}


TypedForm = Annotated[Typed, Depends(_typed)]


@router.get("")
def evaluations(
    services: ServicesDep, tenant: Tenant, state: str = "", index: str = "", cursor: str | None = None
) -> Response:
    loaded = load_evaluations(services, tenant, state=state or None, index=index or None, cursor=cursor)
    chosen = {"state": state, "index": index}
    shown = {"chosen": chosen, "here": f"/ui/evaluations?{urlencode(chosen)}", "states": STATES, "cursor": cursor}
    return page("trust/evaluations.html", section="evaluations", loaded=loaded, **shown)


@router.get("/new")
def new(request: Request, services: ServicesDep, tenant: Tenant, index: str = "", like: str = "") -> Response:
    typed = load_typed(services, tenant, like, request.query_params) if like else {**EMPTY, "index": index}
    return _form(services, tenant, typed)


@router.post("/estimate", name="estimate_evaluation")
def estimate(services: ServicesDep, tenant: Tenant, typed: TypedForm) -> Response:
    try:
        cost = estimate_evaluation(services, tenant, _body(services, tenant, typed))
    except (AppError, EngineError) as error:
        return _refused(services, tenant, typed, error)
    return _form(services, tenant, typed, cost=cost)


@router.post("", name="create_evaluation")
def create(services: ServicesDep, tenant: Tenant, typed: TypedForm) -> Response:
    try:
        row = create_evaluation(services, tenant, _body(services, tenant, typed))
    except (AppError, EngineError) as error:
        return _refused(services, tenant, typed, error)
    return RedirectResponse(f"/ui/evaluations/{row.id}", status_code=303, headers=HEADERS)


@router.get("/{evaluation_id}")
def evaluation(
    evaluation_id: str,
    services: ServicesDep,
    tenant: Tenant,
    composition: int | None = None,
    this_run: int | None = None,
) -> Response:
    """`composition`, `this_run`: the question whose retrainings are drawn."""
    loaded = load_scorecard(services, tenant, evaluation_id)
    chosen = {"composition": composition, "this_run": this_run}
    card = None if loaded.scorecard is None else scorecard_view(loaded.scorecard, loaded.figures, chosen)
    shown: dict[str, Any] = {"it": loaded.evaluation, "card": card, "no_figures": loaded.no_figures}
    return page("trust/evaluation.html", section="evaluations", **shown)


def _body(services: Services, tenant: str, typed: Typed) -> EvaluationCreate:
    return body_of(typed, load_settings(services, tenant, typed["like"]) if typed["like"] else None)


def _refused(services: Services, tenant: str, typed: Typed, error: AppError | EngineError) -> Response:
    body = problem_of(error)
    fields = {entry["pointer"].strip("/").partition("/")[0] for entry in body.get("errors", ()) if "pointer" in entry}
    return _form(services, tenant, typed, status=body["status"], notice=notice_of(body), wrong=fields)


def _form(
    services: Services,
    tenant: str,
    typed: Typed,
    *,
    status: int = 200,
    cost: EvaluationCost | None = None,
    notice: Notice | None = None,
    wrong: frozenset[str] | set[str] = frozenset(),
) -> Response:
    return page(
        "trust/new.html",
        section="evaluations",
        status=status,
        typed=typed,
        numbers=NUMBERS,
        choices=load_choices(services, tenant, typed["index"]),
        cost=cost,
        notice=notice,
        wrong={name: label_of(name) for name in wrong},
    )
