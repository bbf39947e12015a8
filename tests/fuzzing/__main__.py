"""`python -m tests.fuzzing`: the long form; the suite has a short one."""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.report import show, write
from tests.fuzzing.running import Outcomes, run
from tests.fuzzing.targets import Target, targets

COMMAND = "python -m tests.fuzzing"
SLOW_INPUTS = 300  # of targets that start a process for each
SPARE_BYTES = 2 << 30  # what the address space may grow by: beyond it an input ends in MemoryError, a defect
console = Console(stderr=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Inputs made up for everything that reads what others wrote.")
    parser.add_argument("--inputs", type=int, default=100_000, help="Shared out evenly; slow targets come on top.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", help="Only those whose name has this in it.")
    given = parser.parse_args()
    chosen = [one for one in targets() if given.target is None or given.target in one.name]
    if not chosen:
        parser.error(f"no target has {given.target!r} in its name")
    _bound_memory()
    fast = sum(not one.slow for one in chosen)
    rows: list[dict[str, Any]] = []
    defects: dict[str, tuple[str, Any]] = {}
    for one in chosen:
        inputs = min(SLOW_INPUTS, given.inputs) if one.slow else -(-given.inputs // fast)
        row, outcomes = _fuzzed(one, inputs, given.seed)
        rows.append(row)
        defects |= {f"{one.name}: {where}": found for where, found in outcomes.defects.items()}
    _shown(rows, defects)
    if given.target is None:
        print(write("fuzz", f"{COMMAND} --inputs {given.inputs} --seed {given.seed}", [*rows, _total(rows)]))
    return 1 if defects else 0


def _fuzzed(target: Target, inputs: int, seed: int) -> tuple[dict[str, Any], Outcomes]:
    columns = TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    shared_memory = Path("/dev/shm")
    room = shared_memory if shared_memory.is_dir() else None
    with tempfile.TemporaryDirectory(dir=room) as work, Progress(*columns, console=console) as bars:
        bar = bars.add_task(target.name, total=inputs)
        began = time.monotonic()
        outcomes = run(target, inputs, seed, Path(work), lambda: bars.advance(bar))
        seconds = time.monotonic() - began
    declared = {code: count for code, count in sorted(outcomes.counts.items()) if code not in ("valid", "DEFECT")}
    row = {"target": target.name, "inputs": outcomes.inputs, "valid": outcomes.counts["valid"]}
    row |= {"declared": sum(declared.values()), "defects": outcomes.counts["DEFECT"], "peak_mib": outcomes.peak_mib}
    return row | {"seconds": round(seconds, 1), "errors": declared}, outcomes


def _total(rows: list[dict[str, Any]]) -> dict[str, Any]:
    counted = ("inputs", "valid", "declared", "defects", "seconds")
    total = {name: round(sum(row[name] for row in rows), 1) for name in counted}
    return {"target": "all", **total, "peak_mib": max(row["peak_mib"] for row in rows), "errors": {}}


def _shown(rows: list[dict[str, Any]], defects: dict[str, tuple[str, Any]]) -> None:
    plain = [{name: value for name, value in row.items() if name != "errors"} for row in [*rows, _total(rows)]]
    show("inputs made up, and what came of them", plain)
    for where, (what, smallest) in defects.items():
        console.print(f"\n[bold red]{where}[/]", highlight=False)
        console.print(what, markup=False, highlight=False)
        console.print(f"smallest input seen: {smallest!r}"[:3000], markup=False, highlight=False)


def _bound_memory() -> None:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + SPARE_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    sys.exit(main())
