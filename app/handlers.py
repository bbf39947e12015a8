"""Job kind → what runs it and what follows it. Each resource's service says both beside its other work."""

from __future__ import annotations

from functools import partial

from app.attributions import service as attributions
from app.datasets import service as datasets
from app.dependencies import Services
from app.indexes import service as indexes
from app.jobs.contract import Handler


def handlers_of(services: Services) -> dict[str, Handler]:
    return {
        "index.build": Handler(partial(indexes.run_build, services), partial(indexes.follow_build, services)),
        "dataset.load": Handler(partial(datasets.run_load, services), partial(datasets.follow_load, services)),
        "attribution": Handler(
            partial(attributions.run_attribution, services), partial(attributions.follow_attribution, services)
        ),
    }
