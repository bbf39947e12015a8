"""What a causal check needs, told before any work is done. No torch: the service asks before it makes a job of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from engine.causal.checks import CHECK_KINDS, CheckConfig, RankedRow
from engine.causal.recipe import repeatable
from engine.config import ModelConfig, Training
from engine.errors import InvalidOption

REMEDY = (
    "Register the model again with a recipe that has `training` (`whence model add … --recipe FILE`; `whence train` "
    "writes one), build its index and check an answer of that."
)
_REMOVING = ("leave_out", "flip", "unlearn")
_LEAST = {  # kind → field → the least that measures anything
    "tail_patch": {"draws": 1},
    "leave_out": {"seeds": 3, "draws": 1},
    "flip": {"seeds": 1},
}
PositionOf = Callable[[str], int | None]


def check_request(
    model: ModelConfig, rows: int, ranked: Sequence[RankedRow], config: CheckConfig, position_of: PositionOf
) -> None:
    """rows: of the dataset. position_of: a row's id → its position, None where there is none.

    Raises InvalidOption naming the setting, and MissingNeed where the training's recipe is not known.
    """
    if config.kind not in CHECK_KINDS:
        raise InvalidOption(f"Unknown check {config.kind!r}; there are {', '.join(CHECK_KINDS)}.", pointer="/kind")
    _check_numbers(config)
    _check_rows(rows, ranked, config, position_of)
    if needs_training(config):
        training_of(model, rows)


def needs_training(config: CheckConfig) -> bool:
    """An influence step repeats nothing."""
    return not (config.kind == "unlearn" and config.how == "influence")


def training_of(model: ModelConfig, rows: int) -> Training:
    """The run that is repeated. Raises MissingNeed, InvalidOption."""
    return repeatable(model.recipe, rows, what="A causal check", remedy=REMEDY, pointer="/model")


def positions_of(ids: Sequence[str], position_of: PositionOf, pointer: str) -> list[int]:
    """Raises InvalidOption for an id that no row has, or that is named twice."""
    found: dict[int, str] = {}
    for number, name in enumerate(ids):
        position = position_of(name)
        if position is None:
            raise InvalidOption(f"No row has the id {name!r}.", pointer=f"{pointer}/{number}")
        if position in found:
            raise InvalidOption(f"The row {name!r} is named twice.", pointer=f"{pointer}/{number}")
        found[position] = name
    return list(found)


def _check_numbers(config: CheckConfig) -> None:
    for name, least in ({"rows": 1} | _LEAST.get(config.kind, {})).items():
        if getattr(config, name) < least:
            raise InvalidOption(f"{name} is {getattr(config, name)}; it must be at least {least}.", pointer=f"/{name}")
    rate = config.learning_rate
    if rate is not None and not 0 < rate < math.inf:
        raise InvalidOption(f"learning_rate is {rate}; it must be above 0.", pointer="/learning_rate")
    if config.how not in ("retrain", "influence"):
        raise InvalidOption(f"how is {config.how!r}; it must be retrain or influence.", pointer="/how")


def _check_rows(rows: int, ranked: Sequence[RankedRow], config: CheckConfig, position_of: PositionOf) -> None:
    named = config.kind == "unlearn" and bool(config.ids)
    if config.ids and config.kind != "unlearn":
        raise InvalidOption(f"ids are unlearn's; {config.kind} takes the ranking's first rows.", pointer="/ids")
    positions_of([row.id for row in ranked], position_of, "/ranked")
    count = len(positions_of(config.ids, position_of, "/ids")) if named else config.rows
    if not named and count > len(ranked):
        raise InvalidOption(
            f"rows is {count}, and the answer ranks {len(ranked)}.",
            remedy="Ask for a longer answer (top_k), or try fewer rows.",
            pointer="/rows",
        )
    if config.kind in _REMOVING and count >= rows:
        raise InvalidOption(
            f"{count} of {rows} rows would be removed, and none is left to train on.",
            pointer="/ids" if named else "/rows",
        )
