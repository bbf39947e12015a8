"""Every setting, its default and its meaning, in one place. Each is read from `WHENCE_<NAME>`."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class Settings(BaseSettings):
    """Read from the environment (prefix `WHENCE_`); arguments win over it."""

    model_config = SettingsConfigDict(env_prefix="WHENCE_", extra="ignore", frozen=True)

    home: Path = Field(
        default_factory=lambda: Path("~/.local/share/whence"),
        description="Directory of the database, the datasets, the models, the indexes, the evaluations and the checks.",
    )
    database_url: str = Field(
        default="", description="SQLAlchemy URL (sqlite or postgresql). Empty: SQLite in `home`/whence.sqlite3."
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    secret: SecretStr | None = Field(
        default=None,
        min_length=32,
        description="What digests of API keys are made with, 32 characters or more. Unset: a file in `home`. "
        "Servers of one database need the same.",
    )
    without_keys: bool = Field(
        default=False, description="Serve without API keys even where other machines can reach the address."
    )
    session_hours: float = Field(default=12.0, gt=0, description="How long a login at the page lasts.")
    port: int = Field(default=8400, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")

    model_roots: Annotated[tuple[Path, ...] | None, NoDecode] = Field(
        default=None,
        description="Directories below which model paths and dataset URIs must lie, separated by ':'. "
        "Unset: `home`/models, and the working directory under `whence serve` on loopback.",
    )
    device: str = Field(default="auto", description="Torch device of the lane: auto, cpu, cuda, cuda:0, …")
    torch_threads: int | None = Field(
        default=None, ge=1, description="Torch threads. Unset: 1 on CPU (steady figures), torch's own choice elsewhere."
    )
    model_bytes: int | None = Field(
        default=None,
        ge=1,
        description="Memory for loaded models; the one used longest ago goes first. Unset: half of the device's.",
    )

    # Limits. What is beyond one is refused, with the status named here; GET /v1/limits shows those in force.
    max_queue: int = Field(default=64, ge=1, description="Queries waiting for the lane (429).")
    max_queue_per_tenant: int | None = Field(
        default=None, ge=1, description="Those of one tenant (429). Unset: as many as `max_queue`."
    )
    rate_per_minute: int = Field(
        default=6000,
        ge=0,
        description="Requests a minute that one API key, or without keys one address, may send steadily (429); "
        "0: any number.",
    )
    rate_burst: int = Field(default=1000, ge=1, description="Requests that it may send at once (429).")
    max_jobs_per_tenant: int = Field(
        default=100, ge=1, description="Jobs of one tenant that are queued or running (429)."
    )
    max_body_bytes: int = Field(default=8 << 20, ge=1024, description="Largest JSON body (413).")
    max_upload_bytes: int = Field(default=2 << 30, ge=1024, description="Largest multipart upload (413).")
    max_body_idle_seconds: float = Field(
        default=30.0, gt=0, description="Longest pause between two pieces of a body (408)."
    )
    max_inline_rows_bytes: int = Field(
        default=16 << 20, ge=0, description="Datasets up to this size are loaded in the request (201); larger: a job."
    )
    max_dataset_rows: int = Field(default=2_000_000, ge=1, description="Rows of one dataset (413).")
    max_dataset_bytes: int = Field(
        default=8 << 30, ge=1024, description="What the rows of one dataset take on disk, uncompressed (413)."
    )
    max_row_bytes: int = Field(default=4 << 20, ge=1024, description="Largest row of a dataset (422).")
    max_query_chars: int = Field(
        default=500_000, ge=1, description="Characters of all texts of one query; of each one in a set (422)."
    )
    max_queries: int = Field(default=64, ge=1, le=64, description="Queries of one set (422).")
    max_batch_lines: int = Field(default=100_000, ge=1, description="Questions in the file of one batch (413).")
    max_top_k: int = Field(default=1000, ge=1, description="Largest `top_k` of an attribution (422).")
    min_free_bytes: int = Field(
        default=256 << 20, ge=0, description="Disk space that uploads and new jobs leave free (507)."
    )
    max_wait_seconds: float = Field(default=300.0, gt=0, description="Longest a request waits for the lane.")
    idempotency_hours: float = Field(default=24.0, gt=0, description="How long an Idempotency-Key is remembered.")

    batch_window: int = Field(
        default=16,
        ge=1,
        description="Questions of one batch that are in the engine at once; half of its tenant's places at most.",
    )
    keep_days: float | None = Field(
        default=None,
        ge=0,
        description="Answers, checks, ended jobs and batches older than this are deleted. Unset or 0: kept for ever.",
    )
    worker_threads: int = Field(
        default=2,
        ge=0,
        description="Job threads of this process; one of them takes no builds, evaluations and checks. 0: none.",
    )
    poll_seconds: float = Field(default=1.0, gt=0, description="How often an idle worker looks for a job.")
    lease_seconds: float = Field(default=60.0, gt=0, description="After this long a silent worker's job is taken over.")
    beat_seconds: float = Field(default=10.0, gt=0, description="How often a worker renews its leases.")
    max_attempts_without_progress: int = Field(default=3, ge=1, description="Then an interrupted job fails.")

    sse_poll_seconds: float = Field(default=0.25, gt=0, description="How often an event stream looks for news.")
    sse_comment_seconds: float = Field(default=15.0, gt=0, description="A comment keeps idle event streams open.")

    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")
    log_format: Literal["json", "console"] = Field(default="console", description="One JSON object a line, or text.")
    slow_request_seconds: float = Field(default=10.0, gt=0, description="A request that takes longer is a warning.")

    @field_validator("home", mode="after")
    @classmethod
    def _absolute_home(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("model_roots", mode="before")
    @classmethod
    def _split_roots(cls, value: object) -> object:
        return tuple(part for part in value.split(os.pathsep) if part) or None if isinstance(value, str) else value

    @field_validator("model_roots", mode="after")
    @classmethod
    def _absolute_roots(cls, value: tuple[Path, ...] | None) -> tuple[Path, ...] | None:
        return None if value is None else tuple(root.expanduser().resolve() for root in value)

    @field_validator("database_url", mode="after")
    @classmethod
    def _name_the_driver(cls, value: str) -> str:
        for plain in ("postgresql://", "postgres://"):
            if value.startswith(plain):
                return "postgresql+psycopg://" + value.removeprefix(plain)
        return value

    @model_validator(mode="after")
    def _beats_fit_in_a_lease(self) -> Settings:
        if self.beat_seconds * 2 > self.lease_seconds:
            raise ValueError("WHENCE_LEASE_SECONDS must be at least twice WHENCE_BEAT_SECONDS")
        return self

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database_url or f"sqlite:///{self.home / 'whence.sqlite3'}"

    @property
    def is_sqlite(self) -> bool:
        return self.database.startswith("sqlite")

    @property
    def is_loopback(self) -> bool:
        """True when `host` can only be reached from this machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def roots(self) -> tuple[Path, ...]:
        """The directories below which local paths must lie."""
        return self.model_roots if self.model_roots is not None else (self.models_dir,)

    @property
    def models_dir(self) -> Path:
        return self.home / "models"

    @property
    def datasets_dir(self) -> Path:
        return self.home / "datasets"

    @property
    def indexes_dir(self) -> Path:
        return self.home / "indexes"

    @property
    def evaluations_dir(self) -> Path:
        return self.home / "evaluations"

    @property
    def checks_dir(self) -> Path:
        return self.home / "checks"

    @property
    def batches_dir(self) -> Path:
        return self.home / "batches"

    @property
    def uploads_dir(self) -> Path:
        """Uploads that a job has yet to read."""
        return self.home / "uploads"

    def for_serving(self) -> Settings:
        """The settings of `whence serve`: on loopback the working directory is a root too, unless roots are set."""
        if self.model_roots is not None or not self.is_loopback:
            return self
        return self.model_copy(update={"model_roots": (self.models_dir, Path.cwd())})
