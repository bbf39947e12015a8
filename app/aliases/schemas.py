"""Aliases over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field

from app.aliases.targets import ALIAS_NAME
from app.bodies import PlainText, RequestBody

AliasName = Annotated[
    str, Path(pattern=ALIAS_NAME, description="Lower-case letters, digits and hyphens, a letter first; 63 at most.")
]


class AliasPut(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"index": "idx_k5yqm2l7xw3c9ab4de6f"}]})

    index: PlainText = Field(description="Id of a ready index, or another alias: then the index that it points at.")


class AliasOut(BaseModel):
    """`version` counts the targets that it has had. `previous_index`: the one before, which may be gone by now."""

    name: str
    index: str
    version: int
    previous_index: str | None
    created_at: datetime
    moved_at: datetime
