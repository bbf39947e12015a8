"""The body of POST /v1/indexes/import: a form with the file and the model's id."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, BinaryIO

from fastapi import Depends, Request

from app.forms import sent_file, validated
from app.indexes.schemas import IndexImport


@dataclass(frozen=True)
class ImportedFile:
    """`file` is readable from its start."""

    fields: IndexImport
    file: BinaryIO


async def import_body(request: Request) -> AsyncIterator[ImportedFile]:
    async with sent_file(request) as sent:
        yield ImportedFile(validated(IndexImport, sent.fields), sent.file)


ImportBody = Annotated[ImportedFile, Depends(import_body)]
