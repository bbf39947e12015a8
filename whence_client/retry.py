"""When to send again, and after how long: exponential backoff with full jitter, never sooner than `Retry-After`."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from whence_client.flow import Flow, Request, Sleep, Transmit

RETRIED_STATUSES = frozenset({429, 502, 503, 504})


@dataclass(frozen=True)
class RetryPolicy:
    """`attempts` counts the first one. A longer `Retry-After` than `longest_wait_s` raises the error at once."""

    attempts: int = 5
    first_delay_s: float = 0.25
    longest_delay_s: float = 8.0
    longest_wait_s: float = 60.0
    jitter: Callable[[], float] = random.random

    def delay(self, attempt: int, retry_after_s: float | None) -> float | None:
        """Seconds to wait after failed attempt number `attempt` (from 1); None: give up."""
        if attempt >= self.attempts or (retry_after_s or 0.0) > self.longest_wait_s:
            return None
        backoff = self.jitter() * min(self.longest_delay_s, self.first_delay_s * 2.0 ** (attempt - 1))
        return (retry_after_s or 0.0) + backoff


def exchange(request: Request, policy: RetryPolicy) -> Flow[httpx.Response]:
    """One request with its retries. Raises httpx.TransportError when the last attempt did not get through."""
    attempt = 0
    while True:
        attempt += 1
        try:
            response: httpx.Response = yield Transmit(request)
        except httpx.TransportError as error:
            delay = policy.delay(attempt, None) if _resend_after_error(request, error) else None
            if delay is None:
                raise
        else:
            delay = policy.delay(attempt, retry_after(response)) if _resend_after(request, response) else None
            if delay is None:
                return response
        yield Sleep(delay)


def retry_after(response: httpx.Response) -> float | None:
    """`Retry-After` in seconds, whether it came as seconds or as a date; None when absent or unreadable."""
    value = response.headers.get("Retry-After")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        return _seconds_until(value)


def _seconds_until(date: str) -> float | None:
    try:
        moment = parsedate_to_datetime(date)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _resend_after_error(request: Request, error: httpx.TransportError) -> bool:
    """A read that timed out is not repeated: the server is busy with it, and the wait was the caller's to choose."""
    refused = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
    broken = isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError)
    return refused or (broken and request.repeatable)


def _resend_after(request: Request, response: httpx.Response) -> bool:
    """A 409 with Retry-After is our own earlier attempt, still running under the same Idempotency-Key."""
    running = response.status_code == 409 and "Retry-After" in response.headers
    return request.repeatable and (running or response.status_code in RETRIED_STATUSES)
