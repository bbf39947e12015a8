"""The typed client of Whence: `Whence` blocks, `AsyncWhence` is awaited."""

from whence_client.asynchronous import AsyncWhence
from whence_client.errors import (
    APIError,
    Conflict,
    ConnectionFailed,
    Forbidden,
    JobFailed,
    NotFound,
    RateLimited,
    ServerError,
    Timeout,
    Unauthorized,
    UnexpectedResponse,
    ValidationFailed,
    WhenceError,
)
from whence_client.problem import Problem
from whence_client.retry import RetryPolicy
from whence_client.sync import Whence
from whence_client.trust import Evaluation, EvaluationCost
from whence_client.types import (
    Attribution,
    Dataset,
    Example,
    Hit,
    Index,
    Job,
    JobProgress,
    Method,
    Model,
    Page,
    PendingAttribution,
)

__all__ = [
    "APIError",
    "AsyncWhence",
    "Attribution",
    "Conflict",
    "ConnectionFailed",
    "Dataset",
    "Evaluation",
    "EvaluationCost",
    "Example",
    "Forbidden",
    "Hit",
    "Index",
    "Job",
    "JobFailed",
    "JobProgress",
    "Method",
    "Model",
    "NotFound",
    "Page",
    "PendingAttribution",
    "Problem",
    "RateLimited",
    "RetryPolicy",
    "ServerError",
    "Timeout",
    "Unauthorized",
    "UnexpectedResponse",
    "ValidationFailed",
    "Whence",
    "WhenceError",
]
