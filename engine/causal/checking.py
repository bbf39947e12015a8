"""run_check(): from an answer to what the training really did to it. One kind a file.

    tail_patch.py       one more optimizer step on each row (tuned_stack.py: the tuned adapter with its moments)
    leave_out_check.py  retrainings without the first rows (check_trainings.py, check_intervals.py)
    replay_check.py     the derivative through the recorded run (replay.py)
    flip.py             the smallest set whose removal changes the greedy answer (greedy.py)
    unlearn.py          an adapter without the chosen rows' effect (influence_step.py)

It runs in the caller's thread, with a model of its own: the served one answers meanwhile and is never touched. What is
finished lies below the work directory; a check that was stopped goes on there and ends with the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from engine.causal.check_requirements import check_request
from engine.causal.checks import CheckConfig, CheckCost, CheckKind, CheckResult, RankedRow
from engine.config import ModelConfig
from engine.dataset import Dataset
from engine.errors import InvalidQuery
from engine.loaded import LoadedModel
from engine.model import load_model
from engine.question import generate_only, prepare
from engine.types import CheckpointFn, Query, Span


@dataclass(frozen=True)
class _Kind:
    """Where a kind is done: imported when it is asked for. run and estimate have the arguments of `run_check` and
    `estimate_check`."""

    module: str
    run: str
    estimate: str

    def function(self, name: str) -> Callable[..., object]:
        return getattr(import_module(f"engine.causal.{self.module}"), name)


_KINDS: dict[CheckKind, _Kind] = {
    "tail_patch": _Kind("tail_patch", "run_tail_patch", "estimate_tail_patch"),
    "leave_out": _Kind("leave_out_check", "run_leave_out", "estimate_leave_out"),
    "replay": _Kind("replay_check", "run_replay", "estimate_replay_check"),
    "flip": _Kind("flip", "run_flip", "estimate_flip"),
    "unlearn": _Kind("unlearn", "run_unlearn", "estimate_unlearn"),
}


def run_check(
    model: ModelConfig,
    dataset: Dataset,
    index_dir: Path,
    query: Query,
    ranked: Sequence[RankedRow],
    config: CheckConfig,
    work_dir: Path,
    checkpoint: CheckpointFn,
    *,
    device: str = "cpu",
) -> CheckResult:
    """ranked: the answer's proponents, best first. `checkpoint` may raise Cancelled: what is finished by then is kept.

    Raises InvalidOption (a setting), InvalidQuery, MissingNeed (no recipe, no recorded moments), UnsupportedModel,
    NonFiniteGradient (a training diverged), EngineUnavailable (a training process died), StorageFull.
    """
    check_request(model, len(dataset), ranked, config, dataset.position_of)
    work_dir.mkdir(parents=True, exist_ok=True)
    kind, query = _KINDS[config.kind], spelled_out(model, query, device)
    run = kind.function(kind.run)
    result = run(model, dataset, index_dir, query, ranked, config, work_dir, checkpoint, device=device)
    assert isinstance(result, CheckResult)
    return result


def estimate_check(
    model: ModelConfig,
    dataset: Dataset,
    index_dir: Path,
    query: Query,
    ranked: Sequence[RankedRow],
    config: CheckConfig,
    work_dir: Path,
    *,
    device: str = "cpu",
) -> CheckCost:
    """What `run_check` with the same arguments would still cost; of flip, at most. Raises what it raises."""
    check_request(model, len(dataset), ranked, config, dataset.position_of)
    work_dir.mkdir(parents=True, exist_ok=True)
    kind, query = _KINDS[config.kind], spelled_out(model, query, device)
    estimate = kind.function(kind.estimate)
    cost = estimate(model, dataset, index_dir, query, ranked, config, work_dir, device=device)
    assert isinstance(cost, CheckCost)
    return cost


def spelled_out(model: ModelConfig, query: Query, device: str = "cpu") -> Query:
    """The query with the completion that its `generate` gives; as it is where it asks for none. Raises InvalidQuery."""
    asked = [query, *query.members]
    if all(one.generate is None for one in asked):
        return query
    loaded = load_model(model, device)
    spelled = _spelled(loaded, replace(query, members=tuple(_spelled(loaded, one) for one in query.members)))
    prepare(loaded, None, spelled)
    return spelled


def _spelled(model: LoadedModel, query: Query) -> Query:
    """An answer that was cut off has no end to be explained: its span is the text alone."""
    if query.generate is None or query.completion is not None:
        return replace(query, generate=None)
    said = generate_only(model, query)
    if not said.ended and query.contrast is not None:
        raise InvalidQuery(
            "The generated answer was cut off, and a contrast would be measured with its end.",
            remedy="Generate more tokens, or give the completion.",
            pointer="/generate/max_new_tokens",
        )
    span = query.span if said.ended or query.span is not None else Span(0, len(said.text))
    return replace(query, generate=None, completion=said.text, span=span)
