"""/v1/evaluations"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whence_client.endpoints.paging import collect
from whence_client.flow import Flow
from whence_client.trust import Evaluation, EvaluationCost, EvaluationFigures
from whence_client.types import Page
from whence_client.wire import ask, discard, get, patch, post


def create(
    *,
    index: str,
    name: str | None = None,
    queries: Sequence[dict[str, Any]] | None = None,
    rows: int | None = None,
    candidates: Sequence[dict[str, Any]] | None = None,
    **settings: Any,
) -> Flow[Evaluation]:
    """Start to measure how far an index can be trusted; the answer's `job_id` is the job to wait for.

    queries: {prompt | messages, completion, contrast?, span?, group?, relevant?}; without any, `rows` of the dataset
    are asked. candidates: {method, options?}. settings: measurement, half_subsets, half_seeds, drop_subsets, ….
    """
    return ask(post("/v1/evaluations", _body(index, queries, rows, candidates, settings | {"name": name})), Evaluation)


def estimate(
    *,
    index: str,
    queries: Sequence[dict[str, Any]] | None = None,
    rows: int | None = None,
    candidates: Sequence[dict[str, Any]] | None = None,
    **settings: Any,
) -> Flow[EvaluationCost]:
    """Retrainings and time it would take; nothing is measured."""
    return ask(post("/v1/evaluations/estimate", _body(index, queries, rows, candidates, settings)), EvaluationCost)


def retrieve(evaluation_id: str) -> Flow[Evaluation]:
    return ask(get(f"/v1/evaluations/{evaluation_id}"), Evaluation)


def figures(evaluation_id: str) -> Flow[EvaluationFigures]:
    """What its charts show. Raises NotFound until it is ready."""
    return ask(get(f"/v1/evaluations/{evaluation_id}/figures"), EvaluationFigures)


def update(
    evaluation_id: str, *, name: str | None = None, metadata: dict[str, Any] | None = None, if_match: str | None = None
) -> Flow[Evaluation]:
    """Rename it, or replace what is noted on it. Raises PreconditionFailed when it has changed since `if_match` was
    its ETag."""
    return ask(patch(f"/v1/evaluations/{evaluation_id}", {"name": name, "metadata": metadata}, if_match), Evaluation)


def list_page(
    *,
    name: str | None = None,
    state: str | None = None,
    model: str | None = None,
    dataset: str | None = None,
    index: str | None = None,
    cursor: str | None = None,
    limit: int | None = None,
) -> Flow[Page[Evaluation]]:
    """One page, newest first, without scorecards."""
    wanted = {"name": name, "state": state, "model": model, "dataset": dataset, "index": index}
    return ask(get("/v1/evaluations", cursor=cursor, limit=limit, **wanted), Page[Evaluation])


def list_all() -> Flow[list[Evaluation]]:
    """Every evaluation, newest first, page after page."""
    return collect(list_page)


def delete(evaluation_id: str) -> Flow[None]:
    """Raises Conflict while it runs, or while an index names it as the evidence for its method."""
    return discard(f"/v1/evaluations/{evaluation_id}")


def _body(
    index: str,
    queries: Sequence[dict[str, Any]] | None,
    rows: int | None,
    candidates: Sequence[dict[str, Any]] | None,
    settings: dict[str, Any],
) -> dict[str, Any]:
    asked = None if queries is None else list(queries)
    chosen_from = None if candidates is None else list(candidates)
    return settings | {"index": index, "queries": asked, "rows": rows, "candidates": chosen_from}
