"""Ids or names: people may say either."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import typer

from whence_client import Whence


class Named(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str | None: ...


def resolve_index(whence: Whence, wanted: str, option: str) -> str:
    """The index that an alias points at, else as `resolve`: an alias was set on purpose, so it goes before a name."""
    targets = {alias.name: alias.index for alias in whence.aliases.all()}
    return targets.get(wanted) or resolve(wanted, "idx_", whence.indexes.all(), option)


def resolve(wanted: str, prefix: str, newest_first: Sequence[Named], option: str) -> str:
    """The id itself, or that of the newest resource of this name. Raises typer.BadParameter, naming those there are."""
    for resource in newest_first:
        if wanted in (resource.id, resource.name):
            return resource.id
    if wanted.startswith(prefix):
        return wanted  # the server says what is wrong with it
    known = ", ".join(dict.fromkeys(resource.name or resource.id for resource in newest_first)) or "none yet"
    raise typer.BadParameter(f"there is no {wanted!r} (there are: {known})", param_hint=option)
