"""`whence methods`: needs no server and no torch."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from app.commands.console import clean, facts, out, print_json
from app.commands.options import Json
from engine.methods.specs import method_specs, validate_method
from engine.types import MethodSpec


def methods(
    name: Annotated[str | None, typer.Argument(help="Only this one.", metavar="METHOD")] = None, json_: Json = False
) -> None:
    """List every method: what it computes, its options, what it needs, what it costs."""
    specs = method_specs()
    if name is not None:
        validate_method(name, {})
        specs = [spec for spec in specs if spec.name == name]
    if json_:
        print_json([dataclasses.asdict(spec) for spec in specs])
        return
    for spec in specs:
        _show(spec)


def _show(spec: MethodSpec) -> None:
    out.print(clean(f"{spec.name}: {spec.title}"), style="bold")
    kind = ", ".join(["signed" if spec.signed else "unsigned", "additive" if spec.additive else "not additive"])
    pairs: list[tuple[str, object]] = [("", spec.description), ("scores", kind)]
    pairs += [("needs", ", ".join(spec.needs) or "nothing beyond model and dataset"), ("cost", spec.cost)]
    pairs += [("options" if number == 0 else "", line) for number, line in enumerate(_option_lines(spec.options))]
    out.print(facts([*pairs, ("source", spec.source)]))
    out.print()


def _option_lines(schema: dict[str, Any]) -> list[str]:
    properties: dict[str, Any] = schema.get("properties", {})
    return [f"{name}={_default(option)}  ({_domain(option)})" for name, option in properties.items()]


def _default(option: dict[str, Any]) -> str:
    return str(option["default"]) if "default" in option else "…"


def _domain(option: dict[str, Any]) -> str:
    """What may be given, from the JSON schema: "number > 0, ≤ 1e+06", "none | cosine"."""
    if "enum" in option:
        return " | ".join(str(choice) for choice in option["enum"])
    if "anyOf" in option:
        return " or ".join(_domain(branch) for branch in option["anyOf"])
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    bounds = [f"{sign} {option[key]:g}" for key, sign in signs.items() if key in option]
    return f"{option.get('type', 'any')} {', '.join(bounds)}".strip()
