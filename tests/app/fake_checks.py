"""What the fake engine measures of an answer: every part of a check's result, the same for the same question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.causal.checks import CheckConfig, CheckResult, Effect, RankedRow, SetEffect


def checked(rows: int, ranked: Sequence[RankedRow], config: CheckConfig, work_dir: Path) -> CheckResult:
    """Leaving a row out lowers the output by its score; random rows do next to nothing."""
    tried = ranked[: config.rows]
    if config.kind == "unlearn":
        adapter = work_dir / "adapter"
        adapter.mkdir(exist_ok=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (adapter / name).write_text("{}")
        held_out = {"before": 2.0, "after": 2.25}
        return CheckResult("unlearn", adapter=adapter, held_out=held_out, retrainings=1, seconds=1.5)
    effects = tuple(_effect(row, rows) for row in tried)
    sets = (_set("top", tried, -3.2, config), _set("random", tried, -0.1, config), _set("none", (), -0.02, config))
    return CheckResult(
        kind=config.kind,
        effects=effects,
        sets=sets if config.kind in ("leave_out", "flip") else (),
        answer_before=" In Port Halvern.",
        answer_after=" Elsewhere.",
        flipped=tuple(row.id for row in tried) if config.kind == "flip" else None,
        retrainings=config.seeds * 3,
        seconds=12.5,
        details={"metasmoothness": float("nan"), "difference": {"value": -3.1, "low": -3.7, "high": -2.5}},
        warnings=("These figures are made up.",),
    )


def _effect(row: RankedRow, rows: int) -> Effect:
    predicted = -row.score / rows if row.in_nats else None
    return Effect(row.id, predicted, -row.score, -row.score - 0.5, -row.score + 0.5)


def _set(name: str, rows: Sequence[RankedRow], change: float, config: CheckConfig) -> SetEffect:
    ids = tuple(row.id for row in rows)
    return SetEffect(name, len(rows), -2.1, -2.1 + change, change, change - 0.4, change + 0.4, config.seeds, 0.0, ids)
