"""Every check there is, and what is done with what they find."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import structlog

from app.doctor.contents import check_batches, check_checks, check_datasets, check_evaluations, check_indexes
from app.doctor.database import check_migrations, check_pages, check_secret
from app.doctor.findings import Finding, NotRepaired, Store
from app.doctor.orphans import check_leftovers, check_orphans, check_partial_files, check_unrecorded_files
from app.doctor.stuck import check_stuck_rows
from app.errors import AppError
from engine.errors import EngineError

log = structlog.get_logger("whence.doctor")

CHECKS: tuple[Callable[[Store], Iterator[Finding]], ...] = (
    check_pages,
    check_migrations,
    check_secret,
    check_stuck_rows,
    check_datasets,
    check_indexes,
    check_evaluations,
    check_checks,
    check_batches,
    check_orphans,
    check_leftovers,
    check_partial_files,
    check_unrecorded_files,
)


@dataclass(frozen=True)
class Repaired:
    """done: a finding and what was done about it. left: what is still wrong, and why where that is known."""

    done: list[tuple[Finding, str]]
    left: list[tuple[Finding, str]]


def examine(store: Store) -> list[Finding]:
    """Everything that is wrong, in the order of the checks. Only reads."""
    found: list[Finding] = []
    for check in CHECKS:
        found += check(store)
        if any(finding.stops for finding in found):
            break
    return found


def repair(store: Store) -> Repaired:
    """Repairs what can be repaired, then looks again. Raises nothing that a repair raises for reasons of its own."""
    done: list[tuple[Finding, str]] = []
    reasons: dict[Finding, str] = {}
    for finding in examine(store):
        if finding.repair is None:
            reasons[finding] = "Only a person can help."
            continue
        try:
            done.append((finding, finding.repair(store)))
        except (NotRepaired, AppError, EngineError, OSError) as error:
            reasons[finding] = str(error)
    if not done:
        return Repaired([], list(reasons.items()))
    return Repaired(done, [(finding, reasons.get(finding, "Found after the repair.")) for finding in examine(store)])
