"""/ui/login: an API key opens a session of the page."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from app.dashboard.pages import HEADERS, page
from app.dependencies import Services, ServicesDep
from app.keys.service import InvalidKey
from app.keys.sessions import COOKIE, session_token

router = APIRouter(prefix="/ui", include_in_schema=False)

_REFUSALS = {
    "invalid-key": "The key of this session was revoked or has expired.",
    "insufficient-scope": "This key may not do that: each page needs the scope of what it shows (models:read, …), and "
    "each button that of what it changes (attributions:write to ask).",
}


@router.get("/login")
def login_page(next: str = "/ui", refused: str = "") -> Response:
    return _page(next, _REFUSALS.get(refused))


@router.post("/login")
def log_in(
    request: Request,
    services: ServicesDep,
    key: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = "/ui",
) -> Response:
    try:
        principal = services.keys.principal(key.strip())
    except InvalidKey as error:
        return _page(next, error.detail, status=error.status)
    answer = RedirectResponse(_below_ui(next), status_code=303, headers=HEADERS)
    assert principal.key_id is not None
    _open_session(answer, services, principal.key_id, secure=request.url.scheme == "https")
    return answer


@router.post("/logout")
def log_out() -> Response:
    answer = RedirectResponse("/ui/login", status_code=303, headers=HEADERS)
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return answer


def _open_session(answer: Response, services: Services, key_id: str, *, secure: bool) -> None:
    seconds = int(services.settings.session_hours * 3600)
    token = session_token(services.keys.secret, key_id, int(time.time()) + seconds)
    answer.set_cookie(COOKIE, token, max_age=seconds, path="/", httponly=True, samesite="strict", secure=secure)


def _below_ui(address: str) -> str:
    """Where to go on: never to another server (`//elsewhere`, `/\\elsewhere`)."""
    plain = address.isascii() and address.isprintable() and "\\" not in address
    return address if plain and (address == "/ui" or address.startswith("/ui/")) else "/ui"


def _page(next: str, refusal: str | None, *, status: int = 200) -> Response:
    return page("login.html", section=None, status=status, next=_below_ui(next), refusal=refusal)
