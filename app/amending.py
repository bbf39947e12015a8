"""What people may write on a resource after it was made: its name, where that is only a name, and metadata."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, field_validator
from sqlalchemy.orm import Session

from app.bodies import JsonObject, Name, RequestBody, problems
from app.etags import Preconditions, etag_of
from app.tables.base import Listed

MAX_METADATA_BYTES = 16 << 10


def _bounded(value: dict[str, Any]) -> dict[str, Any]:
    size = len(json.dumps(value, ensure_ascii=False).encode())
    if size > MAX_METADATA_BYTES:
        raise ValueError(f"metadata takes {size} bytes as JSON; at most {MAX_METADATA_BYTES} are kept")
    return value


Metadata = Annotated[JsonObject, AfterValidator(_bounded)]
GIVEN: Any = Field(
    default=None, description=f"Kept and given back; not looked at. {MAX_METADATA_BYTES >> 10} KiB at most."
)
# SQLAlchemy keeps `metadata` of a row for itself.
SHOWN: Any = Field(default=None, validation_alias=AliasChoices("user_metadata", "metadata"))

CHANGED = problems(400, 404, 409, 412, 413, 422, 503)


class MetadataPatch(RequestBody):
    """What is left out stays as it is; `metadata` is replaced as a whole, by null it is taken away."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"metadata": {"ticket": 7}}]})

    metadata: Metadata | None = GIVEN


class NamedPatch(MetadataPatch):
    name: Name | None = Field(default=None, description="Left out: as it is.")

    @field_validator("name")
    @classmethod
    def _a_name(cls, value: str | None) -> str:
        if value is None:
            raise ValueError("a name can be changed, but not taken away")
        return value


Out = TypeVar("Out", bound=BaseModel)


def amended(
    session: Session,
    row: Any,
    patch: MetadataPatch,
    preconditions: Preconditions,
    shown: Callable[[Any], Out],
    rename: Callable[[Any, str], None] | None = None,
) -> Out:
    """The row as it is shown after the change, made in the caller's transaction. Raises PreconditionFailed."""
    assert isinstance(row, Listed)
    session.refresh(row, with_for_update=True)  # two that change it take turns
    preconditions.check(etag_of(shown(row)))
    if "metadata" in patch.model_fields_set:
        row.user_metadata = patch.metadata  # type: ignore[attr-defined]
    if isinstance(patch, NamedPatch) and patch.name is not None:
        (rename or _rename)(row, patch.name)
    session.flush()
    return shown(row)


def _rename(row: Any, name: str) -> None:
    row.name = name
