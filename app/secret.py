"""The server's secret: what the digests of API keys and the signatures of sessions are made with."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from app.errors import FilesDamaged
from app.homelock import create_home
from app.settings import Settings

FILE = "secret"
SHORTEST = 32  # bytes
REMEDY = "Restore it from a backup; or remove it and make every API key anew (`whence keys create`)."


def server_secret(settings: Settings) -> bytes:
    """`WHENCE_SECRET`, or what lies in `<home>/secret`, made at its first use.

    Servers of one database need the same: share the home, or set WHENCE_SECRET on each. With another secret no key of
    the database is known.
    """
    if settings.secret is not None:
        return settings.secret.get_secret_value().encode()
    path = settings.home / FILE
    try:
        return _read(path)
    except FileNotFoundError:
        create_home(settings.home)
        _make(path)
        return _read(path)


def _read(path: Path) -> bytes:
    """One that was cut off is refused: what it made could be guessed, and knows no key of the database."""
    found = path.read_bytes()
    if len(found) < SHORTEST:
        raise FilesDamaged(f"The file {path} is damaged: it holds {len(found)} bytes.", remedy=REMEDY)
    return found


def _make(path: Path) -> None:
    """Whole or not at all: of two processes that make it at once, one wins and both read the same."""
    draft = path.with_name(f".{FILE}-{secrets.token_hex(8)}")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(file, secrets.token_hex(32).encode())
        os.fsync(file)
    finally:
        os.close(file)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
