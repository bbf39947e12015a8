"""A contender's process: loads it, says so, then runs what it is told, a JSON line in and one out.

    python -m benchmarks.indexing_peers.worker NAME --task DIR --scratch DIR

Whatever a library prints goes to stderr; stdout holds answers alone. It has one core and one thread.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

import torch

from benchmarks.indexing_peers.contender import Contender
from benchmarks.quality.peers.given import Given


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--task", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    asked = parser.parse_args()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):  # one core, whatever would spread over several
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    shutil.rmtree(asked.scratch, ignore_errors=True)
    asked.scratch.mkdir(parents=True)
    module = importlib.import_module(f"benchmarks.indexing_peers.{asked.name}")
    contender: Contender = module.Loaded(Given(asked.task), asked.scratch)
    _say(answers, {"version": contender.version, "runs": contender.runs, "settings": contender.settings})
    for line in sys.stdin:
        _say(answers, _run(contender, json.loads(line)))


def _run(contender: Contender, request: dict[str, Any]) -> dict[str, Any]:
    gc.collect()
    torch.manual_seed(0)
    cpu = time.process_time()
    try:
        return {"seconds": contender.run(**request), "cpu": time.process_time() - cpu}
    except Exception as error:  # a peer may fail in any way; the reason is a result too
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"[:300]}


def _say(answers: TextIO, content: dict[str, Any]) -> None:
    print(json.dumps(content), file=answers, flush=True)


if __name__ == "__main__":
    main()
