"""Where the server is and how to reach it: arguments first, then the environment."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx

from whence_client.flow import Request

DEFAULT_URL = "http://127.0.0.1:8400"
# Reading may take as long as the server's longest wait; connecting may not.
DEFAULT_TIMEOUT_S = 120.0
CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Connection:
    base_url: str
    headers: dict[str, str]


def connection(base_url: str | None, api_key: str | None) -> Connection:
    url = base_url or os.environ.get("WHENCE_URL") or DEFAULT_URL
    url = url if "://" in url else f"http://{url}"
    key = os.environ.get("WHENCE_API_KEY") if api_key is None else api_key  # "": no key, whatever the environment says
    headers = {"User-Agent": "whence-client/0.1.0", "Accept": "application/json"}
    return Connection(url.rstrip("/"), headers | ({"Authorization": f"Bearer {key}"} if key else {}))


def timeouts(seconds: float | None) -> httpx.Timeout:
    return httpx.Timeout(seconds or DEFAULT_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)


def build_arguments(request: Request, files: ExitStack) -> dict[str, Any]:
    """Keyword arguments of `httpx.Client.request`; an upload's file is opened, and closed by `files`."""
    arguments: dict[str, Any] = {"params": request.params or None, "headers": dict(request.headers)}
    if request.json is not None:
        arguments["json"] = request.json
    if (upload := request.upload) is not None:
        file = files.enter_context(upload.path.open("rb"))
        arguments["data"] = upload.fields
        arguments["files"] = {"file": (upload.path.name, file)}
        arguments["headers"]["Content-Type"] = f"multipart/form-data; boundary={upload.boundary}"
    return arguments
