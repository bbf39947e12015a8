"""Batches over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.attributions.schemas import AttributionCreate
from app.bodies import JsonObject, PlainText, Problem, RequestBody

_EXAMPLE = {"index": "prod", "queries": [{"prompt": "Where was Mira born?", "completion": " Port Halvern."}]}
State = Literal["queued", "running", "ready", "failed", "cancelled"]
CustomId = Annotated[PlainText, StringConstraints(max_length=200)]


class BatchDefaults(RequestBody):
    """What a line may leave out. `model` and `index` count for lines that name neither."""

    model: PlainText | None = None
    index: PlainText | None = None
    method: PlainText | None = None
    top_k: int | None = Field(default=None, ge=1)


class BatchQueries(BatchDefaults):
    """The questions in the body itself. One that is wrong fails alone, as a line of a file does."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    queries: list[JsonObject] = Field(min_length=1, description="Each the body of a POST /v1/attributions.")


class BatchLine(AttributionCreate):
    """One line of the file: a question, and a mark that comes back with its answer."""

    custom_id: CustomId | None = None


class BatchOut(BaseModel):
    """`model` and `index`: of the lines that name neither; an alias was looked up when the batch was made.
    `succeeded` and `failed` count the lines that have a result."""

    id: str
    job_id: str | None
    state: State
    source: str
    model: str | None
    index: str | None
    method: str | None
    top_k: int | None
    lines: int
    succeeded: int
    failed: int
    error: Problem | None
    created_at: datetime
    finished_at: datetime | None


_TEXT: dict[str, Any] = {"type": "string"}
_FILE = {
    "type": "string",
    "contentMediaType": "application/x-ndjson",
    "description": "JSONL, UTF-8: each line the body of a POST /v1/attributions, and `custom_id` if wanted.",
}

# FastAPI cannot infer a form that is read while it is checked.
CREATE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "additionalProperties": False,
                    "properties": {
                        "file": _FILE,
                        "model": _TEXT | {"description": "Of lines that name neither a model nor an index."},
                        "index": _TEXT | {"description": "Likewise; an index, or an alias as it points now."},
                        "method": _TEXT,
                        "top_k": {"type": "integer", "minimum": 1},
                    },
                }
            },
            "application/json": {"schema": BatchQueries.model_json_schema()},
        },
    }
}

_LINE = '{"line": 1, "custom_id": "a", "status": 200, "body": {"id": "att_…", "proponents": []}}'
RESULTS = {
    200: {
        "description": "One object a line, in the order of the file: {line, custom_id, status, body | problem}",
        "content": {"application/x-ndjson": {"schema": _TEXT, "example": _LINE}},
    }
}
