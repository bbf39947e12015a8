"""Indexes over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.amending import GIVEN, SHOWN, Metadata
from app.bodies import JsonObject, Name, PathText, PlainText, Problem, RequestBody

_EXAMPLE = {
    "model": "mdl_k5yqm2l7xw3c9ab4de6f",
    "dataset": "ds_p3n8v1tz5rj7qk2mh9sd",
    "method": "auto",
    "options": {"projection_dim": "auto", "damping": 0.1},
}


State = Literal["queued", "building", "ready", "failed", "stale"]


class IndexCreate(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    model: PlainText
    dataset: PlainText
    name: Name | None = None
    method: PlainText = Field(
        default="auto",
        description="`auto`: the best measured one where an evaluation of this model and dataset chose one; else "
        "EK-FAC for adapters, K-FAC for dense fine-tunes.",
    )
    checkpoints: Literal["all", "final"] | list[PathText] = Field(
        default="all", description="Which of the model's checkpoints; a path, or the end of one."
    )
    options: JsonObject = Field(
        default={}, description="Of the build (projection_dim, dtype, modules, max_length, …) and of the method."
    )
    metadata: Metadata | None = GIVEN


class IndexImport(RequestBody):
    """What is sent beside the file of an import."""

    model: PlainText
    name: Name | None = None


_FILE = {
    "type": "string",
    "contentMediaType": "application/x-tar",
    "description": "As GET /v1/indexes/{index_id}/export gave it.",
}
# A form with a file, which FastAPI cannot infer from a dependency.
IMPORT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["model", "file"],
                    "additionalProperties": False,
                    "properties": {
                        "model": {
                            "type": "string",
                            "description": "Id of a registered model; its fingerprint has to be that of the export.",
                        },
                        "name": {"type": "string", "minLength": 1, "maxLength": 200},
                        "file": _FILE,
                    },
                }
            }
        },
    }
}


class IndexOut(BaseModel):
    """What the build learns is null until `state` is `ready`. `options`: what is in force, or was asked for.
    `chosen_by`: the evaluation that `auto` took the method and its options from. `version` counts the indexes of one
    name, from 1."""

    id: str
    job_id: str | None
    name: str | None
    version: int | None
    model: str
    dataset: str
    method: str
    chosen_by: str | None
    state: str
    serves: list[str]
    rows: int | None
    dims: int | None
    bytes: int | None
    sketched: bool | None
    checkpoints: int | None
    coverage: dict[str, Any] | None
    fingerprints: dict[str, Any] | None
    revision: str | None
    options: dict[str, Any]
    warnings: list[str]
    timings_s: dict[str, Any] | None
    metadata: dict[str, Any] | None = SHOWN
    error: Problem | None
    created_at: datetime
    ready_at: datetime | None


class EstimateOut(BaseModel):
    """`basis` says how the figures were obtained."""

    model_config = ConfigDict(from_attributes=True)

    seconds: float
    memory_bytes: int
    disk_bytes: int
    rows: int
    dims: int
    sketched: bool
    basis: str


class SelfInfluenceOut(BaseModel):
    """One row and its score against itself: high for mislabelled and odd rows."""

    rank: int
    example_id: str
    position: int
    score: float
    prompt: str | None
    completion: str | None
    text: str | None
    tags: dict[str, str]
    label: str | None
