"""Every benchmark of speed and memory, one after the other, and one table: target beside measured.

    python -m benchmarks.everything [--only capture search] [--table]

Each is a command of its own (`python -m benchmarks.capture`, …) that prints its table and writes its JSON below
benchmarks/results/. --table runs nothing and prints the table of what lies there; --write puts it into README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS, show

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
Content = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """met None: there is no target, or it was not measured."""

    what: str
    target: str
    measured: str
    met: bool | None

    def cells(self) -> dict[str, str]:
        return {"what": self.what, "target": self.target, "measured": self.measured, "met": _said(self.met)}


def _said(met: bool | None) -> str:
    return "" if met is None else "yes" if met else "**no**"


# --- what each benchmark says, one line a target ---


def capture(content: Content) -> Iterator[Line]:
    for row in content["rows"]:
        if row.get("target") is not None:
            yield at_most(str(row["what"]), float(row["ratio"]), float(row["target"]))


def indexing(content: Content) -> Iterator[Line]:
    for row in content["comparisons"]:
        if row["ratio"] is None:
            yield Line(f"index build: {row['what']}", "above 1", str(row["interval"]), None)
            continue
        measured = f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        yield Line(f"index build: {row['what']} ({row['note']})", "above 1", measured, row["low"] > 1)
    for row in content["rows"]:
        if str(row["what"]).startswith("whence ekfac whole, index") and row["ratio"] is not None:
            yield at_most(f"{row['what']}, in plain training passes", float(row["ratio"]), 2.0)


def queries(content: Content) -> Iterator[Line]:
    for row in content["rows"]:
        what = (
            f"query over HTTP, N = {row['rows']:,}: p50 / its own forward + backward (p99 {row['p99 / reference']:.2f})"
        )
        yield at_most(what, row["p50 / reference"], row["target"])


def concurrency(content: Content) -> Iterator[Line]:
    for row in content["rows"]:
        wrong = row["other"] + row["failures"] + row["without Retry-After"]
        aside = f"{row['429']} × 429" if row["429"] else "no 429"
        what = f"{row['callers']} callers: throughput / one caller's, of what a batch of 16 gains"
        throughput, share = row["throughput / one caller's"], row["of a batch's gain"]
        measured = f"{throughput:.2f}, {share:.2f}"
        target = content["target"] if row["callers"] == 16 else None
        met = None if target is None else share >= target and not wrong
        yield Line(what, "" if target is None else f"≥ {target}", f"{measured}; {aside}, {wrong} wrong", met)


def search(content: Content) -> Iterator[Line]:
    for row in content["rows"]:
        if row["target"] is not None:
            what = f"flat search, {row['rows']:,} × {row['dims']} {row['dtype']} / one pass over the bytes"
            yield at_most(what, row["/ one pass over the bytes"], row["target"])
    for row in content.get("lists", []):
        what = f"flat / IVF, {row['rows']:,} rows of {row['kinds']:,} kinds, noise {row['noise']}"
        if row["flat / lists"] is None:
            yield Line(what, f"≥ {row['target']}", f"stays flat: recall {row['recall@10 recorded']}", None)
            continue
        measured = f"{row['flat / lists']} at recall@10 {row['recall@10 recorded']}"
        yield Line(what, f"≥ {row['target']}", measured, row["flat / lists"] >= row["target"])


def memory(content: Content) -> Iterator[Line]:
    for row in content["rows"]:
        if row["target"] is not None:
            what = f"{row['what']}, {row['rows']:,} rows: anonymous bytes a row"
            yield Line(what, str(row["target"]), str(row["bytes a row"]), row["met"] == "yes")


def scale(content: Content) -> Iterator[Line]:
    for row in content["compared"]:
        if row["target"] is not None:
            yield Line(str(row["what"]), str(row["target"]), str(row["measured"]), row["met"] == "yes")


def startup(content: Content) -> Iterator[Line]:
    for row in content["rows"]:
        if row["target"] is not None:
            yield at_most(f"{row['what']}, seconds", row["seconds"], row["target"])


def estimate(content: Content) -> Iterator[Line]:
    rows = content["rows"]
    within = sum(bool(row["within"]) for row in rows)
    yield Line(
        "estimates within ± 30 %", f"{len(rows)} of {len(rows)}", f"{within} of {len(rows)}", within == len(rows)
    )


def at_most(what: str, measured: float, target: float) -> Line:
    return Line(what, f"≤ {target:.2f}", f"{measured:.2f}", measured <= target)


LINES: dict[str, Callable[[Content], Iterator[Line]]] = {
    "capture": capture,
    "indexing": indexing,
    "queries": queries,
    "concurrency": concurrency,
    "search": search,
    "memory": memory,
    "scale": scale,
    "startup": startup,
    "estimate": estimate,
}


# --- the whole ---


def found_lines(names: list[str]) -> list[Line]:
    """Of the results that are there."""
    lines: list[Line] = []
    for name in names:
        path = RESULTS / f"{name}.json"
        if path.exists():
            lines += LINES[name](json.loads(path.read_text(encoding="utf-8")))
    return lines


def as_markdown(lines: list[Line]) -> str:
    cells = [line.cells() for line in lines]
    head = "| " + " | ".join(cells[0]) + " |\n|---|---|---|---|\n"
    return head + "".join("| " + " | ".join(row.values()) + " |\n" for row in cells)


def write_readme(lines: list[Line]) -> None:
    """Between the two marks. Raises ValueError where they are not there."""
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    README.write_text(f"{before}{BEGIN}\n{as_markdown(lines)}{END}{after}", encoding="utf-8")


def run(name: str) -> float:
    """Seconds. What fails says so itself and does not keep the others from running."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], env=os.environ | {"OMP_NUM_THREADS": "1"})
    took = time.perf_counter() - began
    print(f"benchmarks.{name}: {took:.0f} s" + (f", ended with {done.returncode}" if done.returncode else ""))
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(LINES), default=list(LINES))
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--write", action="store_true", help="the table into README.md")
    given = parser.parse_args()
    if not given.table:
        print(f"{sum(run(name) for name in given.only) / 60:.1f} minutes in all")
    lines = found_lines(given.only)
    show("target beside measured", [line.cells() for line in lines])
    if given.write:
        write_readme(lines)


if __name__ == "__main__":
    main()
