"""What a server tells of itself."""

from __future__ import annotations

from whence_client.resource import Resource


class DatabaseStatus(Resource):
    """`migrated` is None when nobody knows."""

    kind: str = ""
    answers: bool = True
    migrated: bool | None = None
    connections_in_use: int | None = None
    connections_limit: int | None = None


class DiskStatus(Resource):
    free_bytes: int
    total_bytes: int


class WorkerStatus(Resource):
    threads: int = 0
    jobs_running: int = 0


class GpuMemory(Resource):
    allocated_bytes: int
    reserved_bytes: int
    free_bytes: int
    total_bytes: int


class EngineStatus(Resource):
    """Counts are since the engine started, which it does with its first use."""

    started: bool = False
    device: str = ""
    queue_depth: int = 0
    max_queue: int = 0
    builds_waiting: int = 0
    models_loaded: int = 0
    model_bytes: int = 0
    indexes_open: int = 0
    batches: int = 0
    queries: int = 0
    tokens: int = 0
    busy_s: float = 0.0
    gpu_memory: GpuMemory | None = None


class Status(Resource):
    """What `/v1/status` tells; every field beyond these is kept as it came. `jobs`: how many in each state, None while
    the database is away. `features`: which optional libraries the server has."""

    version: str | None = None
    uptime_s: float | None = None
    database: DatabaseStatus | None = None
    disk: DiskStatus | None = None
    jobs: dict[str, int] | None = None
    oldest_queued_s: float | None = None
    worker: WorkerStatus | None = None
    engine: EngineStatus | None = None
    features: dict[str, bool] | None = None
