"""/ui and /ui/ask: the form of a question, what the model says, and the question itself."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response

from app.attributions.generating import TooSlow, generate, generate_first
from app.attributions.prefer import Preference
from app.attributions.service import ask
from app.dashboard.asking.forms import AskForm, question_of
from app.dashboard.asking.page import load_recent, load_stored
from app.dashboard.asking.shown import ask_page, page_headers, problem_response, stored_fragment
from app.dashboard.pages import fragment, render, wants_fragment
from app.dependencies import ServicesDep, Tenant
from app.errors import AppError
from engine.errors import EngineError
from engine.types import Generated

router = APIRouter(prefix="/ui", include_in_schema=False)

# How long the page holds one request open; what takes longer becomes a job, which the page then looks after.
WAIT_SECONDS = 20.0

Sent = Annotated[AskForm, Form()]


@router.get("")
def home(services: ServicesDep, tenant: Tenant, index: str = "", prompt: str = "", completion: str = "") -> Response:
    """The fields may be filled in by a link. Outputs are short where people ask: their tokens are scored."""
    return ask_page(services, tenant, AskForm(index=index, prompt=prompt, completion=completion, tokens="on"))


@router.post("/ask")
async def ask_question(
    request: Request, services: ServicesDep, tenant: Tenant, form: Sent, stage: Annotated[str, Form()] = ""
) -> Response:
    """Of an output that is left to the model, htmx is shown the text first; that fragment asks again for the rows
    (`stage`: hits). Without scripts, one request does both."""
    parts = wants_fragment(request.headers)
    try:
        body = question_of(form)
        if parts and not form.completion and stage != "hits":
            said = await _first(services, tenant, form)
            if said is not None:
                return fragment("asking/_generated.html", form=form, said=said)
        answered = await ask(services, tenant, body, Preference(WAIT_SECONDS, None), use_stored=True)
    except (AppError, EngineError) as error:
        return await run_in_threadpool(problem_response, request, services, tenant, form, error)
    address = f"/ui/attributions/{answered.body['id']}"
    if not parts:
        return RedirectResponse(address, status_code=303, headers=page_headers())
    text = await run_in_threadpool(_answered, request, services, tenant, answered.body["id"])
    return HTMLResponse(text, headers=page_headers({"HX-Push-Url": address}))


@router.post("/ask/generate")
async def generate_output(request: Request, services: ServicesDep, tenant: Tenant, form: Sent) -> Response:
    """The form again, with what the model says as its output; for htmx that field alone."""
    plain = form.model_copy(update={"completion": "", "span_start": "", "span_end": "", "contrast": ""})
    try:
        said = await generate(services, tenant, question_of(plain), WAIT_SECONDS)
    except (AppError, EngineError) as error:
        return await run_in_threadpool(problem_response, request, services, tenant, form, error)
    filled = form.model_copy(update={"completion": said.text, "span_start": "", "span_end": ""})
    if wants_fragment(request.headers):
        return fragment("asking/_output.html", form=filled, said=said)
    return await run_in_threadpool(ask_page, services, tenant, filled, said=said)


async def _first(services: ServicesDep, tenant: str, form: AskForm) -> Generated | None:
    """None: there is nothing to show before the answer itself."""
    try:
        return await generate_first(services, tenant, question_of(form), WAIT_SECONDS)
    except TooSlow:
        return None  # asked as it stands: that becomes a job


def _answered(request: Request, services: ServicesDep, tenant: str, attribution_id: str) -> str:
    stored = load_stored(services, tenant, attribution_id)
    recent = render("asking/_recent.html", recent=load_recent(services, tenant), refresh=True)
    return stored_fragment(request, services, stored) + recent
