"""What endpoints ask FastAPI for. `Services` is built once by create_app() and lies on app.state."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from app.database import Database
from app.pagination import PageRequest, page_request
from app.principal import Principal
from app.settings import Settings

if TYPE_CHECKING:
    from app.engine_client import EngineClient
    from app.keys.service import KeyRing
    from app.telemetry import Metrics, Traces
    from app.worker import Worker


@dataclass(frozen=True)
class Services:
    """One process's long-lived things."""

    settings: Settings
    database: Database
    engine: EngineClient
    worker: Worker
    metrics: Metrics
    keys: KeyRing
    traces: Traces
    closing: threading.Event = field(default_factory=threading.Event)  # set first of all when the server stops
    started_at: float = field(default_factory=time.monotonic)


def uptime_s(services: Services) -> float:
    return round(time.monotonic() - services.started_at, 3)


def services(request: Request) -> Services:
    return request.app.state.services


def principal_of(request: Request) -> Principal:
    """Who asks: app.auth found out before the request came here."""
    return request.state.principal


def tenant_of(request: Request) -> str:
    """Whose rows this request sees."""
    return principal_of(request).tenant


def read_session(services: Annotated[Services, Depends(services)]) -> Iterator[Session]:
    with services.database.read() as session:
        yield session


def write_session(services: Annotated[Services, Depends(services)]) -> Iterator[Session]:
    with services.database.write() as session:
        yield session


ServicesDep = Annotated[Services, Depends(services)]
Asker = Annotated[Principal, Depends(principal_of)]
Tenant = Annotated[str, Depends(tenant_of)]
Paging = Annotated[PageRequest, Depends(page_request)]
# scope="function": the commit happens before the response is sent, so an answer means it is on disk.
ReadSession = Annotated[Session, Depends(read_session, scope="function")]
WriteSession = Annotated[Session, Depends(write_session, scope="function")]
