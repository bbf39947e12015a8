"""The two bodies that POST /v1/datasets takes: a form with a file, or JSON with a path."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO

from fastapi import Depends, Request
from pydantic import Json

from app.amending import Metadata
from app.bodies import Name, RequestBody
from app.datasets.schemas import DatasetImport, Format
from app.forms import JSON, SentFile, kind_of, sent_file, sent_json, validated

REMEDY = "Send multipart/form-data with name and file, or application/json with name and uri."


@dataclass(frozen=True)
class Upload:
    """`file` is readable from its start; `filename` is what the client called it."""

    name: str
    format: str | None
    filename: str
    file: BinaryIO
    metadata: dict[str, Any] | None = None


class _Fields(RequestBody):
    name: Name
    format: Format | None = None
    metadata: Json[Metadata] | None = None


async def dataset_body(request: Request) -> AsyncIterator[Upload | DatasetImport]:
    if kind_of(request) == JSON:
        yield validated(DatasetImport, await sent_json(request))
        return
    async with sent_file(request, remedy=REMEDY) as sent:
        yield upload_of(sent, sent.fields)


def upload_of(sent: SentFile, given: dict[str, Any]) -> Upload:
    """`given`: the fields beside the file. Raises RequestValidationError."""
    fields = validated(_Fields, given)
    return Upload(fields.name, fields.format, sent.filename, sent.file, fields.metadata)


DatasetBody = Annotated[Upload | DatasetImport, Depends(dataset_body)]
