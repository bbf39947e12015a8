"""Job kind → what runs it and what follows it. Each resource says both beside its other work."""

from __future__ import annotations

from functools import partial

from app.attributions import working
from app.batches import service as batches
from app.checks import service as checks
from app.datasets import service as datasets
from app.dependencies import Services
from app.evaluations import running
from app.indexes import building
from app.jobs.contract import Handler


def handlers_of(services: Services) -> dict[str, Handler]:
    return {
        batches.BATCH: Handler(partial(batches.run_batch, services), partial(batches.follow_batch, services)),
        building.BUILD: Handler(partial(building.run_build, services), partial(building.follow_build, services)),
        checks.CHECK: Handler(partial(checks.run_check, services), partial(checks.follow_check, services)),
        datasets.LOAD: Handler(partial(datasets.run_load, services), partial(datasets.follow_load, services)),
        running.EVALUATE: Handler(
            partial(running.run_evaluation, services), partial(running.follow_evaluation, services)
        ),
        working.ATTRIBUTION: Handler(
            partial(working.run_attribution, services), partial(working.follow_attribution, services)
        ),
    }
