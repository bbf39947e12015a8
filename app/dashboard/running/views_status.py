"""What a server is doing, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.dashboard.words import count, duration, share, size
from app.operations import Limits
from app.settings import Settings
from app.telemetry.status import EngineStatus, Status

# Limits that no setting changes.
_FIXED = {
    "max_page": "Rows of one page of a list.",
    "max_checkpoints": "Checkpoints of one model.",
    "max_new_tokens": "Tokens that a question may have generated.",
    "max_evaluation_queries": "Questions of one evaluation.",
}


@dataclass(frozen=True)
class Fact:
    """well: False is a state to act on, `remedy` says how."""

    name: str
    value: str
    well: bool = True
    remedy: str = ""


@dataclass(frozen=True)
class Meter:
    """How full something is."""

    name: str
    used: float
    most: float
    text: str


@dataclass(frozen=True)
class StatusView:
    well: bool
    server: list[Fact]
    engine: list[Fact]
    jobs: list[Fact]
    meters: list[Meter]


@dataclass(frozen=True)
class LimitView:
    name: str
    value: str
    meaning: str
    setting: str


def status_view(status: Status) -> StatusView:
    server, jobs = _server(status), _jobs(status)
    return StatusView(
        well=all(fact.well for fact in (*server, *jobs)),
        server=server,
        engine=_engine(status.engine, status.features.engine),
        jobs=jobs,
        meters=_meters(status),
    )


def pace_views(rows_per_second: Mapping[str, float], running: int, rows_left: int) -> list[Fact]:
    """Of the index builds under way in this process."""
    if not running:
        return []
    phases = [Fact(f"Pace, {phase}", f"{rate:,.1f} rows/s") for phase, rate in rows_per_second.items() if rate]
    return [Fact("Index builds under way", count(running)), Fact("Row passes left", count(rows_left)), *phases]


def limit_views(limits: Limits) -> list[LimitView]:
    return [_limit(name, value) for name, value in limits.model_dump().items()]


def _server(status: Status) -> list[Fact]:
    database = status.database
    away = "Look at the database and WHENCE_DATABASE_URL; the service goes on by itself when it answers again."
    migrated = database.migrated is not False
    schema = "at this version" if migrated else "older than this version"
    return [
        Fact("Version", status.version),
        Fact("Up for", duration(status.uptime_s)),
        Fact("Database", f"{database.kind}, {'answers' if database.answers else 'is away'}", database.answers, away),
        Fact("Database schema", schema, migrated, "Run `whence migrate`."),
        Fact("Database connections", f"{database.connections_in_use} of {database.connections_limit} in use"),
        Fact("Installed beside the base", ", ".join(_features(status)) or "nothing"),
    ]


def _features(status: Status) -> list[str]:
    return [name.replace("_", " ") for name, there in status.features.model_dump().items() if there]


def _engine(engine: EngineStatus, installed: bool) -> list[Fact]:
    state = "has started" if engine.started else "starts with the first question or build"
    if not installed:
        state = "is not installed: this server keeps data and answers nothing (pip install whence[engine])"
    mean = f"{engine.busy_s / engine.queries:.2f} s a question" if engine.queries else "no question yet"
    return [
        Fact("Engine", state),
        Fact("Device", engine.device),
        Fact("Models in memory", count(engine.models_loaded)),
        Fact("Indexes held open", count(engine.indexes_open)),
        Fact("Questions answered", f"{engine.queries:,} in {engine.batches:,} batches, {mean}"),
        Fact("Tokens explained", count(engine.tokens)),
        Fact("Builds that wait for the device", count(engine.builds_waiting)),
    ]


def _jobs(status: Status) -> list[Fact]:
    if status.jobs is None:
        return [Fact("Jobs", "unknown while the database is away", False)]
    facts = [Fact(state.capitalize(), count(number)) for state, number in status.jobs.model_dump().items()]
    waits = "nothing waits" if status.oldest_queued_s is None else duration(status.oldest_queued_s)
    threads, busy = status.worker.threads, status.worker.jobs_running
    stuck = threads == 0 and status.jobs.queued > 0
    remedy = "WHENCE_WORKER_THREADS is 0 here: start a server that has some."
    return [
        *facts,
        Fact("Longest wait in the queue", waits),
        Fact("Job threads of this server", f"{busy} of {threads} at work", not stuck, remedy),
    ]


def _meters(status: Status) -> list[Meter]:
    engine, found = status.engine, []
    if engine.max_queue:
        text = f"{engine.queue_depth} of {engine.max_queue} places"
        found.append(Meter("Questions that wait", engine.queue_depth, engine.max_queue, text))
    if status.disk:
        used = status.disk.total_bytes - status.disk.free_bytes
        text = f"{size(status.disk.free_bytes)} of {size(status.disk.total_bytes)} free"
        found.append(Meter("Disk", used, status.disk.total_bytes, text))
    if memory := engine.gpu_memory:
        used = memory.total_bytes - memory.free_bytes
        text = f"{share(used / memory.total_bytes)} used, {size(memory.allocated_bytes)} by tensors"
        found.append(Meter("GPU memory", used, memory.total_bytes, f"{text}; {size(memory.free_bytes)} free"))
    return found


def _limit(name: str, value: float) -> LimitView:
    field = Settings.model_fields.get(name)
    meaning = (_FIXED.get(name) or (field.description if field else None) or "").replace("`", "")
    shown = size(value) if name.endswith("_bytes") else count(value) if float(value).is_integer() else f"{value:g}"
    if name.startswith("rate") and not value:
        shown = "any number"
    return LimitView(name, shown, meaning, "" if name in _FIXED else f"WHENCE_{name.upper()}")
