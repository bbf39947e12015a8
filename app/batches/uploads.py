"""The body of POST /v1/attributions/batches: a form with the file, and what its lines may leave out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, BinaryIO

from fastapi import Depends, Request

from app.batches.schemas import BatchDefaults
from app.forms import sent_file, validated


@dataclass(frozen=True)
class BatchUpload:
    """`file` is readable from its start; `filename` is what the client called it."""

    defaults: BatchDefaults
    filename: str
    file: BinaryIO


async def batch_body(request: Request) -> AsyncIterator[BatchUpload]:
    async with sent_file(request) as sent:
        yield BatchUpload(validated(BatchDefaults, sent.fields), sent.filename, sent.file)


BatchBody = Annotated[BatchUpload, Depends(batch_body)]
