"""What the tests of the browsing pages share."""

from __future__ import annotations

import html
import re
from typing import Any

from fastapi.testclient import TestClient

HTMX = {"HX-Request": "true"}
EVIL = '<script>alert("x")</script>'
HOSTILE: list[dict[str, Any]] = [
    {"id": EVIL, "prompt": EVIL, "completion": EVIL, "tags": {EVIL: EVIL}, "label": EVIL},
    {"messages": [{"role": EVIL, "content": EVIL}, {"role": "assistant", "content": EVIL}]},
]


def text_of(page: str) -> str:
    """What a reader sees."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def ids_in(page: str) -> list[str]:
    return re.findall(r"<code>([\w-]+)</code>", page.split('id="rows"')[1].split('id="indexes-title"')[0])


def sent(client: TestClient, path: str, **fields: str) -> Any:
    return client.post(path, data=fields, follow_redirects=False)


def upload(client: TestClient, content: bytes, filename: str = "rows.jsonl", **fields: str) -> Any:
    files = {"file": (filename, content)}
    return client.post("/ui/datasets", data={"name": "train"} | fields, files=files, follow_redirects=False)
