"""One round after the other: serve, write, kill -9; serve again, and look for everything that was acknowledged."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from fastapi.testclient import TestClient

from app.engine_client import LocalEngine
from app.main import create_app
from engine.causal.train import train_lora
from tests import factories
from tests.app.conftest import make_settings
from tests.app.crashing.ledger import Entry, Ledger
from tests.app.crashing.writers import BUILD, World, write_until_gone
from tests.app.resources import add_dataset, add_index, add_model, wait_for_index
from tests.engine.contract_world import digests
from tests.engine.evaluate.evaluated_world import TRAINING

ROOT = Path(__file__).resolve().parents[3]
SERVE = """
import sys
from pathlib import Path
from app.server import Server
from app.settings import Settings
settings = Settings(
    home=Path(sys.argv[1]), port=0, poll_seconds=0.05, device="cpu", model_roots=(Path(sys.argv[2]),),
    max_inline_rows_bytes=1000, log_level="error", rate_per_minute=0, max_jobs_per_tenant=10_000,
    max_attempts_without_progress=1000,  # it is we who kill: no job is to be given up for that
)
Server(settings, on_listening=lambda url: print(url, flush=True)).run()
"""
ROWS = 60
SLOWEST_END_SECONDS = 300.0
Say = Callable[[str], None]


def prepare(root: Path) -> World:
    """A tiny fine-tune with its recipe, its rows, and an index of it that is ready."""
    factories.save_base(root / "base", factories.llama(hidden=8, layers=1))
    rows = factories.sentences(ROWS, seed=3, longest=8)
    trained = train_lora(root / "base", list(factories.dataset(root / "data", rows)), root / "run", TRAINING)
    checkpoints = [str(path) for path in trained.checkpoints]
    settings = make_settings(root, home=root / "home")
    with TestClient(create_app(settings, LocalEngine(device="cpu"))) as client:
        model = add_model(client, root / "base", checkpoints=checkpoints)
        dataset = add_dataset(client, rows)
        index = wait_for_index(client, add_index(client, model["id"], dataset["id"], options=BUILD)["id"], seconds=60)
    return World(model["id"], dataset["id"], index["id"])


@contextmanager
def served(root: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-c", SERVE, str(root / "home"), str(root)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "the server did not start"
        yield process, address
    finally:
        _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    """The server and the training processes that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(root: Path, kills: int, seed: int, say: Say) -> Ledger:
    """Raises AssertionError at the first thing that is lost, or that doctor finds wrong."""
    world, ledger, dice = prepare(root), Ledger(), random.Random(seed)
    for number in range(kills):
        with served(root) as (process, address):
            threads = write_until_gone(address, world, ledger, seed * 1000 + number)
            moment = dice.uniform(0.3, 8.0)
            time.sleep(moment)
            _kill(process)
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), f"{thread.name} did not end with the server"
        with served(root) as (_, address), httpx.Client(base_url=address, timeout=60) as client:
            look(client, ledger)
            doctor(root)
        say(f"kill {number + 1} of {kills}, {moment:.1f} s in: {sum(ledger.counts.values())} acknowledged so far")
    settle(root, world, ledger)
    return ledger


def look(client: httpx.Client, ledger: Ledger) -> None:
    """Everything acknowledged is there, and as it was."""
    wrong = [found for entry in ledger.all() if (found := _wrong(client, entry))]
    for alias, targets in ledger.aliases.items():
        response = client.get(f"/v1/aliases/{alias}")
        pointed = response.json()["index"] if response.status_code == 200 else ""
        if pointed not in targets:
            wrong.append(f"alias {alias} points to '{pointed}', not to one of {targets}")
        else:
            ledger.aliases[alias] = [pointed]
    assert not (wrong + ledger.lost), "\n".join(wrong + ledger.lost)


def _wrong(client: httpx.Client, entry: Entry) -> str | None:
    response = client.get(entry.path)
    if response.status_code == 404:
        if entry.asked_to_go:
            entry.gone = True
        return None if entry.gone else f"{entry.path} is lost"
    if response.status_code != 200:
        return f"{entry.path}: {response.status_code} {response.text[:300]}"
    if entry.gone:
        return f"{entry.path} was deleted, and is back"
    entry.asked_to_go = False  # its deletion never happened
    found = response.json()
    changed = {name: (value, found[name]) for name, value in entry.shown.items() if found[name] != value}
    if changed:
        return f"{entry.path} has changed: {changed}"
    if entry.end and found["state"] == "failed":
        return f"{entry.path} failed: {found['error']}"
    return None


def doctor(root: Path) -> None:
    environment = os.environ | {"WHENCE_HOME": str(root / "home")}
    command = [sys.executable, "-m", "app.cli", "doctor", "--json"]
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, f"doctor: {found.stdout}{found.stderr}"


def settle(root: Path, world: World, ledger: Ledger) -> None:
    """What was under way at the last kill ends by itself, and every index is byte for byte what it would have been."""
    expected = digests(root / "home/indexes" / world.index)
    with served(root) as (_, address), httpx.Client(base_url=address, timeout=60) as client:
        deadline = time.monotonic() + SLOWEST_END_SECONDS
        while (open_ := _unended(client, ledger)) and time.monotonic() < deadline:
            time.sleep(0.5)
        assert not open_, f"did not end: {open_}"
        look(client, ledger)
        jobs = _all(client, "/v1/jobs")
        assert {job["state"] for job in jobs} <= {"succeeded"}, [job for job in jobs if job["state"] != "succeeded"]
        doctor(root)
        ledger.counts["jobs taken up again"] = sum(job["attempt"] > 1 for job in jobs)
    for entry in ledger.present("/v1/indexes/"):
        assert digests(root / "home/indexes" / entry.path.rpartition("/")[2]) == expected, entry.path


def _unended(client: httpx.Client, ledger: Ledger) -> list[str]:
    return [
        entry.path
        for entry in ledger.all()
        if entry.end and not entry.gone and client.get(entry.path).json()["state"] != entry.end
    ]


def _all(client: httpx.Client, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = client.get(path, params={"limit": 200} | ({"cursor": cursor} if cursor else {})).json()
        found += page["data"]
        if (cursor := page["next_cursor"]) is None:
            return found
