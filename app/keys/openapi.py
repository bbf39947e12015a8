"""What the OpenAPI document says about keys: the scheme, the scope each operation needs, how it refuses."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from app.auth import PUBLIC
from app.bodies import problems
from app.keys.scopes import required_scope

SCHEME = "api_key"
_SCHEME: dict[str, Any] = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "whk_…",
    "description": "A key from `whence keys create` or POST /v1/keys. A server on loopback without keys needs none.",
}


def describe_security(app: FastAPI) -> None:
    """Adds it to the document, which FastAPI makes once."""
    make = app.openapi

    def described() -> dict[str, Any]:
        fresh = app.openapi_schema is None
        document = make()
        if fresh:
            document["components"].setdefault("securitySchemes", {})[SCHEME] = _SCHEME
            for path, methods in document["paths"].items():
                if path not in PUBLIC:
                    _guard(path, methods)
        return document

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's documented way to extend the document


def _guard(path: str, methods: dict[str, dict[str, Any]]) -> None:
    for method, operation in methods.items():
        scope = required_scope(method.upper(), path)
        operation["security"] = [{SCHEME: [scope] if scope else []}]
        refusals = problems(401, 403, 429, 503, *([408] if "requestBody" in operation else []))
        for status, response in refusals.items():
            operation["responses"].setdefault(str(status), response)
        operation["responses"] = dict(sorted(operation["responses"].items()))
