"""Line breaks and terminal sequences in what is logged: a line is one event of this server, and steers no terminal."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from app.telemetry.logs import escaped
from engine.errors import CorruptIndex
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.live import serving
from tests.app.resources import jsonl
from tests.security.hostile import exchange

FORGED = "2026-11-21T00:00:00Z [info     ] FORGED key_id=key_admin"
TEXT = f"a\r\n{FORGED}\x1b[2J\x1b]0;title\x07\u2028{FORGED}\x9b31m"


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_what_callers_send_begins_no_line(tmp_path: Path, log_format: str, capfd: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    # what an error of the engine may quote: a path, a row, a library's message
    engine.errors["describe_model"] = CorruptIndex(f"The file {TEXT} is damaged.")
    settings = make_settings(tmp_path, log_level="debug", log_format=log_format)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with serving(settings, engine) as address:
        with httpx.Client(base_url=address) as client:
            assert client.post("/v1/models", json={"name": TEXT, "base": "model"}).status_code == 500
            engine.errors["describe_model"] = RuntimeError(TEXT)
            assert client.post("/v1/models", json={"name": TEXT, "base": "model"}).status_code == 500
            engine.errors.clear()
            model = client.post("/v1/models", json={"name": TEXT, "base": "model"}).json()["id"]
            files = {"file": ("rows.jsonl", jsonl())}
            dataset = client.post("/v1/datasets", data={"name": TEXT}, files=files).json()["id"]
            engine.errors["build_index"] = RuntimeError(TEXT)
            client.post("/v1/indexes", json={"model": model, "dataset": dataset, "name": TEXT})
            client.get("/v1/models/a%0d%0a" + FORGED.replace(" ", "%20") + "%1b%5b2J")
            client.get("/v1/models", params={"name": TEXT, "cursor": TEXT})
        for line in (
            b"GET /a\x1b[2J HTTP/1.1",
            b"G\x1b[2J /livez HTTP/1.1",
            b"GET /livez HTTP/1.1\r\nX-Request-ID: \x1b[2J",
        ):
            exchange(address, line + b"\r\nHost: localhost\r\nUser-Agent: a\x1b[2J\r\nConnection: close\r\n\r\n")
    written = "".join(capfd.readouterr())
    assert "FORGED" in written, "some of it is logged, in another form"
    assert not [line for line in written.splitlines() if line.strip().startswith(FORGED)]
    assert not [character for character in written if character in "\x1b\x07\x9b\u2028\r"]


def test_what_is_escaped_can_be_read_back() -> None:
    assert escaped("a\r\n\x1b[0m\u2028é😀\t") == "a\\r\\n\\x1b[0m\\u2028é😀\\t"
    assert escaped(TEXT).encode().decode("unicode_escape") == TEXT


def test_the_terminal_of_the_commands_is_not_steered() -> None:
    """Rows, prompts and names are printed by `whence ask`, `whence jobs`, …"""
    from app.commands.console import clean, one_line, table

    assert clean(TEXT).plain == TEXT.replace("\r", "�").replace("\x1b", "�").replace("\x07", "�").replace("\x9b", "�")
    assert "\n" not in one_line(TEXT).plain and "\x1b" not in one_line(TEXT).plain
    assert table("t", ["a"], [[TEXT]]).row_count == 1
