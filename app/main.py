"""create_app(): lifespan, middleware, routers, nothing else."""

from __future__ import annotations

from app import collection  # before all that is imported below

# isort: split
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from anyio.to_thread import run_sync
from fastapi import FastAPI

from app import __version__, operations, telemetry
from app.aliases.endpoints import router as aliases
from app.attributions.endpoints import router as attributions
from app.audit_log.endpoints import router as audit_log
from app.audit_log.recording import AuditRecording
from app.auth import Authentication
from app.batches.endpoints import router as batches
from app.checks.endpoints import router as checks
from app.dashboard.routes import router as dashboard
from app.database import Database
from app.datasets.endpoints import router as datasets
from app.dependencies import Services
from app.doctor.starting import sweep
from app.engine_client import EngineClient, LocalEngine
from app.evaluations.endpoints import router as evaluations
from app.handlers import handlers_of
from app.homelock import HomeLock, create_home
from app.indexes.endpoints import router as indexes
from app.jobs.endpoints import router as jobs
from app.jobs.limits import limit_jobs
from app.keys.endpoints import router as keys
from app.keys.openapi import describe_security
from app.keys.service import KeyRing
from app.limits import RateLimit
from app.methods.endpoints import router as methods
from app.middleware import BodyLimit, PlainRequest, RequestContext
from app.models.endpoints import router as models
from app.problems import install_problem_handlers
from app.retention import Retention
from app.schema import upgrade
from app.settings import Settings
from app.worker import Worker

DESCRIPTION = "Which training examples caused this output of a fine-tuned language model?"
# Joined, not included: every route is complete (prefix, tags, its own class), and FastAPI works an included one out
# once more at the first request.
# batches before attributions: /v1/attributions/batches is no attribution's id
_ROUTERS = (
    *(models, datasets, indexes, aliases, evaluations, batches, attributions, checks, methods, jobs, keys, audit_log),
    *(operations.router, dashboard),
)
collection.resume()


def create_app(settings: Settings | None = None, engine: EngineClient | None = None) -> FastAPI:
    """The service. Nothing is opened, locked or started before its lifespan begins."""
    settings = settings or Settings()
    services = _services(settings, engine)
    app = FastAPI(title="Whence", version=__version__, description=DESCRIPTION, lifespan=_lifespan(services))
    app.state.services = services
    # The last one added is the first to see a request.
    app.add_middleware(AuditRecording, database=services.database)
    app.add_middleware(BodyLimit, settings=settings)
    app.add_middleware(RateLimit, settings=settings)
    app.add_middleware(Authentication, settings=settings, keys=services.keys)
    app.add_middleware(PlainRequest)
    app.add_middleware(RequestContext, metrics=services.metrics, slow_seconds=settings.slow_request_seconds)
    install_problem_handlers(app)
    for router in _ROUTERS:
        app.router.routes.extend(router.routes)
    describe_security(app)
    telemetry.instrument(app, services.traces)
    return app


def _services(settings: Settings, engine: EngineClient | None) -> Services:
    database = Database(settings.database)
    limit_jobs(database, settings)
    local = engine or LocalEngine(
        device=settings.device,
        threads=settings.torch_threads,
        max_queue=settings.max_queue,
        max_queue_per_group=settings.max_queue_per_tenant,
        model_bytes=settings.model_bytes,
    )
    metrics, traces = telemetry.Metrics(), telemetry.Traces()
    worker = Worker(settings, database, metrics, traces)
    services = Services(settings, database, local, worker, metrics, KeyRing(settings, database), traces)
    operations.watch(services)
    return services


def _lifespan(services: Services) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        lock = HomeLock(services.settings.home)
        retention = Retention(services.settings, services.database)
        await run_sync(_open, services, lock)
        retention.start()
        try:
            yield
        finally:
            await run_sync(_close, services, lock, retention)

    return lifespan


def _open(services: Services, lock: HomeLock) -> None:
    """SQLite: this process is alone on its home, so it migrates, removes what interrupted work left, and takes over
    at once what a dead process left running. PostgreSQL: others may be at work; `whence migrate` is run by hand."""
    telemetry.configure_logging(services.settings)
    create_home(services.settings.home)
    if services.database.is_sqlite:
        lock.acquire()
        upgrade(services.database)
        sweep(services.settings, services.database)
        services.worker.take_over()
    services.worker.start(handlers_of(services))


def _close(services: Services, lock: HomeLock, retention: Retention) -> None:
    services.closing.set()
    services.worker.stop()
    retention.stop()
    services.engine.close()
    services.traces.close()
    services.database.close()
    lock.release()
