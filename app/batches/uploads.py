"""The two bodies of a new batch: a form with the file, or JSON with the questions; and what they may leave out."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from io import BytesIO
from typing import Annotated, BinaryIO

from fastapi import Depends, Request

from app.batches.schemas import BatchDefaults, BatchQueries
from app.forms import JSON, kind_of, sent_file, sent_json, validated

REMEDY = "Send multipart/form-data with file, or application/json with queries."


@dataclass(frozen=True)
class BatchUpload:
    """`file` is readable from its start; `filename` is what the client called it."""

    defaults: BatchDefaults
    filename: str
    file: BinaryIO


async def batch_body(request: Request) -> AsyncIterator[BatchUpload]:
    if kind_of(request) == JSON:
        yield _as_file(validated(BatchQueries, await sent_json(request)))
        return
    async with sent_file(request, remedy=REMEDY) as sent:
        yield BatchUpload(validated(BatchDefaults, sent.fields), sent.filename, sent.file)


def _as_file(body: BatchQueries) -> BatchUpload:
    defaults = BatchDefaults.model_validate(body.model_dump(exclude={"queries"}))
    lines = "".join(json.dumps(query) + "\n" for query in body.queries)
    return BatchUpload(defaults, "queries", BytesIO(lines.encode()))


BatchBody = Annotated[BatchUpload, Depends(batch_body)]
