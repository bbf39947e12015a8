"""What the commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

out = Console()
err = Console(stderr=True)

# Training data is printed to terminals: without this a row could carry escape sequences into them.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def print_json(value: Any) -> None:
    """One JSON document, for `--json`."""
    typer.echo(json.dumps(plain(value), ensure_ascii=False, indent=2))


def print_json_line(value: Any) -> None:
    typer.echo(json.dumps(plain(value), ensure_ascii=False))


def plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def clean(value: object, limit: int | None = None) -> Text:
    """Text from elsewhere, safe to print: no markup, no control characters, cut at `limit`."""
    text = "" if value is None else _CONTROL.sub("�", str(value))
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    return Text(text)


def one_line(value: object, limit: int = 200) -> Text:
    return clean(" ".join(str("" if value is None else value).split()), limit)


_IDS = ("id", "index")


def table(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Columns whose name begins with '>' are right-aligned numbers."""
    made = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    rows = list(rows)
    for place, column in enumerate(columns):
        # Numbers and ids are read or copied whole: other columns give way to them.
        is_id = column in _IDS
        whole = column.startswith(">") or is_id
        overflow = "ignore" if is_id else "ellipsis"
        width = max((len(str(row[place])) for row in rows), default=2) if is_id else None
        made.add_column(
            column.lstrip(">"),
            justify="right" if column.startswith(">") else "left",
            no_wrap=whole,
            overflow=overflow,
            min_width=width,
        )
    for row in rows:
        made.add_row(*[cell if isinstance(cell, Text) else one_line(cell) for cell in row])
    return made


def facts(pairs: Iterable[tuple[str, object]]) -> Table:
    """Names and values, one pair a line; values that are None are left out."""
    made = Table(box=None, show_header=False, pad_edge=False)
    made.add_column(style="dim")
    made.add_column(overflow="fold")
    for name, value in pairs:
        if value is not None:
            made.add_row(name, value if isinstance(value, Text) else clean(value))
    return made


def warn(message: str) -> None:
    err.print(Text("warning: ", style="yellow") + clean(message), soft_wrap=True)


def fail(message: str) -> None:
    """One line, whatever the message held."""
    err.print(Text("error: ", style="bold red") + clean(" ".join(message.split())), soft_wrap=True)


def when(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M")


def count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def size(value: int | None) -> str:
    """Bytes as people read them: 1,536 → "1.5 KB"."""
    if value is None:
        return ""
    amount, unit = float(value), "B"
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
