"""What the server acknowledged. Everything in it must be found again after any kill."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass
class Entry:
    """`shown`: fields that its GET must give; `end`: the state it must reach in the end. `asked_to_go`: somebody sent
    a DELETE whose answer never came, so it may be there or not."""

    path: str
    shown: Json
    end: str | None
    asked_to_go: bool = False
    gone: bool = False


@dataclass
class Ledger:
    entries: dict[str, Entry] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    # Alias → the indexes it may point to: what was acknowledged last, and what was asked for after that.
    aliases: dict[str, list[str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: str, path: str, shown: Json, *, end: str | None = None) -> None:
        with self._lock:
            self.entries[path] = Entry(path, shown, end)
            self.counts[kind] += 1

    def going(self, path: str) -> None:
        self.entries[path].asked_to_go = True

    def went(self, path: str) -> None:
        with self._lock:
            self.entries[path].gone = True
            self.counts["deletions"] += 1

    def kept(self, path: str) -> None:
        """The server refused to delete it."""
        self.entries[path].asked_to_go = False

    def point(self, alias: str, index: str, *, acknowledged: bool) -> None:
        with self._lock:
            if acknowledged:
                self.aliases[alias] = [index]
                self.counts["alias moves"] += 1
            else:
                self.aliases.setdefault(alias, [""]).append(index)

    def present(self, prefix: str) -> list[Entry]:
        """Entries that must be there."""
        with self._lock:
            return [
                e for path, e in self.entries.items() if path.startswith(prefix) and not e.gone and not e.asked_to_go
            ]

    def all(self) -> Iterator[Entry]:
        yield from list(self.entries.values())
