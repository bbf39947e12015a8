"""/ui: the page, its form, its answers, its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jinja2
from fastapi import APIRouter, Form, Request
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from app.attributions.prefer import Preference
from app.attributions.schemas import AttributionCreate, GenerateBody
from app.attributions.service import ask
from app.dashboard.page import AskForm, load_page, load_stored, model_of
from app.dashboard.views import NOT_PROVEN, answer_view, shorten
from app.dependencies import Services, ServicesDep, Tenant
from app.errors import AppError, InvalidRequest, problem_of
from app.problems import pointer_of
from engine.errors import EngineError

router = APIRouter(prefix="/ui", include_in_schema=False)

_FOLDER = Path(__file__).parent
_files = StaticFiles(directory=_FOLDER / "static")
_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
_templates.filters["shorten"] = shorten
_templates.globals["not_proven"] = NOT_PROVEN

# Training rows and prompts are other people's text: even if escaping failed, nothing of it could run or load.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Vary": "HX-Request",
}
# How long the page holds one request open; what takes longer becomes a job, which the page then looks after.
WAIT_SECONDS = 20.0


@dataclass(frozen=True)
class Notice:
    """A problem, or (with `again`, the address to look at) something that is not there yet."""

    title: str
    detail: str
    remedy: str | None = None
    again: str | None = None


@router.get("")
def home(services: ServicesDep, tenant: Tenant) -> Response:
    return _page(services, tenant, AskForm())


@router.post("/ask")
async def ask_question(
    request: Request,
    services: ServicesDep,
    tenant: Tenant,
    index: Annotated[str, Form()] = "",
    prompt: Annotated[str, Form()] = "",
    completion: Annotated[str, Form()] = "",
    top_k: Annotated[str, Form()] = "",
) -> Response:
    form = AskForm(index, _newlines(prompt), _newlines(completion), int(top_k) if top_k.isdecimal() else 0)
    try:
        _refuse_other_sites(request)
        body = await run_in_threadpool(_question, services, tenant, form)
        answered = await ask(services, tenant, body, Preference(WAIT_SECONDS, None), use_stored=True)
    except (AppError, EngineError) as error:
        return await run_in_threadpool(_problem, request, services, tenant, form, error)
    address = f"/ui/attributions/{answered.body['id']}"
    if not _wants_fragment(request):
        return RedirectResponse(address, status_code=303, headers=HEADERS)
    page = await run_in_threadpool(load_page, services, tenant)
    text = _fragment(_shown(answered.body)) + _render("_recent.html", recent=page.recent, refresh=True)
    return HTMLResponse(text, headers=HEADERS | {"HX-Push-Url": address})


@router.get("/attributions/{attribution_id}")
def attribution(request: Request, attribution_id: str, services: ServicesDep, tenant: Tenant) -> Response:
    """The permalink; for htmx, the answer alone."""
    try:
        stored = load_stored(services, tenant, attribution_id)
    except AppError as error:
        return _problem(request, services, tenant, AskForm(), error)
    if _wants_fragment(request):
        return HTMLResponse(_fragment(_shown(stored.body)), headers=HEADERS)
    return _page(services, tenant, stored.form, **_shown(stored.body))


@router.get("/static/{name:path}")
async def static_file(request: Request, name: str) -> Response:
    try:
        response = await _files.get_response(name, request.scope)
    except HTTPException as error:
        return HTMLResponse("Not found", status_code=error.status_code, headers=HEADERS)
    # Revalidated by ETag on each use: an upgraded server is never shown with yesterday's sheet.
    response.headers.update({"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"})
    return response


def _question(services: Services, tenant: str, form: AskForm) -> AttributionCreate:
    """Raises NotFound for the index, InvalidRequest for the rest. An empty output asks the model for one."""
    output: dict[str, Any] = {"completion": form.completion} if form.completion else {"generate": GenerateBody()}
    model = model_of(services, tenant, form.index)
    try:
        return AttributionCreate(model=model, index=form.index, prompt=form.prompt, top_k=form.top_k, **output)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = pointer_of(("body", *first["loc"]))
        raise InvalidRequest(f"{field.lstrip('/')}: {first['msg']}.", pointer=field) from error


def _refuse_other_sites(request: Request) -> None:
    """On loopback there is no key to protect the form: another site open in the same browser must not use it."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise InvalidRequest("This form was sent from another site.", remedy="Ask from this server's own page.")


def _newlines(text: str) -> str:
    """Browsers send CRLF for a line break in a text area; training rows hold LF."""
    return text.replace("\r\n", "\n")


def _shown(body: dict[str, Any]) -> dict[str, Any]:
    """Template variables: the answer, or a notice of what became of it."""
    if "query" in body:
        return {"answer": answer_view(body)}
    if body["state"] == "running":
        waiting = Notice("Still computing", "A job goes on with it.", again=f"/ui/attributions/{body['id']}")
        return {"notice": waiting}
    error = body.get("error") or {"title": f"The question was {body['state']}", "detail": "There is no answer."}
    return {"notice": Notice(error["title"], error["detail"], error.get("remedy"))}


def _problem(
    request: Request, services: Services, tenant: str, form: AskForm, error: AppError | EngineError
) -> Response:
    body = problem_of(error)
    notice = Notice(body["title"], body["detail"], body["remedy"])
    if _wants_fragment(request):
        return HTMLResponse(_fragment({"notice": notice}), status_code=body["status"], headers=HEADERS)
    return _page(services, tenant, form, status=body["status"], notice=notice)


def _page(services: Services, tenant: str, form: AskForm, *, status: int = 200, **shown: Any) -> HTMLResponse:
    page = load_page(services, tenant)
    text = _render("ask.html", indexes=page.indexes, recent=page.recent, form=form, **shown)
    return HTMLResponse(text, status_code=status, headers=HEADERS)


def _fragment(shown: dict[str, Any]) -> str:
    return _render("_answer.html" if "answer" in shown else "_notice.html", **shown)


def _render(template: str, **variables: Any) -> str:
    return _templates.get_template(template).render(**variables)


def _wants_fragment(request: Request) -> bool:
    """htmx asks for the answer alone, except when it restores a page from history."""
    headers = request.headers
    return headers.get("HX-Request") == "true" and headers.get("HX-History-Restore-Request") != "true"
