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

from collections.abc import Callable
from dataclasses import replace

from engine.causal.check_requirements import check_request
from engine.causal.check_work import CheckWork
from engine.causal.checks import CheckCost, CheckKind, CheckResult
from engine.causal.flip import estimate_flip, run_flip
from engine.causal.leave_out_check import estimate_leave_out, run_leave_out
from engine.causal.replay_check import estimate_replay_check, run_replay
from engine.causal.tail_patch import estimate_tail_patch, run_tail_patch
from engine.causal.unlearn import estimate_unlearn, run_unlearn
from engine.config import ModelConfig
from engine.errors import InvalidQuery
from engine.loaded import LoadedModel
from engine.model import load_model
from engine.question import generate_only, prepare
from engine.types import CheckpointFn, Query, Span

Run = Callable[[CheckWork, CheckpointFn], CheckResult]
Estimate = Callable[[CheckWork], CheckCost]
_KINDS: dict[CheckKind, tuple[Run, Estimate]] = {
    "tail_patch": (run_tail_patch, estimate_tail_patch),
    "leave_out": (run_leave_out, estimate_leave_out),
    "replay": (run_replay, estimate_replay_check),
    "flip": (run_flip, estimate_flip),
    "unlearn": (run_unlearn, estimate_unlearn),
}


def run_check(work: CheckWork, checkpoint: CheckpointFn) -> CheckResult:
    """`checkpoint` may raise Cancelled: what is finished by then is kept.

    Raises InvalidOption (a setting), InvalidQuery, MissingNeed (no recipe, no recorded moments), UnsupportedModel,
    NonFiniteGradient (a training diverged), EngineUnavailable (a training process died), StorageFull.
    """
    run, _ = _KINDS[_checked(work)]
    return run(_spelled_out(work), checkpoint)


def estimate_check(work: CheckWork) -> CheckCost:
    """What `run_check` would still cost; of flip, at most. Raises what it raises."""
    _, estimate = _KINDS[_checked(work)]
    return estimate(_spelled_out(work))


def _checked(work: CheckWork) -> CheckKind:
    check_request(work.model, len(work.dataset), work.ranked, work.config, work.dataset.position_of)
    return work.config.kind


def _spelled_out(work: CheckWork) -> CheckWork:
    work.directory.mkdir(parents=True, exist_ok=True)
    return replace(work, query=spelled_out(work.model, work.query, work.device))


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
