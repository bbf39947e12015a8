"""Exceptions to problems: the one table, and what a problem says."""

from __future__ import annotations

import errno

import pytest
from sqlalchemy.exc import OperationalError

from app import errors as app_errors
from app.errors import ENGINE_STATUS, AppError, InUse, NotFound, engine_status, problem_of
from engine import errors as engine_errors
from engine.errors import EngineError


def subclasses(kind: type) -> set[type]:
    return {kind, *(deeper for below in kind.__subclasses__() for deeper in subclasses(below))}


ENGINE_ERRORS = sorted(
    (kind for kind in subclasses(EngineError) if kind.__module__ == engine_errors.__name__), key=lambda k: k.__name__
)


@pytest.mark.parametrize("kind", ENGINE_ERRORS, ids=lambda kind: kind.__name__)
def test_every_engine_error_has_a_type_a_cause_and_a_remedy(kind: type[EngineError]) -> None:
    problem = problem_of(kind("it broke"))
    assert problem["type"] == f"urn:whence:problem:{kind.code}"
    assert problem["title"] and problem["remedy"]
    assert problem["detail"] == "it broke"
    assert 400 <= problem["status"] <= 599


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (engine_errors.MalformedRow("x"), 422),
        (engine_errors.MethodNotServed("x"), 409),
        (engine_errors.FingerprintMismatch("x"), 409),
        (engine_errors.NonFiniteGradient("x"), 422),
        (engine_errors.StorageFull("x"), 507),
        (engine_errors.QueueFull("x"), 429),
        (engine_errors.EngineUnavailable("x"), 503),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, EngineError) else str(value),
)
def test_statuses(error: EngineError, status: int) -> None:
    assert engine_status(error) == status


def test_only_the_server_s_own_faults_are_5xx() -> None:
    faults = {kind.__name__ for kind in ENGINE_ERRORS if engine_status(kind("x")) >= 500}
    assert faults == {
        "EngineError",
        "CorruptIndex",
        "CorruptDataset",
        "StorageFull",
        "EngineUnavailable",
        "ShuttingDown",
    }


def test_an_engine_error_unknown_here_has_its_ancestors_status() -> None:
    class NewRowError(engine_errors.DatasetError):
        code, title = "new", "New"

    assert engine_status(NewRowError("x")) == ENGINE_STATUS[engine_errors.InputError]


def test_pointer_and_facts_are_kept() -> None:
    problem = problem_of(engine_errors.MalformedRow("line 3 is no object", pointer="/file", line=3))
    assert problem["errors"] == [{"pointer": "/file", "message": "line 3 is no object"}]
    assert problem["line"] == 3


def test_facts_cannot_hide_the_standard_fields() -> None:
    assert problem_of(InUse("busy", title="mine", status=200))["status"] == 409


def test_a_remedy_can_be_given_on_the_spot() -> None:
    assert problem_of(NotFound("gone", remedy="Look elsewhere."))["remedy"] == "Look elsewhere."


def test_no_two_kinds_of_error_share_a_type() -> None:
    ours = [kind for kind in subclasses(AppError) if kind.__module__ == app_errors.__name__]
    codes = [kind.code for kind in ENGINE_ERRORS + ours if kind.code != "storage-full"]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "storage-full"),
        (OperationalError("INSERT", {}, Exception("database or disk is full")), "storage-full"),
        (OperationalError("SELECT", {}, Exception("server closed the connection")), "unavailable"),
        (ValueError("secret"), "internal-error"),
    ],
    ids=["disk", "database's disk", "database away", "anything else"],
)
def test_foreign_exceptions_have_names_or_say_nothing(error: Exception, code: str) -> None:
    problem = problem_of(error)
    assert problem["type"].endswith(code)
    assert "secret" not in str(problem)
