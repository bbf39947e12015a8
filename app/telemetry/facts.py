"""Figures that are looked up when somebody asks: /metrics and /v1/status. Cheap, and never an error."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from app.database import POOL_OVERFLOW, POOL_SIZE, Database
from app.jobs.contract import ACTIVE, ENDED, QUEUED
from app.schema import current_revision, head_revision
from app.tables.base import utc_now
from app.tables.job import JobRow

if TYPE_CHECKING:
    from app.worker import Worker

JOB_STATES = (*ACTIVE, *ENDED)
# What an answer needs, and what only some models, hardware and operators need.
FEATURES = {
    "engine": ("torch", "transformers", "peft", "faiss", "safetensors", "scipy", "sklearn", "bm25s"),
    "quantised_models": ("bitsandbytes",),
    "cluster": ("ray",),
    "traces": ("opentelemetry.exporter.otlp.proto.http",),
}


@dataclass(frozen=True)
class JobFigures:
    """Over all tenants: this is about the server, not about anyone's jobs. oldest_queued_s: None without one."""

    by_state: dict[str, int]
    oldest_queued_s: float | None


@dataclass(frozen=True)
class PoolFigures:
    in_use: int
    limit: int


@dataclass(frozen=True)
class DiskFigures:
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Facts:
    """Where the figures come from. `engine`: EngineClient.status."""

    database: Database
    worker: Worker
    engine: Callable[[], Mapping[str, Any]]
    home: Path

    def jobs(self) -> JobFigures | None:
        """None while the database is away: that is when the other figures are needed."""
        try:
            with self.database.read() as session:
                counted = session.execute(select(JobRow.state, func.count()).group_by(JobRow.state))
                by_state = dict.fromkeys(JOB_STATES, 0) | {row[0]: row[1] for row in counted}
                oldest = session.scalar(select(func.min(JobRow.created_at)).where(JobRow.state == QUEUED))
        except SQLAlchemyError:
            return None
        waited = None if oldest is None else max(0.0, (utc_now() - oldest).total_seconds())
        return JobFigures(by_state, waited)

    def migrated(self) -> bool | None:
        """True at head; None when the database does not answer."""
        try:
            return current_revision(self.database) == _head()
        except SQLAlchemyError:
            return None

    def pool(self) -> PoolFigures:
        pool = self.database.engine.pool
        assert isinstance(pool, QueuePool)
        return PoolFigures(pool.checkedout(), POOL_SIZE + POOL_OVERFLOW)

    def disk(self) -> DiskFigures | None:
        """None while the home's file system is away."""
        try:
            usage = shutil.disk_usage(self.home)
        except OSError:
            return None
        return DiskFigures(usage.free, usage.total)


@cache
def installed_features() -> dict[str, bool]:
    """By name: True when its libraries are installed. Looks for them and loads none."""
    return {name: all(map(_is_installed, modules)) for name, modules in FEATURES.items()}


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


@cache
def _head() -> str:
    """Reads the migrations, which do not change while the server runs."""
    return head_revision()
