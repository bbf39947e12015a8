"""Options of a build as fields of a form, made from their JSON schemas: a method that is added has its form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PREFIX = "options."  # of a field's name


@dataclass(frozen=True)
class OptionField:
    """default: what holds when it is left empty. choices: empty for one that is typed."""

    name: str
    label: str
    value: str
    default: str
    choices: tuple[tuple[str, str], ...]


def option_fields(schema: Mapping[str, Any], sent: Mapping[str, str]) -> tuple[OptionField, ...]:
    return tuple(_field(name, spec, sent) for name, spec in schema.get("properties", {}).items())


def given_options(schemas: list[Mapping[str, Any]], sent: Mapping[str, str]) -> dict[str, Any]:
    """What was filled in, as JSON has it; whether it may be so is checked where every request is."""
    known = {name: spec for schema in schemas for name, spec in schema.get("properties", {}).items()}
    return {
        name: _value(spec, sent[PREFIX + name].strip())
        for name, spec in known.items()
        if sent.get(PREFIX + name, "").strip()
    }


def _field(name: str, spec: Mapping[str, Any], sent: Mapping[str, str]) -> OptionField:
    default = _shown(spec.get("default"))
    kinds = _kinds(spec)
    values = [item for kind in kinds for item in kind.get("enum", [])]
    values += ["true", "false"] if any(kind.get("type") == "boolean" for kind in kinds) else []
    typed = any(kind.get("type") in ("integer", "number", "array", "object") or "$ref" in kind for kind in kinds)
    others = [value for value in map(_shown, values) if value != default]
    choices = () if typed or not values else (("", f"{default} (default)"), *((value, value) for value in others))
    return OptionField(PREFIX + name, name.replace("_", " "), sent.get(PREFIX + name, ""), default, choices)


def _kinds(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return spec.get("anyOf") or [spec]


def _value(spec: Mapping[str, Any], text: str) -> Any:
    """JSON where it is JSON (numbers, booleans, lists), else the words as they are: `auto`."""
    if any(kind.get("type") == "string" and "enum" not in kind and "const" not in kind for kind in _kinds(spec)):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)
