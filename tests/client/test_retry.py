"""What is sent again, when, and what is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from whence_client import Conflict, ConnectionFailed, RateLimited, RetryPolicy, ServerError, Timeout

MODEL = {"id": "mdl_1", "name": "tuned", "base": "models/base"}


def problem(status: int, **headers: str) -> httpx.Response:
    body = {"type": "urn:whence:problem:x", "title": "Busy", "status": status, "detail": "later"}
    return httpx.Response(status, json=body, headers={"Content-Type": "application/problem+json", **headers})


@pytest.mark.parametrize(
    "failure", [httpx.ConnectError("refused"), httpx.ReadError("cut"), httpx.RemoteProtocolError("gone")]
)
def test_a_broken_connection_is_tried_again(kind, script, no_sleep, failure):
    server = script(failure, httpx.Response(200, json=MODEL))
    assert kind.call(server, lambda c: c.models.get("mdl_1")).name == "tuned"
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_server_is_asked_again_not_before_retry_after(kind, script, no_sleep, status):
    server = script(problem(status, **{"Retry-After": "3"}), httpx.Response(200, json=MODEL))
    kind.call(server, lambda c: c.models.get("mdl_1"), retry=RetryPolicy(jitter=lambda: 0.5))
    assert no_sleep == [3.0 + 0.5 * 0.25]


def test_retry_after_may_be_a_date(kind, script, no_sleep):
    moment = datetime.now(UTC) + timedelta(seconds=20)
    server = script(problem(503, **{"Retry-After": format_datetime(moment)}), httpx.Response(200, json=MODEL))
    kind.call(server, lambda c: c.models.get("mdl_1"), retry=RetryPolicy(jitter=lambda: 0.0))
    assert 17 < no_sleep[0] <= 20


def test_a_post_is_repeated_with_the_same_key_and_body(kind, script, no_sleep):
    server = script(httpx.ReadError("cut"), problem(503), httpx.Response(201, json=MODEL))
    kind.call(server, lambda c: c.models.create("tuned", base="models/base"))
    assert len({request.headers["Idempotency-Key"] for request in server.requests}) == 1
    assert len(set(server.bodies)) == 1
    assert len(server.requests) == 3


def test_two_posts_have_different_keys(kind, script):
    server = script(httpx.Response(201, json=MODEL), httpx.Response(201, json=MODEL))
    for _ in range(2):
        kind.call(server, lambda c: c.models.create("tuned", base="models/base"))
    assert len({request.headers["Idempotency-Key"] for request in server.requests}) == 2


def test_our_own_earlier_attempt_still_running_is_waited_for(kind, script, no_sleep):
    server = script(problem(409, **{"Retry-After": "1"}), httpx.Response(201, json=MODEL))
    assert kind.call(server, lambda c: c.models.create("tuned", base="b")).id == "mdl_1"


def test_an_ordinary_conflict_is_not_repeated(kind, script):
    server = script(problem(409))
    with pytest.raises(Conflict):
        kind.call(server, lambda c: c.models.delete("mdl_1"))
    assert len(server.requests) == 1


@pytest.mark.parametrize(("status", "error"), [(429, RateLimited), (503, ServerError)])
def test_the_last_answer_is_raised_when_attempts_run_out(kind, script, no_sleep, status, error):
    server = script(*[problem(status, **{"Retry-After": "1"}) for _ in range(3)])
    with pytest.raises(error) as caught:
        kind.call(server, lambda c: c.models.get("mdl_1"))
    assert len(server.requests) == 3
    assert caught.value.retry_after_s == 1.0


def test_a_retry_after_longer_than_the_policy_allows_is_raised_at_once(kind, script, no_sleep):
    server = script(problem(429, **{"Retry-After": "3600"}))
    with pytest.raises(RateLimited):
        kind.call(server, lambda c: c.models.get("mdl_1"))
    assert no_sleep == []


def test_no_server_is_told_with_its_address_and_a_remedy(kind, script, no_sleep):
    server = script(*[httpx.ConnectError("refused") for _ in range(3)])
    with pytest.raises(ConnectionFailed, match=r"http://whence\.test.*whence serve"):
        kind.call(server, lambda c: c.models.get("mdl_1"))


def test_a_slow_answer_is_a_timeout_and_is_not_asked_for_twice(kind, script):
    server = script(httpx.ReadTimeout("slow"))
    with pytest.raises(Timeout):
        kind.call(server, lambda c: c.models.get("mdl_1"))
    assert len(server.requests) == 1


def test_backoff_doubles_up_to_its_limit():
    policy = RetryPolicy(attempts=8, first_delay_s=1.0, longest_delay_s=5.0, jitter=lambda: 1.0)
    assert [policy.delay(attempt, None) for attempt in range(1, 9)] == [1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 5.0, None]
