"""Threads that write to a server until it is gone, and note what it acknowledged."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx

from tests.app.crashing.ledger import Ledger

WORDS = "the cat sat on a mat while two dogs ran past an old red barn and one bird sang".split()
BUILD = {"shard_rows": 3, "curvature_rows": 48, "token_budget": 120}
EVALUATION: dict[str, Any] = {
    "rows": 4, "half_subsets": 4, "half_seeds": 1, "drop_subsets": 0, "leave_out_queries": 0, "leave_out_rows": 1,
    "directions": 0, "canaries": 0,
}  # fmt: skip
KEPT_BUILDS = 3  # more are deleted again
_numbers = count()


@dataclass
class World:
    """What was there before the first kill."""

    model: str
    dataset: str
    index: str


def write_until_gone(address: str, world: World, ledger: Ledger, seed: int) -> list[threading.Thread]:
    """Started threads; each ends with the server."""
    kinds: Sequence[Callable[[Writer], None]] = (upload, build, ask, ask_later, evaluate, move_alias)
    threads = []
    for number, kind in enumerate(kinds):
        writer = Writer(address, world, ledger, random.Random(f"{seed} {number}"))
        threads.append(threading.Thread(target=writer.run, args=(kind,), name=kind.__name__, daemon=True))
        threads[-1].start()
    return threads


class Writer:
    def __init__(self, address: str, world: World, ledger: Ledger, dice: random.Random) -> None:
        self.client = httpx.Client(base_url=address, timeout=60)
        self.world, self.ledger, self.dice = world, ledger, dice

    def run(self, write: Callable[[Writer], None]) -> None:
        with self.client:
            while True:
                try:
                    write(self)
                except httpx.TransportError:
                    return

    def sent(self, method: str, path: str, **given: Any) -> httpx.Response:
        """Answers that are neither a success nor a refusal are defects: they are noted as lost."""
        response = self.client.request(method, path, **given)
        if response.status_code >= 500:
            self.ledger.lost.append(f"{method} {path}: {response.status_code} {response.text[:300]}")
        return response

    def words(self, number: int) -> str:
        return " ".join(self.dice.choices(WORDS, k=number))

    def forget(self, path: str) -> None:
        self.ledger.going(path)
        if self.sent("DELETE", path).status_code == 204:
            self.ledger.went(path)
        else:
            self.ledger.kept(path)


def upload(writer: Writer) -> None:
    """Some are loaded in the request, some by a job; some are deleted again."""
    size = writer.dice.choice((3, 8, 60))
    rows = [{"id": f"{next(_numbers)}", "text": writer.words(6)} for _ in range(size)]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    response = writer.sent(
        "POST", "/v1/datasets", data={"name": f"set {size}"}, files={"file": ("rows.jsonl", content)}
    )
    if response.status_code in (201, 202):
        made = response.json()
        known = {"rows": size, "sha256": made["sha256"]} if response.status_code == 201 else {}
        writer.ledger.add("uploads", f"/v1/datasets/{made['id']}", {"name": made["name"]} | known, end="ready")
    if writer.dice.random() < 0.3:
        known_ready = [e for e in writer.ledger.present("/v1/datasets/") if e.shown.get("sha256")]
        if known_ready:
            writer.forget(writer.dice.choice(known_ready).path)
    time.sleep(0.02)


def build(writer: Writer) -> None:
    body = {"model": writer.world.model, "dataset": writer.world.dataset, "options": BUILD}
    response = writer.sent("POST", "/v1/indexes", json=body)
    if response.status_code == 202:
        path = f"/v1/indexes/{response.json()['id']}"
        writer.ledger.add("builds", path, {"dataset": writer.world.dataset}, end="ready")
        _wait(writer, path, ("ready", "failed"))
    built = writer.ledger.present("/v1/indexes/")
    if len(built) > KEPT_BUILDS:
        writer.forget(built[0].path)


def ask(writer: Writer) -> None:
    body = {"model": writer.world.model, "index": writer.world.index, "prompt": writer.words(3), "completion": " cat"}
    response = writer.sent("POST", "/v1/attributions", json=body, headers={"Cache-Control": "no-cache"})
    if response.status_code == 200:
        answer = response.json()
        shown = {name: answer[name] for name in ("id", "proponents", "opponents", "revision", "created_at")}
        writer.ledger.add("attributions", f"/v1/attributions/{answer['id']}", shown)
    time.sleep(0.02)


def ask_later(writer: Writer) -> None:
    body = {"model": writer.world.model, "index": writer.world.index, "prompt": writer.words(4), "completion": " dog"}
    response = writer.sent("POST", "/v1/attributions", json=body, headers={"Prefer": "respond-async"})
    if response.status_code == 202:
        made = response.json()
        path = f"/v1/attributions/{made['id']}"
        writer.ledger.add("asked for later", path, {"id": made["id"]}, end="succeeded")
    time.sleep(0.3)


def evaluate(writer: Writer) -> None:
    """One at a time, over all rounds: each retrains."""
    for earlier in writer.ledger.present("/v1/evaluations/"):
        _wait(writer, earlier.path, ("ready", "failed"))
    response = writer.sent(
        "POST", "/v1/evaluations", json={"index": writer.world.index, "seed": next(_numbers) % 1000} | EVALUATION
    )
    if response.status_code == 202:
        path = f"/v1/evaluations/{response.json()['id']}"
        writer.ledger.add("evaluations", path, {"index": writer.world.index}, end="ready")
    time.sleep(0.1)


def move_alias(writer: Writer) -> None:
    ready = [writer.world.index, *(e.path.rpartition("/")[2] for e in writer.ledger.present("/v1/indexes/"))]
    target = writer.dice.choice(ready)
    writer.ledger.point("prod", target, acknowledged=False)
    response = writer.sent("PUT", "/v1/aliases/prod", json={"index": target})
    if response.is_success:
        writer.ledger.point("prod", target, acknowledged=True)
    else:
        writer.ledger.aliases["prod"].remove(target)  # not ready, or deleted a moment ago
    time.sleep(0.2)


def _wait(writer: Writer, path: str, states: Sequence[str]) -> None:
    while (found := writer.sent("GET", path)).status_code == 200 and found.json()["state"] not in states:
        time.sleep(0.1)
