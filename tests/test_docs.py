"""The documents name everything there is: settings, problems, scopes, operations."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import app
from app.errors import AppError, engine_status
from app.keys.scopes import SCOPES
from app.settings import Settings
from engine import errors

ROOT = Path(__file__).parents[1]
HOWTO = (ROOT / "docs/howto.md").read_text(encoding="utf-8")
API = (ROOT / "docs/api.md").read_text(encoding="utf-8")
OPENAPI = json.loads((ROOT / "docs/openapi.json").read_text(encoding="utf-8"))
UNTOLD = {"internal-error", "dataset-error", "invalid-input", "model-error"}  # never raised themselves


def test_every_setting_is_in_the_table() -> None:
    missing = [name for name in Settings.model_fields if f"| `WHENCE_{name.upper()}` |" not in HOWTO]
    assert missing == []


def test_every_problem_is_in_the_table() -> None:
    for module in pkgutil.walk_packages(app.__path__, "app."):
        importlib.import_module(module.name)
    statuses = {(kind.code, kind.status) for kind in below(AppError)}
    statuses |= {(kind.code, engine_status(kind(""))) for kind in below(errors.EngineError)}
    told = (f"| `{code}` | {status} |" for code, status in sorted(statuses) if code not in UNTOLD)
    assert [row for row in told if row not in HOWTO] == []


def test_every_scope_is_told() -> None:
    told = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    resources = {scope.partition(":")[0] for scope in SCOPES}
    assert [name for name in resources if name not in told] == []


def test_every_operation_has_its_entry_in_the_api_page() -> None:
    entries = {(method, plain(path)) for method, path in re.findall(r"\*\*`([A-Z]+) (/[^`]+)`\*\*", API)}
    assert sorted(operations() - entries) == []


def test_every_operation_that_the_api_page_names_exists() -> None:
    """In its table several methods may share a path: `GET`, `DELETE /v1/models/{id}`."""
    named = {
        (method, plain(path))
        for methods, path in re.findall(r"((?:`[A-Z]+`, )*`[A-Z]+ )(/v1[^`?]*)`", API)
        for method in re.findall(r"[A-Z]+", methods)
    }
    assert len(named) > 40
    assert sorted(named - operations()) == []


def test_every_filter_of_a_list_is_in_the_api_page() -> None:
    entries = re.split(r"\*\*`GET (/[^`]+)`\*\*", API)
    told = {plain(path): text.partition("\n\n**`")[0] for path, text in zip(entries[1::2], entries[2::2], strict=True)}
    missing = [
        (path, parameter["name"])
        for path, methods in OPENAPI["paths"].items()
        for parameter in methods.get("get", {}).get("parameters", ())
        if parameter["in"] == "query" and parameter["name"] not in ("cursor", "limit")  # told once for all lists
        if f"{parameter['name']}=" not in told.get(plain(path), "")
    ]
    assert missing == []


def operations() -> set[tuple[str, str]]:
    return {(method.upper(), plain(path)) for path, methods in OPENAPI["paths"].items() for method in methods}


def plain(path: str) -> str:
    """What stands for an id may have any name: `{id}` in the page, `{model_id}` in the document."""
    return re.sub(r"\{\w+\}", "{}", path)


def below(kind: type) -> Iterator[type]:
    for child in kind.__subclasses__():
        yield child
        yield from below(child)
