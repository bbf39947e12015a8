"""Renders chat templates in a process of its own: a template is a program, and who registers a model wrote it.

Transformers' sandbox keeps a template from Python's inside, but not from looping for ever or from building a text of
100 GB. So time and memory are bounded from outside, and what got out of the sandbox could write no file.

Run by template_rendering.py as a script with one argument, its `Bounds` as JSON. Reads one request a line from stdin
({template, messages, variables, add_generation_prompt}) and answers each with one line: {text} or {refused}.
Imports nothing of ours, so that it starts fast.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LONGEST_REASON = 500


@dataclass(frozen=True)
class Bounds:
    """memory_bytes: beyond what the interpreter and its libraries take. cpu_seconds, characters: of one text."""

    path: list[str]
    memory_bytes: int
    cpu_seconds: int
    characters: int


def main(argument: str) -> None:
    bounds = Bounds(**json.loads(argument))
    sys.path[:] = bounds.path
    from transformers.utils.chat_template_utils import render_jinja_template

    _bound(bounds)
    for line in sys.stdin.buffer:
        # at the limit the kernel ends this process; time that was used before does not count
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time()) + bounds.cpu_seconds, -1))
        print(json.dumps(_answer(json.loads(line), bounds, render_jinja_template)), flush=True)


def _bound(bounds: Bounds) -> None:
    with open("/proc/self/statm") as statm:
        taken = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (taken + bounds.memory_bytes, taken + bounds.memory_bytes))


def _answer(request: dict[str, Any], bounds: Bounds, render: Callable[..., Any]) -> dict[str, str]:
    try:
        rendered, _ = render(
            [request["messages"]],
            chat_template=request["template"],
            add_generation_prompt=request["add_generation_prompt"],
            **request["variables"],
        )
        text = rendered[0]
    except MemoryError:
        return {"refused": f"it needs more than {bounds.memory_bytes >> 20} MiB of memory"}
    except Exception as error:  # whatever it did wrong, it is the template that did it
        return {"refused": (str(error) or type(error).__name__)[:LONGEST_REASON]}
    if len(text) > bounds.characters:
        return {"refused": f"it makes a text of {len(text)} characters; {bounds.characters} are the most"}
    return {"text": text}


if __name__ == "__main__":
    main(sys.argv[1])
