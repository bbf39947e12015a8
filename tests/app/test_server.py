"""A real server process: one a home, takes over what a killed one left, leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from app.database import Database
from app.homelock import HomeInUse, HomeLock
from app.jobs.service import JobsService
from app.tables import JobRow
from tests.app.conftest import make_settings, wait_for

ROOT = Path(__file__).resolve().parents[2]
# As `whence serve` does it. A job of kind `test` says when it runs, and ends when the file `go` exists.
SERVE = """
import sys, time
from pathlib import Path
from app.homelock import HomeInUse
from app.jobs.contract import Done, Handler
from app.server import Server
from app.settings import Settings
from engine.types import Progress
import app.main

home = Path(sys.argv[1])

def run(context):
    (home / f"attempt-{context.attempt}").touch()
    while not (home / "go").exists():
        context.checkpoint(Progress(0, 1, "rows", "waiting"))
        time.sleep(0.01)
    return Done({"attempt": context.attempt})

handlers_of = app.main.handlers_of
app.main.handlers_of = lambda services: handlers_of(services) | {"test": Handler(run, lambda *_: None)}
try:
    Server(Settings(home=home, port=0, poll_seconds=0.05), on_listening=lambda url: print(url, flush=True)).run()
except HomeInUse as error:
    sys.exit(f"whence: {error}")
"""


@contextmanager
def server(home: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running server process and its address."""
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(home)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        yield process, address
    finally:
        process.kill()
        process.wait()


def test_a_second_lock_on_one_home_is_refused_in_one_line(tmp_path: Path) -> None:
    first, second = HomeLock(tmp_path), HomeLock(tmp_path)
    first.acquire()
    with pytest.raises(HomeInUse) as refused:
        second.acquire()
    message = str(refused.value)
    assert str(tmp_path) in message and str(os.getpid()) in message and "\n" not in message
    first.release()
    second.acquire()
    second.release()


def test_a_second_server_on_one_home_refuses_in_one_line(tmp_path: Path) -> None:
    with server(tmp_path) as (first, address):
        second = subprocess.run([sys.executable, "-c", SERVE, tmp_path], cwd=ROOT, capture_output=True, text=True)
        assert second.returncode == 1
        assert second.stderr.count("\n") == 1
        assert str(tmp_path) in second.stderr and str(first.pid) in second.stderr
        assert httpx.get(f"{address}/livez").status_code == 200


def test_a_killed_servers_job_goes_on_at_once_in_the_next(tmp_path: Path) -> None:
    database = Database(make_settings(tmp_path, home=tmp_path).database)
    with server(tmp_path) as (killed, _address):
        with database.write() as session:
            job_id = JobsService(session, "default").enqueue("test", {}).id
        wait_for((tmp_path / "attempt-1").exists, "the first attempt")
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    (tmp_path / "go").touch()
    began = time.monotonic()
    with server(tmp_path) as (_process, address):
        wait_for(lambda: httpx.get(f"{address}/v1/jobs/{job_id}").json()["state"] == "succeeded", "the second attempt")
    assert time.monotonic() - began < 30  # not after the lease of 60 s
    with database.read() as session:
        assert session.get_one(JobRow, job_id).result == {"attempt": 2}
    database.close()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_stopped_server_ends_its_streams_and_keeps_its_jobs(tmp_path: Path, stop: signal.Signals) -> None:
    database = Database(make_settings(tmp_path, home=tmp_path).database)
    with server(tmp_path) as (process, address):
        with database.write() as session:
            job_id = JobsService(session, "default").enqueue("test", {}).id
        wait_for((tmp_path / "attempt-1").exists, "the first attempt")
        heard: list[str] = []

        def listen() -> None:
            with httpx.stream(
                "GET", f"{address}/v1/jobs/{job_id}/events", headers={"Accept": "text/event-stream"}
            ) as got:
                for line in got.iter_lines():
                    heard.append(line)

        listener = threading.Thread(target=listen)
        listener.start()
        wait_for(lambda: "event: state" in heard, "the first event")
        process.send_signal(stop)
        process.wait(timeout=4)  # less than the grace that would cut the stream off
        listener.join(5)
        assert not listener.is_alive()
        assert "event: state" in heard
    with database.read() as session:
        assert session.get_one(JobRow, job_id).state == "queued"
    database.close()
