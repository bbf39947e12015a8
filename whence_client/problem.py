"""RFC 9457 problem details, as Whence sends them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class FieldError(BaseModel):
    """`pointer` is a JSON pointer into the request's body."""

    model_config = ConfigDict(extra="allow")

    pointer: str | None = None
    message: str = ""


class Problem(BaseModel):
    """Cause (`title`, `detail`, `errors`) and remedy of a refused request or a failed job."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str = "Error"
    status: int = 0
    detail: str | None = None
    instance: str | None = None
    request_id: str | None = None
    errors: list[FieldError] = []
    remedy: str | None = None

    def __str__(self) -> str:
        """One line: title: detail (where: what) — remedy. Nothing is said twice."""
        detail = self.detail or ""
        line = detail if detail.startswith(self.title) else ": ".join(part for part in (self.title, detail) if part)
        line = line.removesuffix(".")
        told = [f"{e.pointer or 'request'}: {e.message}" for e in self.errors if e.message and e.message not in detail]
        line += f" ({'; '.join(told)})" if told else ""
        return " ".join((f"{line} — {self.remedy}" if self.remedy else line).split())
