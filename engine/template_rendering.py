"""Text from chat templates, made by template_process.py: one process for all of them, started with the first."""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Any

from engine import template_process
from engine.template_process import Bounds

# Templates take milliseconds. What a text may hold at most is many times the largest row.
CPU_SECONDS = 2
WALL_SECONDS = 60.0  # a machine may be busy: this only ends a process that neither works nor answers
MEMORY_BYTES = 512 << 20
CHARACTERS = 32 << 20


class TemplateRefused(Exception):
    """Says why in one line."""


class TemplateRenderer:
    """Threads take turns. A process that a template brought down is replaced at the next text."""

    def __init__(self) -> None:
        self._turn = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0  # a forked process must not talk through its parent's pipes

    def render(
        self,
        template: str,
        messages: Sequence[Mapping[str, str]],
        variables: Mapping[str, Any],
        *,
        add_generation_prompt: bool = False,
    ) -> str:
        """Raises TemplateRefused."""
        request = {"template": template, "messages": list(messages), "variables": dict(variables)}
        line = json.dumps(request | {"add_generation_prompt": add_generation_prompt}, default=str).encode() + b"\n"
        with self._turn:
            try:
                answer = self._exchange(line)
            except BrokenPipeError:  # it was ended between two texts, by a signal from a terminal perhaps
                self._end()
                answer = self._exchange(line)
        if "text" not in answer:
            raise TemplateRefused(answer["refused"])
        return answer["text"]

    def close(self) -> None:
        with self._turn:
            self._end()

    def _exchange(self, line: bytes) -> dict[str, str]:
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(line)
        process.stdin.flush()
        answer = _read_line(process.stdout.fileno(), WALL_SECONDS)
        if answer is not None:
            return json.loads(answer)
        self._end()
        return {"refused": f"it takes more than {CPU_SECONDS} seconds, or more memory than it may have"}

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self._process, self._owner = _started(), os.getpid()
        return self._process

    def _end(self) -> None:
        if self._process is None or self._owner != os.getpid():
            return
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        self._process.wait()
        self._process = None


def _started() -> subprocess.Popen[bytes]:
    bounds = Bounds(path=sys.path, memory_bytes=MEMORY_BYTES, cpu_seconds=CPU_SECONDS, characters=CHARACTERS)
    return subprocess.Popen(
        [sys.executable, "-I", str(Path(template_process.__file__)), json.dumps(asdict(bounds))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(),
        start_new_session=True,  # Ctrl-C is for the server, which ends it by closing its stdin
    )


def _environment() -> dict[str, str]:
    """One thread, no network, and none of the service's secrets."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WHENCE_")}
    return kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "HF_HUB_OFFLINE": "1"}


def _read_line(source: int, seconds: float) -> bytes | None:
    """None: it ended, or did not come in time."""
    found, deadline, waiting = bytearray(), time.monotonic() + seconds, select.poll()
    waiting.register(source, select.POLLIN)
    while not found.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not waiting.poll(left * 1000):
            return None
        piece = os.read(source, 1 << 20)
        if not piece:
            return None
        found += piece
    return bytes(found)


RENDERER = TemplateRenderer()
atexit.register(RENDERER.close)
