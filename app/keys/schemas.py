"""Keys over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.bodies import Moment, Name, RequestBody
from app.keys.scopes import SCOPES


def _known(scope: str) -> str:
    if scope not in SCOPES:
        raise ValueError(f"there is no scope '{scope[:60]}'; there are {', '.join(SCOPES)}")
    return scope


Scope = Annotated[str, AfterValidator(_known), Field(json_schema_extra={"enum": list(SCOPES)})]


class KeyCreate(RequestBody):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "dashboard", "scopes": ["*:read", "attributions:write"]}]}
    )

    name: Name = Field(description="What it is for: shown in lists and in the audit log.")
    scopes: list[Scope] = Field(min_length=1, max_length=len(SCOPES), description="`admin`: everything in its tenant.")
    expires_at: Moment | None = Field(default=None, description="RFC 3339; left out: it lasts until it is revoked.")


class KeyOut(BaseModel):
    """`prefix` is how the key begins. The key itself cannot be shown again."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    prefix: str
    scopes: list[str]
    tenant: str
    created_by: str | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


class KeyCreated(KeyOut):
    """`key` is shown this once."""

    key: str
