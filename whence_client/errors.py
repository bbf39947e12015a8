"""What can go wrong, as one tree.

WhenceError
├── APIError                 the server answered with a problem (`.problem`, `.status`)
│   ├── Unauthorized         401: no key, or one the server does not know
│   ├── Forbidden            403: the key lacks the scope
│   ├── NotFound             404
│   ├── Conflict             409: in use, not ready, or a method the index cannot serve
│   │   └── PreconditionFailed 412: it has changed since `if_match` was seen
│   ├── ValidationFailed     400, 413, 415, 422: the request is at fault; see `.problem.errors`
│   ├── RateLimited          429, after the retries ran out; `.retry_after_s`
│   └── ServerError          5xx
├── ConnectionFailed         no server there, or the connection broke, after the retries ran out
├── Timeout                  no answer, or no finished job, in the time allowed
├── UnexpectedResponse       an answer that is not what Whence sends (a proxy's page, another service)
└── JobFailed                the awaited job failed or was cancelled (`.job`)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whence_client.problem import Problem

if TYPE_CHECKING:
    from whence_client.types import Job


class WhenceError(Exception):
    """Base of every error this client raises."""


class APIError(WhenceError):
    """The server refused; `problem` holds its RFC 9457 fields."""

    def __init__(self, problem: Problem, *, retry_after_s: float | None = None) -> None:
        super().__init__(str(problem))
        self.problem = problem
        self.status = problem.status
        self.retry_after_s = retry_after_s


class Unauthorized(APIError):
    pass


class Forbidden(APIError):
    pass


class NotFound(APIError):
    pass


class Conflict(APIError):
    pass


class PreconditionFailed(Conflict):
    pass


class ValidationFailed(APIError):
    pass


class RateLimited(APIError):
    pass


class ServerError(APIError):
    pass


class ConnectionFailed(WhenceError):
    pass


class Timeout(WhenceError):
    pass


class UnexpectedResponse(WhenceError):
    pass


class JobFailed(WhenceError):
    """`job.error` says why when the job failed; a cancelled job has none."""

    def __init__(self, job: Job) -> None:
        reason = str(job.error) if job.error else f"the job is {job.state}"
        super().__init__(f"{job.kind} {job.id}: {reason}")
        self.job = job


_BY_STATUS: dict[int, type[APIError]] = {
    400: ValidationFailed,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    412: PreconditionFailed,
    413: ValidationFailed,
    415: ValidationFailed,
    422: ValidationFailed,
    429: RateLimited,
}


def error_class(status: int) -> type[APIError]:
    """The class of the tree that a status of 400 or above belongs to."""
    return ServerError if status >= 500 else _BY_STATUS.get(status, APIError)
