"""kill -9 of the real server in the middle of an evaluation: the next one goes on with it, to the same scorecard."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from app.engine_client import LocalEngine
from app.main import create_app
from tests import factories
from tests.app.conftest import make_settings, wait_for
from tests.app.resources import add_dataset, add_index, add_model, wait_for_index
from tests.engine.evaluate.evaluated_world import ROWS
from tests.engine.evaluate.killed_evaluation import (
    EPOCHS,
    Runs,
    check_none_is_left_behind,
    check_nothing_was_made_again,
    heard_variants,
    machine,
    make_world,
    runs_in,
)

ROOT = Path(__file__).resolve().parents[2]
SERVE = """
import sys
from pathlib import Path
from app.server import Server
from app.settings import Settings
from tests.engine.evaluate.killed_evaluation import machine
home, roots, cores = Path(sys.argv[1]), (Path(sys.argv[2]),), int(sys.argv[3])
settings = Settings(home=home, port=0, poll_seconds=0.05, device="cpu", model_roots=roots)
with machine(cores):
    Server(settings, on_listening=lambda url: print(url, flush=True)).run()
"""
PATIENCE_SECONDS = 200.0  # training processes load torch first, each
BODY: dict[str, Any] = {
    "rows": 8, "half_subsets": 8, "half_seeds": 2, "drop_subsets": 6, "drop_share": 0.1, "leave_out_queries": 2,
    "leave_out_rows": 2, "leave_out_draws": 2, "directions": 2,
}  # fmt: skip


@dataclass
class Home:
    """A home whose index is ready, and the servers that were started on it, one after the other."""

    root: Path
    index: str
    evaluation: str = ""
    groups: list[int] = field(default_factory=list)

    @property
    def work(self) -> Path:
        return self.root / "home/evaluations" / self.evaluation

    @contextmanager
    def served(self, cores: int = 1) -> Iterator[httpx.Client]:
        """By a server in a group of its own, which its training processes are in."""
        command = [sys.executable, "-c", SERVE, str(self.root / "home"), str(self.root), str(cores)]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.groups.append(process.pid)
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address, "the server did not start"
            with httpx.Client(base_url=address, timeout=60) as client:
                yield client
        finally:
            process.kill()
            process.wait()

    def killed_at(self, pattern: str, count: int, *, whole: bool = True, cores: int = 1) -> Runs:
        """What was finished when the server was killed, `count` files of `pattern` being there."""
        with self.served(cores) as client:
            if not self.evaluation:
                made = client.post("/v1/evaluations", json={"index": self.index} | BODY)
                assert made.status_code == 202, made.text
                self.evaluation = made.json()["id"]
            self._wait_for_files(client, pattern, count)
            (os.killpg if whole else os.kill)(self.groups[-1], signal.SIGKILL)
        return runs_in(self.work)

    def _wait_for_files(self, client: httpx.Client, pattern: str, count: int) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(list(self.work.glob(pattern))) < count and time.monotonic() < deadline:
            time.sleep(0.005)
        shown = client.get(f"/v1/evaluations/{self.evaluation}").json()
        assert (shown["state"], time.monotonic() < deadline) == ("running", True), shown

    def to_the_end(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The evaluation and its job; nobody asks the server to go on with it."""

        def ended() -> dict[str, Any] | None:
            shown = client.get(f"/v1/evaluations/{self.evaluation}").json()
            return shown if shown["state"] in ("ready", "failed") else None

        with self.served() as client:
            shown = wait_for(ended, "the evaluation's end", PATIENCE_SECONDS)
            return shown, client.get(f"/v1/jobs/{shown['job_id']}").json()


@contextmanager
def in_process(root: Path, home: str) -> Iterator[TestClient]:
    with TestClient(create_app(make_settings(root, home=root / home), LocalEngine(device="cpu"))) as client:
        yield client


def make_home(root: Path) -> Home:
    make_world(root)
    epochs = [str(root / f"run/epoch-{epoch}") for epoch in (EPOCHS - 1, EPOCHS)]
    with in_process(root, "home") as client:
        model = add_model(client, root / "base", checkpoints=epochs)
        dataset = add_dataset(client, factories.sentences(ROWS, seed=3, longest=3))
        index = wait_for_index(client, add_index(client, model["id"], dataset["id"], method="graddot")["id"])
    return Home(root, index["id"])


def undisturbed(root: Path, home: str, index: str) -> dict[str, Any]:
    with machine(1), in_process(root, home) as client:
        made = client.post("/v1/evaluations", json={"index": index} | BODY).json()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while client.get(f"/v1/jobs/{made['job_id']}").json()["state"] != "succeeded":
            assert time.monotonic() < deadline, "the undisturbed evaluation did not end"
            time.sleep(0.5)  # seldom: whoever asks and whoever trains share one interpreter
        return client.get(f"/v1/evaluations/{made['id']}").json()


def timeless(shown: dict[str, Any]) -> dict[str, Any]:
    return shown["scorecard"] | {"seconds": 0.0}


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_servers_evaluation_goes_on_by_itself_to_the_same_scorecard(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    shutil.copytree(tmp_path / "home", tmp_path / "straight")
    with heard_variants() as variants:
        expected = undisturbed(tmp_path, "straight", home.index)
    kills = [
        home.killed_at("scores/*.npz", 2),
        home.killed_at("retrainings/runs/*.json", 4, whole=False, cores=2),
        home.killed_at("retrainings/runs/*.json", 17),
    ]
    found, job = home.to_the_end()
    assert (found["state"], job["state"], job["attempt"]) == ("ready", "succeeded", len(kills) + 1), job
    check_none_is_left_behind(home.groups)
    assert [bool(kill) for kill in kills] == [False, True, True] and len(kills[2]) < found["retrainings"]
    assert timeless(found) == timeless(expected)
    check_nothing_was_made_again(kills, variants, runs_in(home.work))
