"""The typed client of Whence: `Whence` blocks, `AsyncWhence` is awaited."""

from whence_client.aliases import Alias
from whence_client.asynchronous import AsyncWhence
from whence_client.batches import Batch, BatchResult
from whence_client.checks import Check, CheckCost, CheckResult
from whence_client.errors import (
    APIError,
    Conflict,
    ConnectionFailed,
    Forbidden,
    JobFailed,
    NotFound,
    PreconditionFailed,
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
from whence_client.trust import Evaluation, EvaluationCost, EvaluationFigures
from whence_client.types import (
    Attribution,
    AuditEvent,
    Dataset,
    Example,
    Hit,
    Index,
    Job,
    JobProgress,
    Key,
    Method,
    Model,
    NewKey,
    Page,
    PendingAttribution,
)

__all__ = [
    "APIError",
    "Alias",
    "AsyncWhence",
    "Attribution",
    "AuditEvent",
    "Batch",
    "BatchResult",
    "Check",
    "CheckCost",
    "CheckResult",
    "Conflict",
    "ConnectionFailed",
    "Dataset",
    "Evaluation",
    "EvaluationCost",
    "EvaluationFigures",
    "Example",
    "Forbidden",
    "Hit",
    "Index",
    "Job",
    "JobFailed",
    "JobProgress",
    "Key",
    "Method",
    "Model",
    "NewKey",
    "NotFound",
    "Page",
    "PendingAttribution",
    "PreconditionFailed",
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
