"""What an evaluation needs, told before any work is done. No torch: the service asks before it makes a job of it."""

from __future__ import annotations

from collections.abc import Sequence

from engine.causal.recipe import repeatable
from engine.config import ModelConfig, Training
from engine.errors import InvalidOption
from engine.evaluate.scorecard import EvaluationConfig, EvaluationQuery

_REMEDY = (
    "Register the model again with a recipe that has `training` (`whence model add … --recipe FILE`; `whence train` "
    "writes one), build its index and evaluate that."
)


def training_of(model: ModelConfig, rows: int) -> Training:
    """The run that is repeated. Raises MissingNeed, InvalidOption."""
    return repeatable(model.recipe, rows, what="An evaluation", remedy=_REMEDY, pointer="/index")


def check_config(config: EvaluationConfig, rows: int, queries: Sequence[EvaluationQuery]) -> None:
    """Raises InvalidOption naming the setting."""
    if len(queries) < 2:
        raise InvalidOption(f"{len(queries)} queries measure nothing.", remedy="Give 2 or more.", pointer="/queries")
    if rows < 4:
        raise InvalidOption(f"{rows} rows cannot be halved and compared.", pointer="/index")
    least = {"half_subsets": 3, "half_seeds": 1, "drop_subsets": 0, "leave_out_queries": 0, "leave_out_draws": 2}
    for name, bound in (least | {"leave_out_rows": 1, "leave_out_seeds": 1, "directions": 0, "canaries": 0}).items():
        if getattr(config, name) < bound:
            raise InvalidOption(f"{name} is {getattr(config, name)}; it must be at least {bound}.", pointer=f"/{name}")
    for name in ("drop_share", "tuning_share"):
        if not 0 <= getattr(config, name) < 1:
            raise InvalidOption(f"{name} is {getattr(config, name)}; it must lie in [0, 1).", pointer=f"/{name}")
    if config.leave_out_rows >= rows:
        raise InvalidOption(f"leave_out_rows is {config.leave_out_rows} of {rows} rows.", pointer="/leave_out_rows")
