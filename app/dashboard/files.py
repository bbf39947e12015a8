"""The style sheets, scripts and icons of the pages, read once. An address changes with what lies there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "static"
# A page asks for one sheet: what every page shares, and what its area adds to that.
SHEETS = (
    "whence+asking.css",
    "whence+browsing.css",
    "whence+running.css",
    "whence+trust.css",
    "whence+trust+running.css",
)
# Of what lies here; a machine's own table may say otherwise. Licences are texts.
MEDIA_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@dataclass(frozen=True)
class File:
    content: bytes
    media_type: str
    version: str


def _file(name: str, content: bytes) -> File:
    media_type = MEDIA_TYPES.get(name.rpartition(".")[2], "text/plain")
    return File(content, media_type, hashlib.sha256(content).hexdigest()[:16])


def _read() -> dict[str, File]:
    found = {path.relative_to(FOLDER).as_posix(): path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()}
    for sheet in SHEETS:
        parts = sheet.removesuffix(".css").split("+")
        found[sheet] = b"".join(found[f"{part}.css"] for part in parts)
    return {name: _file(name, content) for name, content in found.items()}


FILES = _read()


def static(name: str) -> str:
    """The address of a file, with its version: what a browser has kept of it is never out of date."""
    return f"/ui/static/{name}?v={FILES[name].version}"
