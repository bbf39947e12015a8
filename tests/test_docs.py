"""The documents name everything there is: settings, problems, scopes."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import app
from app.errors import AppError
from app.keys.scopes import SCOPES
from app.settings import Settings
from engine import errors

ROOT = Path(__file__).parents[1]
HOWTO = (ROOT / "docs/howto.md").read_text(encoding="utf-8")
UNTOLD = {"internal-error", "dataset-error", "invalid-input", "model-error"}  # never raised themselves


def test_every_setting_is_in_the_table() -> None:
    missing = [name for name in Settings.model_fields if f"| `WHENCE_{name.upper()}` |" not in HOWTO]
    assert missing == []


def test_every_problem_is_in_the_table() -> None:
    for module in pkgutil.walk_packages(app.__path__, "app."):
        importlib.import_module(module.name)
    codes = {kind.code for kind in (*below(AppError), *below(errors.EngineError))} - UNTOLD
    assert sorted(code for code in codes if f"| `{code}` |" not in HOWTO) == []


def test_every_scope_is_told() -> None:
    told = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    resources = {scope.partition(":")[0] for scope in SCOPES}
    assert [name for name in resources if name not in told] == []


def below(kind: type) -> Iterator[type]:
    for child in kind.__subclasses__():
        yield child
        yield from below(child)
