"""/ui/jobs: what is queued, runs and has ended; progress as it comes, cancel, resume.

What changes something is named as the API's operation is: the audit log tells it by that name.
"""

from __future__ import annotations

from urllib.parse import urlencode

from fastapi import APIRouter
from starlette.responses import RedirectResponse, Response

from app.dashboard.pages import HEADERS, page
from app.dashboard.running.page_jobs import load_job, load_jobs
from app.dashboard.running.views_jobs import KINDS, STATES
from app.dependencies import ServicesDep, Tenant, WriteSession
from app.jobs.service import JobsService

router = APIRouter(prefix="/ui/jobs", include_in_schema=False)


@router.get("")
def jobs(services: ServicesDep, tenant: Tenant, kind: str = "", state: str = "", cursor: str | None = None) -> Response:
    loaded = load_jobs(services, tenant, kind=kind or None, state=state or None, cursor=cursor)
    chosen = {"kind": kind, "state": state}
    offered = {"kinds": KINDS, "states": STATES, "chosen": chosen, "here": f"/ui/jobs?{urlencode(chosen)}"}
    return page("running/jobs.html", section="jobs", loaded=loaded, cursor=cursor, **offered)


@router.get("/{job_id}")
def job(job_id: str, services: ServicesDep, tenant: Tenant) -> Response:
    loaded = load_job(services, tenant, job_id)
    return page("running/job.html", section="jobs", job=loaded.job, events=loaded.events, earlier=loaded.earlier)


@router.post("/{job_id}/cancel", name="cancel_job")
def cancel(job_id: str, services: ServicesDep, session: WriteSession, tenant: Tenant) -> Response:
    JobsService(session, tenant).cancel(job_id, services.worker.follow)
    return _back(job_id)


@router.post("/{job_id}/resume", name="resume_job")
def resume(job_id: str, services: ServicesDep, session: WriteSession, tenant: Tenant) -> Response:
    JobsService(session, tenant).resume(job_id, services.worker.follow)
    return _back(job_id)


def _back(job_id: str) -> Response:
    return RedirectResponse(f"/ui/jobs/{job_id}", status_code=303, headers=HEADERS)
