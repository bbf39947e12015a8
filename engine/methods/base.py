"""What a method is: a declaration. The mathematics it names lives in `engine/curvature` and the pipeline.

A method file declares one of five kinds and registers it:
    GradientMethod        inner products of (whitened) gradients; names its metric
    ReplayMethod          derivatives through the training run, taken anew for every query
    RepresentationMethod  cosines of hidden states
    LossMethod            each row's own loss, whatever the query
    RowMethod             scores computed from the rows' text alone; every index serves these as controls

Nothing here imports torch, so the API can list and validate methods without the engine installed.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from engine.errors import InvalidOption, UnknownMethod
from engine.types import MethodSpec

if TYPE_CHECKING:
    import numpy as np

    from engine.lexical import Corpus, RowQuery

Normalize = Literal["none", "cosine"]


@dataclass(frozen=True)
class NoOptions:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


@cache
def _adapter(options: type[Any]) -> TypeAdapter[Any]:
    """Kept: making one takes a hundred times as long as using it, and every answer that is shown uses two."""
    return TypeAdapter(options)


@cache
def _schema(options: type[Any]) -> dict[str, Any]:
    return _adapter(options).json_schema()


@dataclass(frozen=True)
class Method:
    """name: the word used everywhere. signed: scores below zero mean "opponent" (DESIGN §2.1).
    additive: modules, positions and sets sum up (§2.5). needs: what the model must come with.
    source: paper and equation. options: a frozen dataclass whose fields are the method's options."""

    name: str
    title: str
    description: str
    cost: str
    source: str
    options: type[Any] = NoOptions
    signed: bool = True
    additive: bool = True
    needs: tuple[str, ...] = ()

    def spec(self) -> MethodSpec:
        return MethodSpec(
            name=self.name,
            title=self.title,
            description=self.description,
            signed=self.signed,
            additive=self.additive,
            needs=self.needs,
            cost=self.cost,
            options=_schema(self.options),
            source=self.source,
        )

    def in_units_of_f(self, options: Any) -> bool:
        """Whether −score/N predicts how f changes when the row is taken out (DESIGN §2.2)."""
        return False

    def parse(self, options: dict[str, Any]) -> Any:
        """The options as a dataclass; an unknown name or a bad value raises InvalidOption."""
        known = [field.name for field in dataclasses.fields(self.options)]
        for name in options:
            if name not in known:
                raise InvalidOption(
                    _unknown(f"option of method {self.name!r}", name, known), pointer=f"/options/{name}"
                )
        try:
            return _adapter(self.options).validate_python(options)
        except ValidationError as error:
            first = error.errors()[0]
            where = "/".join(str(part) for part in first["loc"])
            raise InvalidOption(
                f"Option {where!r} of method {self.name!r}: {first['msg']}.", pointer=f"/options/{where}"
            ) from None


@dataclass(frozen=True)
class GradientMethod(Method):
    """metric: a name in `engine.curvature`. unit_norm: each checkpoint's vector is stored with norm 1.

    combine: how checkpoints add up: `scaled` by the query's own norm (DESIGN §4), `learning_rate` by each one's mean
    learning rate (TracIn), or as they are (`sum`). odds: gradients of Σ log(p/(1−p)), on both sides.
    damage: the row's weight is multiplied by 1 − its mean target probability (TRAK's Q).
    alone: a row's loss is the mean over its own targets, as in a batch of its own (LESS), whatever the recipe says.
    self_scores: the build knows each row's score on itself; without them there are no cosines and no self-influence.
    alike: a query's vector is made as a row's is, so that rows can stand for queries (engine/ivf_build.py).
    """

    metric: str = "identity"
    unit_norm: bool = False
    combine: Literal["scaled", "learning_rate", "sum"] = "scaled"
    odds: bool = False
    damage: bool = False
    alone: bool = False
    self_scores: bool = True
    alike: bool = True

    def in_units_of_f(self, options: Any) -> bool:
        """Of one checkpoint, in a whole inverse curvature (exponent 1), with no weight of the row's beside it."""
        inverse = self.metric != "identity" and getattr(options, "exponent", 1.0) == 1.0
        inverse = inverse and getattr(options, "ensemble_power", 0.0) == 0.0
        return inverse and self.additive and self.combine == "scaled" and not (self.odds or self.damage)


@dataclass(frozen=True)
class RepresentationMethod(Method):
    """parts: vectors of the hidden size a row takes."""

    signed: bool = False
    additive: bool = False
    parts: int = 1


@dataclass(frozen=True)
class ReplayMethod(Method):
    """The index keeps the states of the recorded run, and nothing of a row."""

    def in_units_of_f(self, options: Any) -> bool:
        return True


@dataclass(frozen=True)
class LossMethod(Method):
    """The row's own loss under the model, whatever the query; also its self-influence."""

    signed: bool = False
    additive: bool = False


@dataclass(frozen=True)
class RowMethod(Method):
    signed: bool = False
    additive: bool = False

    def scores(self, corpus: Corpus, query: RowQuery) -> np.ndarray:
        """float32 [N]: one score a row, higher = more related to the query."""
        raise TypeError(f"{self.name} does not say how it scores rows")


_REGISTRY: dict[str, Method] = {}


def register(method: Method) -> Method:
    if method.name in _REGISTRY:
        raise ValueError(f"method {method.name!r} is registered twice")
    _REGISTRY[method.name] = method
    return method


def all_methods() -> tuple[Method, ...]:
    return tuple(_REGISTRY.values())


def get_method(name: str) -> Method:
    """The registered method; UnknownMethod names the nearest one."""
    if name not in _REGISTRY:
        raise UnknownMethod(_unknown("method", name, list(_REGISTRY)), pointer="/method")
    return _REGISTRY[name]


def _unknown(what: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {what}: {name!r}.{hint} Known: {', '.join(known) or 'none'}."
