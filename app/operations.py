"""For those who run the service: /livez /readyz /metrics /v1/status /v1/limits."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError

from app.attributions.schemas import MAX_NEW_TOKENS
from app.bodies import problems
from app.dependencies import Services, ServicesDep, uptime_s
from app.errors import Unavailable
from app.evaluations.schemas import MAX_QUESTIONS
from app.models.schemas import MAX_CHECKPOINTS
from app.pagination import MAX_LIMIT
from app.schema import is_at_head
from app.telemetry.facts import Facts
from app.telemetry.status import Status, status_of
from app.telemetry.watched import Watched

router = APIRouter(tags=["operations"])


class Alive(BaseModel):
    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    status: Literal["ready"] = "ready"
    checks: dict[str, str]


class Limits(BaseModel):
    """What each one means, and the status of what is beyond it: app/settings.py. `rate_per_minute` 0: any number."""

    rate_per_minute: int
    rate_burst: int
    max_queue: int
    max_queue_per_tenant: int
    max_jobs_per_tenant: int
    max_body_bytes: int
    max_body_idle_seconds: float
    max_upload_bytes: int
    max_inline_rows_bytes: int
    max_dataset_rows: int
    max_dataset_bytes: int
    max_row_bytes: int
    min_free_bytes: int
    max_query_chars: int
    max_queries: int
    max_new_tokens: int
    max_batch_lines: int
    max_top_k: int
    max_checkpoints: int
    max_evaluation_queries: int
    max_wait_seconds: float
    max_page: int
    idempotency_hours: float


_FIXED_LIMITS = {
    "max_page": MAX_LIMIT,
    "max_checkpoints": MAX_CHECKPOINTS,
    "max_new_tokens": MAX_NEW_TOKENS,
    "max_evaluation_queries": MAX_QUESTIONS,
}


@router.get("/livez", operation_id="livez", summary="The process answers")
async def livez() -> Alive:
    return Alive()


@router.get("/readyz", operation_id="readyz", summary="Database there, migrations at head", responses=problems(503))
def readyz(services: ServicesDep) -> Ready:
    try:
        at_head = is_at_head(services.database)
    except SQLAlchemyError as error:
        raise Unavailable("The database does not answer.", checks={"database": "unreachable"}) from error
    if not at_head:
        raise Unavailable(
            "The database is not migrated to this version.",
            remedy="Run `whence migrate` with this server's WHENCE_DATABASE_URL.",
            checks={"database": "ok", "migrations": "not at head"},
        )
    return Ready(checks={"database": "ok", "migrations": "at head"})


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(services: ServicesDep) -> Response:
    return Response(generate_latest(services.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/status", operation_id="get_status", summary="What this server is doing", responses=problems(503))
def status(services: ServicesDep) -> Status:
    return status_of(facts_of(services), uptime_s(services))


@router.get("/v1/limits", operation_id="get_limits", summary="Every limit in force")
async def limits(services: ServicesDep) -> Limits:
    return limits_of(services)


def limits_of(services: Services) -> Limits:
    settings = services.settings
    per_tenant = {"max_queue_per_tenant": settings.max_queue_per_tenant or settings.max_queue}
    return Limits.model_validate(settings.model_dump() | per_tenant | _FIXED_LIMITS)


def facts_of(services: Services) -> Facts:
    return Facts(services.database, services.worker, services.engine.status, services.settings.home)


def watch(services: Services) -> None:
    """Figures of /metrics that are looked up when it is read."""
    services.metrics.registry.register(Watched(facts_of(services), services.metrics.builds))
