"""What the routes of asking answer with: the page, its parts, and what went wrong, on the form that was filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Request
from starlette.responses import HTMLResponse, Response

from app.dashboard.asking.forms import AskForm, form_of
from app.dashboard.asking.page import Stored, load_choices, load_recent
from app.dashboard.asking.snippets import snippets
from app.dashboard.asking.views import NOT_PROVEN, answer_view
from app.dashboard.pages import HEADERS, Notice, fragment, notice_of, page, render, wants_fragment
from app.dependencies import Services
from app.errors import AppError, problem_of
from engine.errors import EngineError

STATES = {
    "failed": ("The question failed", "The engine could not answer it."),
    "cancelled": ("The question was cancelled", "Its job was stopped before there was an answer."),
}


def ask_page(services: Services, tenant: str, form: AskForm, *, status: int = 200, **shown: Any) -> HTMLResponse:
    variables = {"answer": None, "notice": None, "said": None, "refresh": False} | shown
    return page(
        "asking/ask.html",
        section="",
        status=status,
        choices=load_choices(services, tenant, form.index),
        recent=load_recent(services, tenant),
        form=form,
        **variables,
    )


def stored_page(
    request: Request,
    services: Services,
    tenant: str,
    stored: Stored,
    *,
    status: int = 200,
    refusal: Notice | None = None,
) -> HTMLResponse:
    """The permalink: the answer, and the form that asks it again. refusal: of a check that was asked for."""
    return ask_page(services, tenant, stored.form, status=status, **shown(request, services, stored, refusal))


def stored_fragment(request: Request, services: Services, stored: Stored) -> str:
    variables = shown(request, services, stored)
    return render("asking/_answer.html" if "answer" in variables else "asking/_state.html", **variables)


def shown(request: Request, services: Services, stored: Stored, refusal: Notice | None = None) -> dict[str, Any]:
    """Template variables: the answer, or a notice of what became of it. again: the form of the very same question,
    None where a form cannot hold it (a conversation, a set)."""
    body, asked = stored.body, stored.request
    again = form_of(asked, None) if asked.get("prompt") is not None else None
    if "query" in body:
        address = str(request.base_url).rstrip("/")
        return {
            "answer": answer_view(body, asked),
            "again": again,
            "not_proven": NOT_PROVEN,
            "checks": stored.checks,
            "refusal": refusal,
            "snippets": snippets(asked, address, with_key=services.keys.has_keys()),
        }
    return {"notice": _state(body), "again": again if body["state"] != "running" else None, "job": body["job_id"]}


def _state(body: dict[str, Any]) -> Notice:
    if body["state"] == "running":
        detail = "A job goes on with it; this page shows the answer as soon as it is there."
        return Notice("Still computing", detail, again=f"/ui/attributions/{body['id']}")
    title, detail = STATES[body["state"]]
    error = body.get("error") or {"title": title, "detail": detail}
    return Notice(error["title"], error["detail"], error.get("remedy") or "Ask again, perhaps with changes.")


def problem_response(
    request: Request, services: Services, tenant: str, form: AskForm, error: AppError | EngineError
) -> Response:
    """On the form as it was filled in; for htmx the notice alone, in the place of answers."""
    body = problem_of(error)
    notice = notice_of(body)
    if wants_fragment(request.headers):
        elsewhere = {"HX-Retarget": "#answer", "HX-Reswap": "innerHTML"}
        return fragment("_notice.html", status=body["status"], headers=elsewhere, notice=notice)
    return ask_page(services, tenant, form, status=body["status"], notice=notice, again=None, job=None)


def page_headers(more: Mapping[str, str] | None = None) -> dict[str, str]:
    return HEADERS | dict(more or {})
