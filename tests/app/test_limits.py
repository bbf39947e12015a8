"""Token buckets: exact arithmetic, one for each caller, bounded memory; and what the headers promise."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from app.dependencies import Services
from app.keys.scopes import ADMIN
from app.limits import RateLimit, TokenBuckets
from app.main import create_app
from app.principal import Principal
from app.tables import DEFAULT_TENANT, DatasetRow
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.questions import post, submitted
from tests.app.resources import assert_problem, ready_index

SHORT = {"prompt": "p", "completion": "c"}
TURN = {"role": "user", "content": "x" * 10}
SECOND = 10**9


class Clock:
    """Nanoseconds that pass only when the test says so."""

    def __init__(self) -> None:
        self.now = 7 * SECOND + 13

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_burst_then_a_steady_rate(clock: Clock) -> None:
    buckets = TokenBuckets(per_minute=60, burst=3, clock=clock)
    assert [buckets.take("a").remaining for _ in range(3)] == [2, 1, 0]
    refused = buckets.take("a")
    assert (refused.allowed, refused.retry_after_s, refused.full_after_s) == (False, 1, 3)
    clock.now += SECOND - 1
    assert not buckets.take("a").allowed
    clock.now += 1
    assert buckets.take("a").allowed
    assert not buckets.take("a").allowed


def test_callers_do_not_pay_for_each_other(clock: Clock) -> None:
    buckets = TokenBuckets(per_minute=60, burst=1, clock=clock)
    assert [buckets.take(caller).allowed for caller in ("a", "a", "b")] == [True, False, True]


def test_waiting_as_long_as_was_said_is_enough_and_a_second_less_is_not(clock: Clock) -> None:
    buckets = TokenBuckets(per_minute=7, burst=1, clock=clock)  # a request every 8.57 s
    buckets.take("a")
    clock.now += SECOND
    wait = buckets.take("a").retry_after_s
    assert wait == 8
    clock.now += (wait - 1) * SECOND
    assert not buckets.take("a").allowed
    clock.now += SECOND
    assert buckets.take("a").allowed


def test_an_idle_bucket_holds_no_more_than_the_burst(clock: Clock) -> None:
    buckets = TokenBuckets(per_minute=600, burst=2, clock=clock)
    buckets.take("a")
    clock.now += 3600 * SECOND
    assert [buckets.take("a").allowed for _ in range(3)] == [True, True, False]


def test_memory_is_bounded_and_the_longest_unheard_of_are_forgotten(clock: Clock) -> None:
    buckets = TokenBuckets(per_minute=1, burst=1, clock=clock, max_buckets=100)
    for number in range(1000):
        buckets.take(f"address {number}")
    assert len(buckets) == 100
    assert not buckets.take("address 950").allowed


@settings(max_examples=200, deadline=None)
@given(
    per_minute=st.integers(1, 10_000),
    burst=st.integers(1, 50),
    pauses=st.lists(st.integers(0, 90 * SECOND), max_size=60),
)
def test_the_arithmetic_is_exact(per_minute: int, burst: int, pauses: list[int]) -> None:
    """Against fractions, however often and at whatever odd moments the bucket is looked at."""
    clock = Clock()
    buckets = TokenBuckets(per_minute, burst, clock)
    tokens = Fraction(burst)
    for pause in pauses:
        clock.now += pause
        tokens = min(Fraction(burst), tokens + Fraction(pause * per_minute, 60 * SECOND))
        answer = buckets.take("a")
        assert answer.allowed == (tokens >= 1)
        if tokens >= 1:
            tokens -= 1
            assert answer.retry_after_s == 0
        else:
            until_next = (1 - tokens) * 60 / per_minute
            assert answer.retry_after_s == max(1, -(-until_next // 1))
        assert answer.remaining == tokens // 1
        assert answer.full_after_s == -(-((burst - tokens) * 60 / per_minute) // 1)


@pytest.fixture
def services(client: Any) -> Services:
    return client.app.state.services


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    """One request a minute, so that none comes back while a slow machine is at it."""
    with TestClient(create_app(make_settings(tmp_path, rate_per_minute=1, rate_burst=3), FakeEngine())) as client:
        yield client


def test_a_caller_beyond_the_rate_is_told_when_to_come_back(client: TestClient) -> None:
    answers = [client.get("/v1/models") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    told = [re.fullmatch(r'"requests";r=(\d);t=(\d+)', answer.headers["ratelimit"]) for answer in answers]
    assert [found and found[1] for found in told] == ["2", "1", "0", "0", "0"]
    assert [found and -(-int(found[2]) // 60) for found in told] == [1, 2, 3, 3, 3]  # in minutes
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"requests";q=3;w=180'}
    assert_problem(answers[3], 429, "rate-limited")
    assert 1 <= int(answers[3].headers["retry-after"]) <= 60


def test_a_refused_upload_is_not_read_and_nothing_is_done(client: TestClient, services: Services) -> None:
    for _ in range(3):
        client.get("/v1/models")
    refused = client.post("/v1/datasets", data={"name": "a"}, files={"file": ("a.jsonl", b'{"text": "a"}')})
    assert refused.status_code == 429
    with services.database.read() as session:
        assert session.scalars(select(DatasetRow)).all() == []


def test_probes_metrics_and_static_files_are_never_refused(client: TestClient) -> None:
    page = client.get("/ui").text
    (static, *_) = re.findall(r'(?:href|src)="(/ui/static/[^"?]+)', page)
    for _ in range(2):
        client.get("/v1/models")
    for path in ("/livez", "/readyz", "/metrics", static):
        for _ in range(5):
            answer = client.get(path)
            assert (answer.status_code, "ratelimit" in answer.headers) == (200, False)
    assert client.get("/ui").status_code == 429


def test_refusals_are_counted_among_the_requests(client: TestClient) -> None:
    for _ in range(4):
        client.get("/v1/models")
    assert 'status="429"} 1.0' in client.get("/metrics").text


def test_off_means_off(tmp_path: Path) -> None:
    app = create_app(make_settings(tmp_path, rate_per_minute=0, rate_burst=1), FakeEngine())
    with TestClient(app) as client:
        answers = [client.get("/v1/models") for _ in range(5)]
    assert {answer.status_code for answer in answers} == {200}
    assert "ratelimit" not in answers[0].headers


class Passed:
    """An app that counts what reaches it."""

    def __init__(self) -> None:
        self.requests = 0

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        self.requests += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def ask(limit: RateLimit, address: str | None, key: str | None = None) -> int:
    """The status of one request of this caller."""
    statuses: list[int] = []
    state: dict[str, Any] = {"request_id": "req_1"}
    if key is not None:
        state["principal"] = Principal("t", key, frozenset({ADMIN}))
    client = None if address is None else (address, 1234)
    scope = {"type": "http", "path": "/v1/models", "headers": [], "client": client, "state": state}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    receive: Any = None
    anyio.run(limit, scope, receive, send)
    return statuses[0]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (("10.0.0.1", None), ("10.0.0.1", None), True),
        (("10.0.0.1", None), ("10.0.0.2", None), False),
        (("10.0.0.1", "key_a"), ("10.0.0.2", "key_a"), True),
        (("10.0.0.1", "key_a"), ("10.0.0.1", "key_b"), False),
        (("10.0.0.1", "key_a"), ("10.0.0.1", None), False),
        (("2001:db8::1", None), ("2001:db8::ffff:2", None), True),
        (("2001:db8::1", None), ("2001:db8:0:1::1", None), False),
        (("::ffff:10.0.0.1", None), ("10.0.0.1", None), True),
        (("fe80::1%eth0", None), ("fe80::2%eth1", None), True),
        ((None, None), (None, None), True),
        (("no address", None), ("no address", None), True),
    ],
)
def test_who_is_the_same_caller(tmp_path: Path, first: Any, second: Any, same: bool) -> None:
    limit = RateLimit(Passed(), make_settings(tmp_path, rate_burst=1, rate_per_minute=1))
    assert ask(limit, *first) == 200
    assert ask(limit, *second) == (429 if same else 200)


def test_a_request_costs_microseconds(tmp_path: Path) -> None:
    """Of 10,000 callers in turn; 50 µs leaves room for a busy machine (measured: 3)."""
    buckets = TokenBuckets(per_minute=600, burst=100)
    callers = [f"key {number}" for number in range(10_000)]
    began = time.perf_counter()
    for caller in callers * 2:
        buckets.take(caller)
    assert (time.perf_counter() - began) / 20_000 < 50e-6


@pytest.fixture
def small(tmp_path: Path, model_dir: Path) -> Iterator[tuple[TestClient, dict[str, Any], FakeEngine]]:
    """A server that takes short and few queries, and an index to ask."""
    engine = FakeEngine()
    with TestClient(create_app(make_settings(tmp_path, max_query_chars=30, max_queries=2), engine)) as client:
        yield client, ready_index(client, model_dir), engine


@pytest.mark.parametrize(
    ("asked", "pointer"),
    [
        ({"prompt": "p" * 20, "completion": "c" * 11}, ""),
        ({"prompt": "p" * 20, "completion": "c", "contrast": "d" * 10}, ""),
        ({"prompt": None, "completion": None, "messages": [TURN, {"role": "assistant", "content": "y" * 8}]}, ""),
        ({"prompt": None, "completion": None, "queries": [SHORT, SHORT | {"prompt": "p" * 30}]}, "/queries/1"),
        ({"prompt": None, "completion": None, "queries": [SHORT] * 3}, "/queries"),
    ],
)
def test_queries_that_are_too_long_or_too_many_are_refused_before_the_engine_sees_them(
    small: tuple[TestClient, dict[str, Any], FakeEngine], asked: dict[str, Any], pointer: str
) -> None:
    client, index, engine = small
    problem = assert_problem(post(client, index, **asked), 422, "invalid-request")
    assert [error["pointer"] for error in problem["errors"]] == ([pointer] if pointer else [])
    assert submitted(engine) == []


def test_queries_at_the_limit_pass_on_behalf_of_their_tenant(
    small: tuple[TestClient, dict[str, Any], FakeEngine],
) -> None:
    client, index, engine = small
    assert post(client, index, prompt="p" * 20, completion="c" * 10).status_code == 200
    assert post(client, index, prompt=None, completion=None, queries=[SHORT] * 2).status_code == 200
    assert engine.groups == [DEFAULT_TENANT] * 2
