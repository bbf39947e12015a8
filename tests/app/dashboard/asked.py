"""A service that can be asked, and its form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastapi.testclient import TestClient

from tests.app.resources import add_dataset, add_index, add_model, wait_for_index

HTMX = {"HX-Request": "true"}
ROWS = [
    {"id": "fact-1", "prompt": "Where is the harbour?", "completion": " In Halvern.", "tags": {"task": "facts"}},
    {"id": "odd", "prompt": "<script>alert(1)</script>", "completion": "<img src=x onerror=alert(2)>"},
    {"id": "=cmd|' /C calc'!A0", "text": "@SUM(1) is nothing of the kind.", "tags": {"task": "<b>odd</b>"}},
]


@dataclass(frozen=True)
class Asked:
    index: str

    def form(self, **changes: str) -> dict[str, str]:
        fields = {"prompt": "Where is the harbour?", "completion": " In Halvern.", "top_k": "3"}
        return {"index": self.index} | fields | changes

    def answer(self, client: TestClient, **changes: str) -> str:
        """The id of the answer to the form."""
        sent = client.post("/ui/ask", data=self.form(**changes), follow_redirects=False)
        assert sent.status_code == 303, sent.text
        return sent.headers["location"].rpartition("/")[2]


def ready_to_ask(client: TestClient, model_dir: Path) -> Asked:
    model, dataset = add_model(client, model_dir, "harbour-bot"), add_dataset(client, ROWS)
    return Asked(wait_for_index(client, add_index(client, model["id"], dataset["id"])["id"])["id"])
