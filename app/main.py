"""create_app(): lifespan, middleware, routers, nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from anyio.to_thread import run_sync
from fastapi import FastAPI

from app import __version__, operations, telemetry
from app.attributions.endpoints import router as attributions
from app.dashboard.routes import router as dashboard
from app.database import Database
from app.datasets.endpoints import router as datasets
from app.dependencies import Services
from app.engine_client import EngineClient, LocalEngine
from app.evaluations.endpoints import router as evaluations
from app.handlers import handlers_of
from app.homelock import HomeLock, create_home
from app.indexes.endpoints import router as indexes
from app.jobs.endpoints import router as jobs
from app.methods.endpoints import router as methods
from app.middleware import BodyLimit, PlainUrl, RequestContext
from app.models.endpoints import router as models
from app.problems import install_problem_handlers
from app.schema import upgrade
from app.settings import Settings
from app.worker import Worker

DESCRIPTION = "Which training examples caused this output of a fine-tuned language model?"


def create_app(settings: Settings | None = None, engine: EngineClient | None = None) -> FastAPI:
    """The service. Nothing is opened, locked or started before its lifespan begins."""
    settings = settings or Settings()
    services = _services(settings, engine)
    app = FastAPI(title="Whence", version=__version__, description=DESCRIPTION, lifespan=_lifespan(services))
    app.state.services = services
    app.add_middleware(BodyLimit, settings=settings)
    app.add_middleware(PlainUrl)
    app.add_middleware(RequestContext, metrics=services.metrics)
    install_problem_handlers(app)
    for router in (models, datasets, indexes, evaluations, attributions, methods, jobs, operations.router, dashboard):
        app.include_router(router)
    telemetry.instrument(app)
    return app


def _services(settings: Settings, engine: EngineClient | None) -> Services:
    database = Database(settings.database)
    local = engine or LocalEngine(device=settings.device, threads=settings.torch_threads, max_queue=settings.max_queue)
    services = Services(settings, database, local, Worker(settings, database), telemetry.Metrics())
    operations.watch(services)
    return services


def _lifespan(services: Services) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        lock = HomeLock(services.settings.home)
        await run_sync(_open, services, lock)
        try:
            yield
        finally:
            await run_sync(_close, services, lock)

    return lifespan


def _open(services: Services, lock: HomeLock) -> None:
    """SQLite: this process is alone on its home, so it migrates, and takes over at once what a dead
    process left running. PostgreSQL: others may be at work; `whence migrate` is run by hand."""
    telemetry.configure_logging(services.settings)
    create_home(services.settings.home)
    if services.database.is_sqlite:
        lock.acquire()
        upgrade(services.database)
        services.worker.take_over()
    services.worker.start(handlers_of(services))


def _close(services: Services, lock: HomeLock) -> None:
    services.closing.set()
    services.worker.stop()
    services.engine.close()
    services.database.close()
    lock.release()
