"""What an index request asks for, checked at once: an unknown method or option never becomes a failed job."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Annotated, Any, Literal, NoReturn

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from app.evaluations.evidence import Choice
from app.indexes.schemas import IndexCreate
from engine.config import IndexConfig, IndexOptions
from engine.errors import InvalidOption
from engine.methods.specs import method_specs, validate_method

_CONFIG = TypeAdapter(IndexConfig)
_OPTIONS = TypeAdapter(IndexOptions)
AUTO = "auto"
LONGEST_PATTERN = 500


def _regular_expression(value: str) -> str:
    if len(value) > LONGEST_PATTERN:
        raise ValueError(f"a regular expression of more than {LONGEST_PATTERN} characters")
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return value


class SharedOptions(BaseModel):
    """The ranges of engine.config.IndexOptions."""

    model_config = ConfigDict(extra="forbid", strict=True)

    projection_dim: Annotated[int, Field(ge=0, le=2**20)] | Literal["auto"] = "auto"
    dtype: Literal["int8", "float16", "float32"] = "float16"
    sketch: Literal["auto", "none", "random", "learned"] = "auto"
    bytes_per_row: int | None = Field(default=None, ge=1)
    learned_dim: int | None = Field(default=None, ge=1)
    sketch_rows: int | None = Field(default=None, ge=1)
    exact_limit_mb: int = Field(default=1024, ge=0)
    modules: list[Annotated[str, AfterValidator(_regular_expression)]] | None = Field(default=None, min_length=1)
    max_length: int | None = Field(default=None, ge=1)
    curvature_rows: int | None = Field(default=None, ge=1)
    token_budget: int = Field(default=4096, ge=1)
    shard_rows: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    replicas: int = Field(default=0, ge=0, le=16)
    search: Literal["auto", "flat", "ivf"] = "auto"
    allow_partial: bool = False


SHARED = tuple(field.name for field in dataclasses.fields(IndexOptions))


def index_config(body: IndexCreate, states: Sequence[str]) -> IndexConfig:
    """`states`: the directories of the model's checkpoints, oldest first, and of its adapter.

    Raises UnknownMethod and InvalidOption, each naming the nearest that exists.
    """
    own = {name: value for name, value in body.options.items() if name not in SHARED}
    shared = {name: value for name, value in body.options.items() if name in SHARED}
    validate_method(body.method, {})
    _refuse_unknown(body.method, own)
    validate_method(body.method, own)
    chosen = _checkpoints(body.checkpoints, states)
    return IndexConfig(method=body.method, checkpoints=chosen, options=_shared(shared), method_options=own)


def with_choice(body: IndexCreate, choice: Choice | None) -> IndexCreate:
    """`auto` as an evaluation settled it. Options of the build stay as asked for; with options of a method in the
    request nothing is settled: they are those of the usual one."""
    if choice is None or any(name not in SHARED for name in body.options):
        return body
    own = {name: value for name, value in choice.options.items() if name in _options_of(choice.method)}
    return body.model_copy(update={"method": choice.method, "options": {**body.options, **own}})


def config_from(stored: dict[str, Any]) -> IndexConfig:
    """The config as it was written to the index's row."""
    return _CONFIG.validate_python(stored)


def _refuse_unknown(method: str, own: dict[str, Any]) -> None:
    """Before the method itself looks: the nearest name may be an option of the build."""
    known = [*_options_of(method), *SHARED]
    for name in own:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            detail = f"Method '{method}' has no option '{name}'.{hint} Known: {', '.join(known)}."
            raise InvalidOption(detail, pointer=f"/options/{name}", nearest=near[0] if near else None)


def _options_of(method: str) -> list[str]:
    specs = {spec.name: spec for spec in method_specs()}
    return list(specs["ekfac" if method == AUTO else method].options.get("properties", {}))


def _shared(values: dict[str, Any]) -> IndexOptions:
    try:
        checked = SharedOptions.model_validate(values)
    except ValidationError as error:
        _invalid(error)
    return _OPTIONS.validate_python(checked.model_dump())


def _invalid(error: ValidationError) -> NoReturn:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])
    raise InvalidOption(f"Option '{name}': {first['msg']}.", pointer=f"/options/{name}") from error


def _checkpoints(
    asked: Literal["all", "final"] | list[str], states: Sequence[str]
) -> Literal["all", "final"] | tuple[str, ...]:
    if isinstance(asked, str):
        return asked
    if not asked:
        raise InvalidOption("The list of checkpoints is empty.", pointer="/checkpoints")
    return tuple(_label(path, states, f"/checkpoints/{number}") for number, path in enumerate(asked))


def _label(asked: str, states: Sequence[str], pointer: str) -> str:
    """The engine's word for a checkpoint: its directory's name, with its place where two share one."""
    tail = "/" + asked.strip("/")
    found = [number for number, path in enumerate(states) if path == asked or path.endswith(tail)]
    names = [PurePath(path).name for path in states]
    if len(found) == 1:
        name = names[found[0]]
        return name if names.count(name) == 1 else f"{name}#{found[0]}"
    cause = "names several of them" if found else "is not one of them"
    raise InvalidOption(
        f"'{asked}' {cause}; the model's checkpoints are: {', '.join(states) or 'none'}.", pointer=pointer
    )
