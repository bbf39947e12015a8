"""What /v1/status tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field

from app import __version__
from app.telemetry.facts import Facts, installed_features


class DatabaseStatus(BaseModel):
    """`answers` false: it is away. `migrated` false: `whence migrate` has to be run; null: nobody knows."""

    kind: Literal["sqlite", "postgresql"]
    answers: bool
    migrated: bool | None = None
    connections_in_use: int = Field(description="Connections of this process that are in use.")
    connections_limit: int = Field(description="How many it may open.")


class DiskStatus(BaseModel):
    """The file system of WHENCE_HOME."""

    free_bytes: int
    total_bytes: int


class JobCounts(BaseModel):
    """How many jobs are in each state, over all tenants."""

    queued: int
    running: int
    cancelling: int
    succeeded: int
    failed: int
    cancelled: int


class WorkerStatus(BaseModel):
    """Job threads of this process, and the jobs it runs; one that goes on with a computation has its own thread."""

    threads: int
    jobs_running: int


class GpuMemory(BaseModel):
    """`allocated`: by tensors; `reserved`: by torch, with what it keeps for later; `free`, `total`: of the GPU."""

    allocated_bytes: int
    reserved_bytes: int
    free_bytes: int
    total_bytes: int


class EngineStatus(BaseModel):
    """The engine starts with its first use; until then it has nothing loaded. Counts are since its start."""

    started: bool = False
    device: str
    queue_depth: int = Field(default=0, description="Questions that wait.")
    max_queue: int = Field(default=0, description="How many may wait.")
    builds_waiting: int = 0
    models_loaded: int = 0
    model_bytes: int = Field(default=0, description="What the loaded models take.")
    indexes_open: int = 0
    batches: int = Field(default=0, description="Batches of questions computed.")
    queries: int = Field(default=0, description="Questions in those batches.")
    tokens: int = Field(default=0, description="Tokens of the questions answered.")
    busy_s: float = Field(default=0.0, description="Seconds spent on questions.")
    gpu_memory: GpuMemory | None = Field(default=None, description="Null without a GPU.")


class Features(BaseModel):
    """Which optional libraries are installed in this server."""

    engine: bool = Field(description="Building indexes and answering questions.")
    quantised_models: bool = Field(description="Models with 8-bit and 4-bit bases.")
    cluster: bool
    traces: bool = Field(description="Sending traces by OTLP.")


class Status(BaseModel):
    """`jobs` and `oldest_queued_s` are null while the database is away; `oldest_queued_s` too when no job waits."""

    version: str
    uptime_s: float
    database: DatabaseStatus
    disk: DiskStatus | None = None
    jobs: JobCounts | None = None
    oldest_queued_s: float | None = None
    worker: WorkerStatus
    engine: EngineStatus
    features: Features


def status_of(facts: Facts, uptime_s: float) -> Status:
    """Reads counts and asks the database twice; never starts the engine."""
    jobs, disk, pool = facts.jobs(), facts.disk(), facts.pool()
    return Status(
        version=__version__,
        uptime_s=uptime_s,
        database=DatabaseStatus(
            kind="sqlite" if facts.database.is_sqlite else "postgresql",
            answers=jobs is not None,
            migrated=facts.migrated(),
            connections_in_use=pool.in_use,
            connections_limit=pool.limit,
        ),
        disk=DiskStatus(free_bytes=disk.free_bytes, total_bytes=disk.total_bytes) if disk else None,
        jobs=JobCounts(**jobs.by_state) if jobs else None,
        oldest_queued_s=jobs.oldest_queued_s if jobs else None,
        worker=WorkerStatus(threads=facts.worker.settings.worker_threads, jobs_running=facts.worker.busy()),
        engine=_engine(facts.engine()),
        features=Features(**installed_features()),
    )


def _engine(status: Mapping[str, Any]) -> EngineStatus:
    """Only what is declared: an engine may report more, by tenant for one."""
    return EngineStatus.model_validate({name: status[name] for name in EngineStatus.model_fields if name in status})
