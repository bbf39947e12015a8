"""/ui/status: what this server is doing, and the limits in force."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from app.dashboard.pages import page
from app.dashboard.running.views_status import limit_views, pace_views, status_view
from app.dependencies import ServicesDep, uptime_s
from app.operations import facts_of, limits_of
from app.telemetry.status import status_of

router = APIRouter(prefix="/ui/status", include_in_schema=False)


@router.get("")
def status(services: ServicesDep) -> Response:
    shown = status_view(status_of(facts_of(services), uptime_s(services)))
    builds = services.metrics.builds
    return page(
        "running/status.html",
        section="status",
        status_of_server=shown,
        pace=pace_views(builds.rows_per_second(), builds.running(), builds.rows_left()),
        limits=limit_views(limits_of(services)),
    )
