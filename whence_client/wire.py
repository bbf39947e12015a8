"""Requests out, answers in: bodies without Nones, problems as exceptions, JSON as typed objects."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from whence_client.errors import ConnectionFailed, Timeout, UnexpectedResponse, WhenceError, error_class
from whence_client.flow import Flow, Request, Upload, send
from whence_client.problem import Problem
from whence_client.retry import retry_after

T = TypeVar("T")


def get(path: str, **params: Any) -> Request:
    return Request("GET", path, params=given(params))


def post(path: str, body: Mapping[str, Any] | None = None, *, prefer: str | None = None) -> Request:
    """A POST with its own Idempotency-Key: the server does the work once, however often it is sent."""
    headers = {"Idempotency-Key": uuid.uuid4().hex} | ({"Prefer": prefer} if prefer else {})
    return Request("POST", path, json=None if body is None else given(body), headers=headers)


def patch(path: str, body: Mapping[str, Any], if_match: str | None) -> Request:
    """What is None is left as it is. Not repeated: a second one would find the first one's change."""
    return Request("PATCH", path, json=given(body), headers=given({"If-Match": if_match}))


def post_file(path: str, file: Path, **fields: str | None) -> Request:
    """The boundary is fixed with the key, so that every attempt sends the same bytes."""
    key = uuid.uuid4().hex
    return Request("POST", path, upload=Upload(file, given(fields), key), headers={"Idempotency-Key": key})


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are there: a None is left to the server's default."""
    return {name: value for name, value in values.items() if value is not None}


def ask(request: Request, answer: type[T]) -> Flow[T]:
    """Send (with retries) and read the answer as `answer`."""
    response = yield from send(request)
    return parse(response, answer)


def discard(path: str) -> Flow[None]:
    require_success((yield from send(Request("DELETE", path))))


def parse(response: httpx.Response, answer: type[T]) -> T:
    """The body as `answer`. Raises the APIError of its status, or UnexpectedResponse."""
    require_success(response)
    try:
        return TypeAdapter(answer).validate_json(response.content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise UnexpectedResponse(
            f"{_named(response)} answered {response.status_code}, but {where} is not as expected: {first['msg']}. "
            "Is this a Whence server of the same version?"
        ) from None


def parse_text(text: str, answer: type[T]) -> T:
    """One object of an answer that holds many. Raises UnexpectedResponse."""
    try:
        return TypeAdapter(answer).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the line"
        raise UnexpectedResponse(f"A line of the answer is not as expected: {where}: {first['msg']}.") from None


def require_success(response: httpx.Response) -> None:
    """Raise what the status says; 2xx passes."""
    if response.is_success:
        return
    if response.status_code < 400:
        location = response.headers.get("Location", "elsewhere")
        raise UnexpectedResponse(f"{_named(response)} redirects to {location}. Give the server's own address.")
    problem = read_problem(response)
    raise error_class(response.status_code)(problem, retry_after_s=retry_after(response))


def read_problem(response: httpx.Response) -> Problem:
    """The problem in the body; a body of another kind (a proxy's page) becomes one with the bare status."""
    if "json" in response.headers.get("Content-Type", ""):
        try:
            return Problem.model_validate_json(response.content).model_copy(update={"status": response.status_code})
        except ValidationError:
            pass
    title = f"HTTP {response.status_code} {response.reason_phrase}".strip()
    return Problem(title=title, status=response.status_code, detail=f"from {_named(response)}")


def translate(error: httpx.HTTPError | httpx.InvalidURL, base_url: str) -> WhenceError:
    """The client's own error for one of httpx, with the remedy in it."""
    reason = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return ConnectionFailed(
            f"No Whence server answers at {base_url} ({reason}). Start one with `whence serve`, or set WHENCE_URL."
        )
    if isinstance(error, httpx.TimeoutException):
        return Timeout(
            f"{base_url} did not answer in time ({reason}). Raise the client's timeout, or submit the work as a job."
        )
    return ConnectionFailed(f"The connection to {base_url} failed: {reason}.")


def _named(response: httpx.Response) -> str:
    return f"{response.request.method} {response.request.url}"
