"""/v1/attributions/{id}/verify and /v1/checks"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict, Unpack

from whence_client.checks import Check, CheckCost
from whence_client.endpoints.paging import collect
from whence_client.flow import Flow
from whence_client.types import Page
from whence_client.wire import ask, discard, get, patch, post


class CheckSettings(TypedDict, total=False):
    """What may be left out. rows: how many of the answer's first; seeds: trainings of each set; draws: random sets or
    rows to compare with; learning_rate: of tail_patch's step; ids, how: of unlearn; seed: of every draw."""

    rows: int | None
    seeds: int | None
    draws: int | None
    learning_rate: float | None
    ids: Sequence[str] | None
    how: str | None
    seed: int | None


def verify(
    attribution_id: str,
    *,
    kind: str,
    name: str | None = None,
    metadata: dict[str, Any] | None = None,
    **settings: Unpack[CheckSettings],
) -> Flow[Check]:
    """Check an answer by an experiment; its `job_id` is the job to wait for.

    kind: tail_patch, leave_out, replay, flip or unlearn.
    """
    body = {"kind": kind, "name": name, "metadata": metadata, **settings}
    return ask(post(f"/v1/attributions/{attribution_id}/verify", body), Check)


def estimate(attribution_id: str, *, kind: str, **settings: Unpack[CheckSettings]) -> Flow[CheckCost]:
    """Retrainings, time and memory it would take; nothing is measured."""
    return ask(post(f"/v1/attributions/{attribution_id}/verify/estimate", {"kind": kind, **settings}), CheckCost)


def of_answer(attribution_id: str, *, cursor: str | None = None, limit: int | None = None) -> Flow[Page[Check]]:
    """One page of an answer's checks, newest first, without results."""
    return ask(get(f"/v1/attributions/{attribution_id}/checks", cursor=cursor, limit=limit), Page[Check])


def retrieve(check_id: str) -> Flow[Check]:
    return ask(get(f"/v1/checks/{check_id}"), Check)


def update(
    check_id: str, *, name: str | None = None, metadata: dict[str, Any] | None = None, if_match: str | None = None
) -> Flow[Check]:
    """Rename it, or replace what is noted on it. Raises PreconditionFailed when it has changed since `if_match` was
    its ETag."""
    return ask(patch(f"/v1/checks/{check_id}", {"name": name, "metadata": metadata}, if_match), Check)


def list_page(
    *,
    name: str | None = None,
    state: str | None = None,
    kind: str | None = None,
    attribution: str | None = None,
    model: str | None = None,
    index: str | None = None,
    cursor: str | None = None,
    limit: int | None = None,
) -> Flow[Page[Check]]:
    """One page, newest first, without results."""
    wanted = {"name": name, "state": state, "kind": kind, "attribution": attribution, "model": model, "index": index}
    return ask(get("/v1/checks", cursor=cursor, limit=limit, **wanted), Page[Check])


def list_all() -> Flow[list[Check]]:
    """Every check, newest first, page after page."""
    return collect(list_page)


def delete(check_id: str) -> Flow[None]:
    """Raises Conflict while it runs, or while the model that it made is registered."""
    return discard(f"/v1/checks/{check_id}")
