"""Numbers, moments and texts as people read them; the templates' filters."""

from __future__ import annotations

from datetime import UTC, datetime

SHORT = 160
_SIZES = ("B", "kB", "MB", "GB", "TB")


def shorten(text: str, limit: int = SHORT) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def moment(value: datetime | str | None) -> str:
    if value is None:
        return "–"
    then = datetime.fromisoformat(value) if isinstance(value, str) else value
    return then.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def size(count: int | float | None) -> str:
    """Bytes, in powers of 1,000."""
    if count is None:
        return "–"
    value, unit = float(count), 0
    while value >= 1000 and unit < len(_SIZES) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:,.0f} {_SIZES[unit]}" if unit == 0 or value >= 100 else f"{value:,.1f} {_SIZES[unit]}"


def count(value: int | float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def share(value: float | None) -> str:
    """A fraction as a percentage."""
    return "–" if value is None else f"{value:.1%}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
