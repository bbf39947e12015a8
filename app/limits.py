"""How many requests a caller may send: a token bucket each, told in the fields of draft-ietf-httpapi-ratelimit-headers.

Of /v1 and /ui only: probes, metrics and static files cost next to nothing and must answer under load.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import AppError, problem_of
from app.principal import Principal
from app.problems import problem_response
from app.settings import Settings

POLICY = "requests"
MAX_BUCKETS = 10_000  # callers remembered: about 3 MB
_MINUTE_NS = 60 * 10**9
_SECOND_NS = 10**9


class RateLimited(AppError):
    status, code, title = 429, "rate-limited", "Too many requests"
    remedy = "Wait as long as Retry-After says; GET /v1/limits shows the limits."


class Answer(NamedTuple):
    """remaining: requests that may follow at once. full_after_s: until the whole burst may be sent again.
    retry_after_s: until the next one may; 0: now."""

    allowed: bool
    remaining: int
    full_after_s: int
    retry_after_s: int


class TokenBuckets:
    """`burst` requests at once and `per_minute` steadily, for each caller apart.

    Whole numbers throughout, so that nothing is lost or won however often a bucket is looked at: a request costs as
    many units as a minute has nanoseconds, and each nanosecond brings `per_minute` units. Callers unheard of longest
    are forgotten first; theirs are the buckets that are full again.
    """

    def __init__(
        self,
        per_minute: int,
        burst: int,
        clock: Callable[[], int] = time.monotonic_ns,
        max_buckets: int = MAX_BUCKETS,
    ) -> None:
        self._per_ns, self._most, self._clock, self._max_buckets = per_minute, burst * _MINUTE_NS, clock, max_buckets
        self._buckets: OrderedDict[str, tuple[int, int]] = OrderedDict()  # units, and when they were counted
        self.window_s = _seconds(self._most, per_minute)  # in which an empty bucket fills

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, caller: str) -> Answer:
        """One request of this caller. One that is refused costs nothing."""
        now = self._clock()
        units, since = self._buckets.get(caller, (self._most, now))
        units = min(self._most, units + (now - since) * self._per_ns)
        allowed = units >= _MINUTE_NS
        if allowed:
            units -= _MINUTE_NS
        self._buckets[caller] = units, now
        self._buckets.move_to_end(caller)
        if len(self._buckets) > self._max_buckets:
            self._buckets.popitem(last=False)
        retry_after_s = 0 if allowed else max(1, _seconds(_MINUTE_NS - units, self._per_ns))
        return Answer(allowed, units // _MINUTE_NS, _seconds(self._most - units, self._per_ns), retry_after_s)


def _seconds(units: int, per_ns: int) -> int:
    """Whole seconds after which at least so many units have come."""
    return -(-units // (per_ns * _SECOND_NS))


class RateLimit:
    """After authentication: a caller is its API key, or without keys the address it calls from."""

    def __init__(self, app: ASGIApp, settings: Settings, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.app = app
        self._rate, self._burst = settings.rate_per_minute, settings.rate_burst
        self._buckets = TokenBuckets(self._rate, self._burst, clock) if self._rate else None
        window = 0 if self._buckets is None else self._buckets.window_s
        self._policy = f'"{POLICY}";q={self._burst};w={window}'.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._buckets is None or scope["type"] != "http" or not _is_limited(scope["path"]):
            await self.app(scope, receive, send)
            return
        answer = self._buckets.take(_caller(scope))
        limit = f'"{POLICY}";r={answer.remaining};t={answer.full_after_s}'.encode()
        fields = ((b"ratelimit-policy", self._policy), (b"ratelimit", limit))

        async def send_with_fields(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *fields]
            await send(message)

        if answer.allowed:
            await self.app(scope, receive, send_with_fields)
        else:
            await self._refuse(answer, scope, receive, send_with_fields)

    async def _refuse(self, answer: Answer, scope: Scope, receive: Receive, send: Send) -> None:
        error = RateLimited(f"More than {self._rate} requests a minute, or {self._burst} at once, came from you.")
        headers = {"Retry-After": str(answer.retry_after_s)}
        response = problem_response(scope, problem_of(error), headers)
        await response(scope, receive, send)


def _is_limited(path: str) -> bool:
    if path.startswith("/v1/"):
        return True
    return path == "/ui" or (path.startswith("/ui/") and not path.startswith("/ui/static/"))


def _caller(scope: Scope) -> str:
    """Keys and addresses cannot be mistaken for one another."""
    principal: Principal | None = scope["state"].get("principal")
    if principal is not None and principal.key_id is not None:
        return f"key {principal.key_id}"
    client = scope.get("client")
    return f"address {_network(client[0])}" if client else "address"


def _network(address: str) -> str:
    """Whoever has one IPv6 address has all of its /64."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(parsed.ipv4_mapped or int(parsed) >> 64)
