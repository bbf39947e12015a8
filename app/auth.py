"""Who asks, and may they? Decided before anything else is read of a request: its body, its route, its rows."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import quote

from sqlalchemy.exc import ProgrammingError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import AppError, Unavailable, problem_of
from app.keys.scopes import SAFE_METHODS, grants, required_scope
from app.keys.service import InvalidKey, KeyRing
from app.keys.sessions import COOKIE, key_of_session
from app.principal import ANYBODY, Principal
from app.problems import problem_response
from app.settings import Settings

PUBLIC = frozenset({"/livez", "/readyz", "/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc", "/ui/login"})
PUBLIC_BELOW = ("/ui/static/",)


class NoKey(AppError):
    status, code, title = 401, "unauthenticated", "An API key is needed"
    remedy = "Send `Authorization: Bearer whk_…`; `whence keys create NAME` on the server makes a key."


class InsufficientScope(AppError):
    status, code, title = 403, "insufficient-scope", "Not allowed"
    remedy = "Use a key that has this scope; `whence keys create NAME --scope …` on the server makes one."


class CrossSite(AppError):
    status, code, title = 403, "cross-site", "Sent from another site"
    remedy = "Use this server's own page, or send an API key."


class Authentication:
    """Puts the `Principal` at `scope["state"]["principal"]`, or refuses.

    A key in the Authorization header is always looked at. Without one, the page's session counts for the page and for
    reading. Without either, the service is open only while it has no keys at all, and then only to this machine.
    """

    def __init__(self, app: ASGIApp, settings: Settings, keys: KeyRing) -> None:
        self.app = app
        self.settings = settings
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            if scope["path"] in PUBLIC or scope["path"].startswith(PUBLIC_BELOW):
                _refuse_other_sites(scope["method"], Headers(scope=scope))
            else:
                scope["state"]["principal"] = await run_in_threadpool(self._allowed, scope)
        except AppError as error:
            await _refusal(scope, error)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _allowed(self, scope: Scope) -> Principal:
        """Raises NoKey, InvalidKey, InsufficientScope, CrossSite."""
        try:
            principal = self._principal(scope, Headers(scope=scope))
        except ProgrammingError as error:
            remedy = "Run `whence migrate` with this server's WHENCE_DATABASE_URL."
            raise Unavailable("The database is not migrated to this version.", remedy=remedy) from error
        wanted = required_scope(scope["method"], scope["path"])
        if not grants(principal.scopes, wanted):
            challenge = {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{wanted}"'}
            raise InsufficientScope(f"This needs the scope '{wanted}'.", headers=challenge, required_scope=wanted)
        return principal

    def _principal(self, scope: Scope, headers: Headers) -> Principal:
        if (authorization := headers.get("authorization")) is not None:
            scheme, _, text = authorization.partition(" ")
            if scheme.lower() != "bearer":
                raise _challenged(InvalidKey, "The Authorization header is not of the form `Bearer whk_…`.")
            try:
                return self.keys.principal(text.strip())
            except InvalidKey as error:
                raise _challenged(InvalidKey, error.detail) from error
        principal = self._of_session(scope, headers) or self._of_open_service(scope, headers)
        _refuse_other_sites(scope["method"], headers)
        return principal

    def _of_session(self, scope: Scope, headers: Headers) -> Principal | None:
        """Browsers send a cookie whoever made the page: outside /ui it is good for reading alone."""
        token = _cookie(headers)
        if token is None or not (scope["path"].startswith("/ui") or scope["method"] in SAFE_METHODS):
            return None
        key_id = key_of_session(self.keys.secret, token)
        try:
            return self.keys.principal_of(key_id) if key_id is not None else None
        except InvalidKey:
            return None

    def _of_open_service(self, scope: Scope, headers: Headers) -> Principal:
        if self.keys.has_keys():
            raise _challenged(NoKey, "This server answers only requests with an API key.")
        if not self.settings.without_keys and not _from_this_machine(scope, headers):
            detail = "This server has no API keys yet, so it answers this machine only."
            raise _challenged(NoKey, detail)
        return ANYBODY


def _challenged(kind: type[AppError], detail: str) -> AppError:
    return kind(detail, headers={"WWW-Authenticate": "Bearer"})


def _cookie(headers: Headers) -> str | None:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return found.value if found else None


def _from_this_machine(scope: Scope, headers: Headers) -> bool:
    """The caller's address and the name it called us by: a page of another site that had its own name point here
    (DNS rebinding) has the one, and not the other. What has no address at all came over no network."""
    client = _address(scope["client"][0]) if scope.get("client") else None
    if client is None:
        return "x-forwarded-for" not in headers  # a proxy's word for the caller, and it is no address
    name = headers.get("host", "").rpartition("]")[0].lstrip("[") or headers.get("host", "").partition(":")[0]
    called = _address(name)
    return _is_loopback(client) and (name == "localhost" or (called is not None and _is_loopback(called)))


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_loopback(address: Address) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _refuse_other_sites(method: str, headers: Mapping[str, str]) -> None:
    """No key came with the request, so a browser may have been made to send it by another site that is open in it.

    To plain http:// addresses other than loopback browsers say `Origin` alone."""
    if method in SAFE_METHODS:
        return
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    own = origin is None or origin.partition("://")[2].lower() == headers.get("host", "").lower()
    if not (own if site is None else site in ("same-origin", "none")):
        raise CrossSite("This request was sent from another site.")


def _refusal(scope: Scope, error: AppError) -> Response:
    """A problem; of the page, the way to the login."""
    if scope["path"].startswith("/ui") and isinstance(error, (NoKey, InvalidKey, InsufficientScope)):
        wanted = scope["path"] if scope["method"] == "GET" else "/ui"
        address = f"/ui/login?next={quote(wanted)}&refused={error.code}"
        htmx = Headers(scope=scope).get("hx-request") == "true"
        return Response(headers={"HX-Redirect": address}) if htmx else RedirectResponse(address, status_code=303)
    return problem_response(scope, problem_of(error), error.headers)
