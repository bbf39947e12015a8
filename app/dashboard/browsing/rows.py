"""Training rows on a page: which ones, and what is shown of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from app.errors import InvalidRequest
from engine.dataset import RowFilter, example_text
from engine.types import Example

if TYPE_CHECKING:
    from engine.dataset import Dataset

PAGE = 50
LONGEST = 1000  # characters of a search
SAMPLE = 200  # rows whose tags and labels are offered as suggestions


@dataclass(frozen=True)
class RowFields:
    """The filter as it was typed. `tag`: key=value."""

    q: str = ""
    tag: str = ""
    label: str = ""

    @property
    def any(self) -> bool:
        return bool(self.q or self.tag or self.label)

    def wanted(self) -> RowFilter:
        """Raises InvalidRequest, pointing at the field."""
        for name in ("q", "tag", "label"):
            if len(getattr(self, name)) > LONGEST:
                raise InvalidRequest(f"At most {LONGEST} characters can be searched for.", pointer=f"/{name}")
        tags = {}
        if self.tag:
            key, separator, value = self.tag.partition("=")
            if not separator or not key.strip():
                remedy = "Write the tag's name, an equals sign and its value: task=facts."
                raise InvalidRequest("A tag is written key=value.", remedy=remedy, pointer="/tag")
            tags = {key.strip(): value.strip()}
        return RowFilter(tags, self.q or None, self.label or None)

    def address(self, base: str, **more: object) -> str:
        """`base` with this filter and `more` as its query; what is None or empty is left out."""
        given = {"q": self.q, "tag": self.tag, "label": self.label} | more
        query = urlencode({name: value for name, value in given.items() if value is not None and value != ""})
        return f"{base}?{query}" if query else base


@dataclass(frozen=True)
class Turn:
    role: str
    content: str


@dataclass(frozen=True)
class RowView:
    """tags: the name, the value, and both as the filter takes them."""

    position: int
    id: str
    prompt: str
    text: str
    turns: tuple[Turn, ...]
    tags: tuple[tuple[str, str, str], ...]
    label: str | None

    @property
    def plain(self) -> str:
        return " · ".join(f"{turn.role}: {turn.content}" for turn in self.turns) if self.turns else self.text


@dataclass(frozen=True)
class RowsPage:
    """earlier, later: addresses; None where there is nothing more."""

    rows: tuple[RowView, ...]
    earlier: str | None
    later: str | None


def row_view(position: int, example: Example) -> RowView:
    return RowView(
        position=position,
        id=example.id,
        prompt=example.prompt or "",
        text="" if example.messages else example.completion if example.completion is not None else example.text or "",
        turns=tuple(Turn(message.role, message.content) for message in example.messages or ()),
        tags=tuple((key, value, f"{key}={value}") for key, value in example.tags.items()),
        label=example.label,
    )


def rows_page(rows: Dataset, fields: RowFields, base: str, *, start: int = 0, before: int | None = None) -> RowsPage:
    """The rows from position `start` on, or the last ones before `before`. Raises InvalidRequest."""
    wanted = fields.wanted()
    found = _before(rows, wanted, before) if before is not None else []
    if len(found) < PAGE:  # the first page, and then a whole one
        start = start if before is None else 0
        found = rows.select(wanted.tags, wanted.query, label=wanted.label, start=start, limit=PAGE + 1)
        more, found = len(found) > PAGE, found[:PAGE]
        earlier = fields.address(base, before=found[0] if found else start) if start > 0 else None
    else:
        more, earlier = True, fields.address(base, before=found[0]) if found[0] > 0 else None
    later = fields.address(base, start=found[-1] + 1) if more else None
    return RowsPage(tuple(row_view(position, rows[position]) for position in found), earlier, later)


def _before(rows: Dataset, wanted: RowFilter, end: int) -> list[int]:
    return rows.select_before(wanted.tags, wanted.query, label=wanted.label, end=end, limit=PAGE)


def suggestions(rows: Dataset) -> Mapping[str, list[str]]:
    """Tags and labels of the first rows, to choose from while typing."""
    first = [rows[position] for position in range(min(SAMPLE, len(rows)))]
    tags = {f"{key}={value}" for row in first for key, value in row.tags.items()}
    labels = {row.label for row in first if row.label}
    return {"tags": sorted(tags)[:SAMPLE], "labels": sorted(labels)[:SAMPLE]}


def whole_text(example: Example) -> dict[str, Any]:
    """The parts of a row as they are, with their names, and how long all of it is."""
    if example.messages is not None:
        parts = [(message.role, message.content) for message in example.messages]
    elif example.text is not None:
        parts = [("text", example.text)]
    else:
        parts = [("prompt", example.prompt or ""), ("completion", example.completion or "")]
    return {"parts": parts, "characters": len(example_text(example))}
