"""/ui/static: style sheets, scripts, icons. Everything the pages load comes from here."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from app.dashboard.pages import FOLDER, HEADERS

router = APIRouter(prefix="/ui/static", include_in_schema=False)

_files = StaticFiles(directory=FOLDER / "static")


@router.get("/{name:path}")
async def static_file(request: Request, name: str) -> Response:
    try:
        response = await _files.get_response(name, request.scope)
    except HTTPException as error:
        return Response("Not found", status_code=error.status_code, headers=HEADERS, media_type="text/plain")
    # Revalidated by ETag on each use: an upgraded server is never shown with yesterday's sheet.
    response.headers.update({"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"})
    return response
