"""Options that many commands share, and how `key=value` becomes a typed value."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from app.settings import Settings
from whence_client import Whence

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Url = Annotated[
    str | None, typer.Option("--url", envvar="WHENCE_URL", help="Address of the server.", show_default=False)
]
OptionPairs = Annotated[
    list[str] | None, typer.Option("--option", "-o", metavar="KEY=VALUE", help="An option; may be repeated.")
]
Limit = Annotated[int, typer.Option("--limit", min=1, max=200, help="How many, newest first.")]


@contextmanager
def server(url: str | None) -> Iterator[Whence]:
    """A client of the server at `url`, or of the one `whence serve` would start with these settings."""
    with Whence(url or own_address(Settings())) as client:
        yield client


def own_address(settings: Settings) -> str:
    """Where a server with these settings is reached from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def parse_pairs(pairs: Sequence[str] | None, option: str) -> dict[str, str]:
    """["a=1", "b=x=y"] → {"a": "1", "b": "x=y"}. Raises typer.BadParameter."""
    found: dict[str, str] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint=option)
        if key.strip() in found:
            raise typer.BadParameter(f"{key.strip()!r} is given twice", param_hint=option)
        found[key.strip()] = value.strip()
    return found


def parse_options(pairs: Sequence[str] | None) -> dict[str, Any]:
    """The values as JSON where they are JSON (64, 0.1, true, null, ["a"]), else as text."""
    return {key: _value(text) for key, text in parse_pairs(pairs, "--option").items()}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
