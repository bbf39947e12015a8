"""Every page of this area."""

from __future__ import annotations

from fastapi import APIRouter

from app.dashboard.browsing import (
    routes_attributions,
    routes_datasets,
    routes_indexes,
    routes_models,
    routes_self_influence,
)

router = APIRouter(include_in_schema=False)
for part in (routes_attributions, routes_models, routes_datasets, routes_indexes, routes_self_influence):
    router.routes.extend(part.router.routes)
