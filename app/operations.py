"""For those who run the service: /livez /readyz /metrics /v1/status /v1/limits."""

from __future__ import annotations

import shutil
from typing import Any, Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from app import __version__
from app.bodies import problems
from app.database import Database
from app.dependencies import Services, ServicesDep, uptime_s
from app.errors import Unavailable
from app.pagination import MAX_LIMIT
from app.schema import is_at_head
from app.tables import JobRow

router = APIRouter(tags=["operations"])


class Alive(BaseModel):
    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    status: Literal["ready"] = "ready"
    checks: dict[str, str]


class Status(BaseModel):
    """`engine`: device, queue_depth, max_queue, models_loaded, batches. `jobs`: how many in each state."""

    version: str
    uptime_s: float
    database: Literal["sqlite", "postgresql"]
    disk_free_bytes: int
    jobs: dict[str, int]
    engine: dict[str, Any]


class Limits(BaseModel):
    max_body_bytes: int
    max_upload_bytes: int
    max_inline_rows_bytes: int
    max_top_k: int
    max_queue: int
    max_wait_seconds: float
    max_page: int
    idempotency_hours: float


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
    return Status(
        version=__version__,
        uptime_s=uptime_s(services),
        database="sqlite" if services.database.is_sqlite else "postgresql",
        disk_free_bytes=shutil.disk_usage(services.settings.home).free,
        jobs=jobs_by_state(services.database),
        engine=services.engine.status(),
    )


@router.get("/v1/limits", operation_id="get_limits", summary="Every limit in force")
async def limits(services: ServicesDep) -> Limits:
    return Limits.model_validate(services.settings.model_dump() | {"max_page": MAX_LIMIT})


def jobs_by_state(database: Database) -> dict[str, int]:
    """Over all tenants: this is about the server, not about anyone's jobs."""
    with database.read() as session:
        counted = session.execute(select(JobRow.state, func.count()).group_by(JobRow.state))
        return {row[0]: row[1] for row in counted}


def watch(services: Services) -> None:
    """Gauges of /metrics that are read when it is."""
    services.metrics.watch(lambda: _jobs_or_nothing(services.database), services.engine.status)


def _jobs_or_nothing(database: Database) -> dict[str, int]:
    """/metrics answers while the database is away: that is when it is needed."""
    try:
        return jobs_by_state(database)
    except SQLAlchemyError:
        return {}
