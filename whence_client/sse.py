"""Server-sent events from bytes: the parser of the HTML standard, without IO."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

_LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True)
class ServerEvent:
    event: str
    data: str
    id: str | None


class EventParser:
    """Feed it chunks cut anywhere; it returns the events they complete. Comments are dropped."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._buffer = ""
        self._event = ""
        self._data: list[str] = []
        self._id: str | None = None

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        self._buffer += self._decode(chunk)
        # A trailing CR may be the first half of a CRLF: keep it until the next chunk tells.
        held = "\r" if self._buffer.endswith("\r") else ""
        *lines, rest = _LINE_END.split(self._buffer.removesuffix(held) if held else self._buffer)
        self._buffer = rest + held
        return [event for line in lines if (event := self._line(line)) is not None]

    def _line(self, line: str) -> ServerEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        return None

    def _dispatch(self) -> ServerEvent | None:
        event = ServerEvent(self._event or "message", "\n".join(self._data), self._id) if self._data else None
        self._event, self._data = "", []
        return event
