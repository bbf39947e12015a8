"""/ui/static: style sheets, scripts, icons. Everything the pages load comes from here."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header
from starlette.responses import Response

from app.dashboard.files import FILES, File
from app.dashboard.pages import HEADERS

router = APIRouter(prefix="/ui/static", include_in_schema=False)


@router.get("/{name:path}")
async def static_file(name: str, v: str = "", if_none_match: Annotated[str, Header()] = "") -> Response:
    file = FILES.get(name)  # by name alone: no path leads anywhere else
    if file is None:
        return Response("Not found", status_code=404, headers=HEADERS, media_type="text/plain")
    headers = _headers(file, v)
    if _names(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


def _headers(file: File, asked: str) -> dict[str, str]:
    """What was asked for by its version stays as it is. Anything else is revalidated on each use: an upgraded server
    is never shown with yesterday's sheet."""
    kept = "public, max-age=31536000, immutable" if asked == file.version else "no-cache"
    return {"ETag": f'"{file.version}"', "Cache-Control": kept, "X-Content-Type-Options": "nosniff"}


def _names(if_none_match: str, etag: str) -> bool:
    given = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in given or "*" in given
