"""Every page of /ui."""

from __future__ import annotations

from fastapi import APIRouter

from app.dashboard import assets, login
from app.dashboard.asking import routes as asking
from app.dashboard.asking import routes_answer as answer
from app.dashboard.asking import routes_compare as compare
from app.dashboard.browsing import routes as browsing
from app.dashboard.checking import routes as checking
from app.dashboard.running import routes_jobs, routes_keys, routes_status
from app.dashboard.trust import routes as trust

router = APIRouter(include_in_schema=False)
_RUNNING = (routes_jobs, routes_keys, routes_status)
for part in (assets, login, asking, checking, answer, compare, *_RUNNING, trust, browsing):
    router.routes.extend(part.router.routes)
