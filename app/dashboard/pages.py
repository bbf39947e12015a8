"""How pages are made and sent, whichever they are: full pages, and the fragments that htmx swaps in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse

from app.dashboard import words
from app.dashboard.files import static

FOLDER = Path(__file__).parent
# Address below /ui → name in the navigation, in its order.
SECTIONS = {
    "": "Ask",
    "attributions": "Answers",
    "models": "Models",
    "datasets": "Datasets",
    "indexes": "Indexes",
    "evaluations": "Trust",
    "jobs": "Jobs",
    "keys": "Keys",
    "status": "Status",
}
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

_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(FOLDER / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
_templates.filters.update(
    shorten=words.shorten,
    moment=words.moment,
    size=words.size,
    count=words.count,
    share=words.share,
    duration=words.duration,
)
_templates.globals.update(sections=SECTIONS, static=static)


@dataclass(frozen=True)
class Notice:
    """A problem, or (with `again`, the address to look at) something that is not there yet."""

    title: str
    detail: str
    remedy: str | None = None
    again: str | None = None


def page(
    template: str, *, section: str | None, status: int = 200, headers: Mapping[str, str] | None = None, **variables: Any
) -> HTMLResponse:
    """A full page; `section` is the key of SECTIONS it belongs to, None for a page of none."""
    text = render(template, section=section, **variables)
    return HTMLResponse(text, status_code=status, headers=HEADERS | dict(headers or {}))


def fragment(
    template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **variables: Any
) -> HTMLResponse:
    """A part of a page, for htmx to swap in."""
    return HTMLResponse(render(template, **variables), status_code=status, headers=HEADERS | dict(headers or {}))


def render(template: str, **variables: Any) -> str:
    return _templates.get_template(template).render(**variables)


def wants_fragment(headers: Mapping[str, str]) -> bool:
    """htmx asks for a part alone, except when it restores a page from history."""
    return headers.get("hx-request") == "true" and headers.get("hx-history-restore-request") != "true"


def is_page(path: str) -> bool:
    return path == "/ui" or path.startswith("/ui/")


def problem_page(body: Mapping[str, Any], request: Request, headers: Mapping[str, str] | None = None) -> HTMLResponse:
    """What a browser is shown where a program gets problem+json. `body`: the problem object."""
    notice = notice_of(body)
    if wants_fragment(request.headers):
        return fragment("_notice.html", status=body["status"], headers=headers, notice=notice)
    part = request.url.path.removeprefix("/ui").strip("/").partition("/")[0]
    section = part if part in SECTIONS else None
    return page("problem.html", section=section, status=body["status"], headers=headers, notice=notice)


def notice_of(problem: Mapping[str, Any]) -> Notice:
    return Notice(problem["title"], problem["detail"], problem.get("remedy"))
