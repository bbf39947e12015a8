"""The torch-free face of the methods: list them, and validate what a request asks for."""

from __future__ import annotations

from typing import Any

from engine.methods import all_methods, get_method
from engine.types import MethodSpec


def method_specs() -> list[MethodSpec]:
    return [method.spec() for method in all_methods()]


def validate_method(name: str, options: dict[str, Any]) -> None:
    """Raises UnknownMethod or InvalidOption. `auto` takes the options every whitened method takes."""
    get_method("ekfac" if name == "auto" else name).parse(options)
