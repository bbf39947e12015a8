"""Every way the service can refuse, and the one table that gives engine errors their HTTP status.

AppError
├── NotFound              404  no such row (or another tenant's)
├── Conflict              409  the state of things forbids it
│   ├── InUse             409  still used; names the user
│   └── NotReady          409  not built or not loaded yet
├── InvalidRequest        422  well-formed JSON that asks for something impossible
│   ├── BadCursor         422
│   └── PathOutsideRoots  422
├── PayloadTooLarge       413
├── FilesDamaged          500  what is stored cannot be read any more
├── InsufficientStorage   507
└── Unavailable           503  the database is away or not migrated
    └── ReadOnlyStorage   503  nothing can be written; what is there can be read
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from engine import errors as engine
from engine.durable import FULL_DISK

PROBLEM_TYPE_PREFIX = "urn:whence:problem:"


@dataclass(frozen=True)
class FieldError:
    """`pointer` is a JSON pointer into the body, or `query:<name>`, `path:<name>`, `header:<name>`."""

    pointer: str
    message: str


class AppError(Exception):
    """Base: `code` names the problem type, `status` is the HTTP status, `remedy` says what to do."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"
    remedy: str = "See the server's log for this request id."

    def __init__(
        self,
        detail: str,
        *,
        remedy: str | None = None,
        pointer: str | None = None,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        **context: object,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy or type(self).remedy
        self.errors = tuple(errors) or ((FieldError(pointer, detail),) if pointer else ())
        self.headers = dict(headers or {})
        self.context = context  # machine-readable facts, shown beside the standard fields


class NotFound(AppError):
    status, code, title = 404, "not-found", "Not found"
    remedy = "Check the id; the list endpoint of the resource shows those that exist."


class Conflict(AppError):
    status, code, title = 409, "conflict", "Conflict"
    remedy = "Look at the resource's state and try again."


class InUse(Conflict):
    code, title = "in-use", "Still in use"
    remedy = "Delete what uses it first, or wait until that has ended."


class NotReady(Conflict):
    code, title = "not-ready", "Not ready"
    remedy = "Wait for its job to succeed; GET /v1/jobs/{id} shows how far it is."


class InvalidRequest(AppError):
    status, code, title = 422, "invalid-request", "Invalid request"
    remedy = "Correct the request and send it again."


class BadCursor(InvalidRequest):
    code, title = "bad-cursor", "Bad cursor"
    remedy = "Use a next_cursor exactly as it was given, or leave cursor out to start at the newest."


class PathOutsideRoots(InvalidRequest):
    code, title = "path-outside-roots", "Path outside the allowed directories"
    remedy = "Move the files below an allowed directory, or add their directory to WHENCE_MODEL_ROOTS."


class PayloadTooLarge(AppError):
    status, code, title = 413, "payload-too-large", "Request body too large"
    remedy = "Send less at once; GET /v1/limits shows the limits."


class FilesDamaged(AppError):
    status, code, title = 500, "files-damaged", "Files damaged"
    remedy = "Run `whence doctor`: it names what is damaged, and says what to do."


class InsufficientStorage(AppError):
    status, code, title = 507, "storage-full", "Disk full"
    remedy = "Free space under WHENCE_HOME and send the request again."


class Unavailable(AppError):
    status, code, title = 503, "unavailable", "Not available"
    remedy = "Try again shortly; GET /readyz says what is missing."


class ReadOnlyStorage(Unavailable):
    code, title = "storage-read-only", "Storage is read-only"
    remedy = "Make the disk of WHENCE_HOME writable again (`mount` and `dmesg` say why it is not); reads go on."


# The one table: a class not listed has its nearest listed ancestor's status.
ENGINE_STATUS: dict[type[engine.EngineError], int] = {
    engine.EngineError: 500,
    engine.InputError: 422,
    engine.DatasetTooLarge: 413,
    engine.MethodNotServed: 409,
    engine.FingerprintMismatch: 409,
    engine.NonFiniteGradient: 422,
    engine.IndexUnavailable: 409,
    engine.CorruptIndex: 500,
    engine.CorruptDataset: 500,
    engine.StorageFull: 507,
    engine.QueueFull: 429,
    engine.EngineUnavailable: 503,
    engine.Cancelled: 409,
    engine.ShuttingDown: 503,
}


def engine_status(error: engine.EngineError) -> int:
    return next(ENGINE_STATUS[kind] for kind in type(error).__mro__ if kind in ENGINE_STATUS)


def problem_of(error: BaseException) -> dict[str, Any]:
    """The problem object of any exception: {type, title, status, detail, remedy, errors, …context}.

    An exception that is neither ours nor the engine's says nothing of its inside: it is logged.
    """
    error = recognised(error)
    if isinstance(error, engine.EngineError):
        errors = (FieldError(error.pointer, error.detail),) if error.pointer else ()
        return problem(error.code, error.title, engine_status(error), error.detail, error.remedy, errors, error.context)
    if isinstance(error, AppError):
        return problem(error.code, error.title, error.status, error.detail, error.remedy, error.errors, error.context)
    detail = "The server met an unexpected error."
    return problem(AppError.code, AppError.title, AppError.status, detail, AppError.remedy)


def recognised(error: BaseException) -> BaseException:
    """Disks that are full or read-only, and a database that is away or damaged, arrive as foreign exceptions; they have
    names here."""
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return engine.StorageFull("There is no space left on the device.")
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return ReadOnlyStorage("The disk that holds WHENCE_HOME is read-only.")
    if isinstance(error, DatabaseError) and (named := _of_sqlite(error)):
        return named
    if isinstance(error, (OperationalError, PoolTimeout)):
        return Unavailable("The database does not answer.")
    return error


def _of_sqlite(error: DatabaseError) -> AppError | None:
    """By SQLite's own name of the error: its messages say less (a full disk may be a "disk I/O error")."""
    name = getattr(error.orig, "sqlite_errorname", "")
    if name in ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE") or "disk is full" in str(error.orig):
        return InsufficientStorage("The database has no space left on its device.")
    if name.startswith("SQLITE_READONLY"):
        return ReadOnlyStorage("The disk that holds the database is read-only.")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return FilesDamaged(f"The database file is damaged: {error.orig}.")
    if name.startswith("SQLITE_IOERR"):
        remedy = "See what is wrong with the disk of WHENCE_HOME (`dmesg`, `df`, `mount`)."
        return Unavailable(f"The database cannot be read or written: {error.orig}.", remedy=remedy)
    return None


def problem(
    code: str,
    title: str,
    status: int,
    detail: str,
    remedy: str | None = None,
    errors: Sequence[FieldError] = (),
    context: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    body: dict[str, Any] = dict(context or {})
    body |= {"type": PROBLEM_TYPE_PREFIX + code, "title": title, "status": status, "detail": detail, "remedy": remedy}
    body["errors"] = [{"pointer": error.pointer, "message": error.message} for error in errors]
    return body
