"""Datasets over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.amending import GIVEN, MAX_METADATA_BYTES, SHOWN, Metadata
from app.bodies import Name, PathText, Problem, RequestBody

Format = Literal["jsonl", "json", "csv", "parquet"]
State = Literal["loading", "ready", "failed"]


class DatasetImport(RequestBody):
    """A file that lies on the server already."""

    name: Name
    uri: PathText = Field(description="A local path below WHENCE_MODEL_ROOTS.")
    format: Format | None = Field(default=None, description="Told by the name and the first bytes when left out.")
    metadata: Metadata | None = GIVEN


class DatasetOut(BaseModel):
    """`rows`, `sha256` and `format` are null while `state` is `loading`."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    state: str
    rows: int | None
    sha256: str | None
    format: str | None
    source: str | None
    warnings: list[str]
    error: Problem | None
    job_id: str | None
    metadata: dict[str, Any] | None = SHOWN
    created_at: datetime


class TurnOut(BaseModel):
    role: str
    content: str


class ExampleOut(BaseModel):
    """`position`: the row's place in the file, from 0."""

    id: str
    position: int
    prompt: str | None
    completion: str | None
    messages: list[TurnOut] | None
    text: str | None
    tags: dict[str, str]
    label: str | None


_FILE = {
    "type": "string",
    "contentMediaType": "application/octet-stream",
    "description": "JSONL, JSON, CSV or Parquet.",
}

# The route takes two kinds of body, which FastAPI cannot infer from a signature.
CREATE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["name", "file"],
                    "additionalProperties": False,
                    "properties": {
                        "name": {"type": "string", "minLength": 1, "maxLength": 200},
                        "file": _FILE,
                        "format": {"type": "string", "enum": ["jsonl", "json", "csv", "parquet"]},
                        "metadata": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "description": f"An object as JSON, {MAX_METADATA_BYTES >> 10} KiB at most.",
                        },
                    },
                }
            },
            "application/json": {
                "schema": DatasetImport.model_json_schema(),
                "example": {"name": "support-train", "uri": "support/train.jsonl"},
            },
        },
    }
}
