"""The tables of docs/performance.md, from what lies under benchmarks/results/.

    python -m benchmarks.document

A table stands between `<!-- table: NAME -->` and `<!-- end -->`, NAME being one of TABLES; what stands there is
replaced. Everything else on the page is written by hand, and has to be read again when the numbers change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
PLACE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
Row = Mapping[str, Any]
Cell = str | Callable[[Row], object]


@dataclass(frozen=True)
class Table:
    """columns: heading → the row's key, or what makes a cell of the row. rows: their key in the file."""

    file: str
    columns: Mapping[str, Cell]
    rows: str = "rows"

    def markdown(self) -> str:
        content = json.loads((RESULTS / f"{self.file}.json").read_text(encoding="utf-8"))
        lines = [list(self.columns), ["---"] * len(self.columns)]
        lines += [[_cell(row, column) for column in self.columns.values()] for row in content[self.rows]]
        machine = content["machine"]
        threads = "one torch thread" if machine["threads"] == 1 else f"{machine['threads']} torch threads"
        place = "" if machine["device"] == "cpu" else f"{machine['device']}, "
        where = f"{place}{machine['cores']} cores, {threads}, {machine['date']}"
        table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        return f"{table}\n{where} ([JSON](../benchmarks/results/{self.file}.json))\n"


def _cell(row: Row, column: Cell) -> str:
    value = row.get(column) if isinstance(column, str) else column(row)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _at_most(measured: str) -> Callable[[Row], bool | None]:
    return lambda row: None if row["target"] is None else row[measured] <= row["target"]


def _met(row: Row) -> bool | None:
    return None if row["met"] is None else row["met"] == "yes"


def _interval(row: Row) -> str | None:
    return None if row["low"] is None else f"{row['low']:.2f} to {row['high']:.2f}"


def _same(*keys: str) -> dict[str, Cell]:
    return {key: key for key in keys}


PASSES: Cell = "/ one pass over the bytes"
COMPARED: dict[str, Cell] = {
    "peer / Whence": "what",
    "work": "note",
    "ratio": "ratio",
    "95 % interval": _interval,
    "above 1: Whence is faster": "interval",
}
IN_PASSES: dict[str, Cell] = {
    "in plain training passes (8 rows a step)": "what",
    "tokens or rows a batch": "batch",
    "ratio": "ratio",
    "95 % interval": _interval,
}
TABLES = {
    "capture": Table(
        "capture",
        {"what, against what": "what", "ratio": "ratio", "at most": "target", "met": _at_most("ratio")},
    ),
    "indexing": Table("indexing", COMPARED, "comparisons"),
    "indexing-passes": Table("indexing", IN_PASSES),
    "indexing-110M": Table("indexing_110M", COMPARED, "comparisons"),
    "indexing-110M-passes": Table("indexing_110M", IN_PASSES),
    "curvature_sample": Table(
        "curvature_sample",
        {
            **_same("calibration rows", "of", "label seed"),
            "Spearman": "spearman",
            **_same("overlap@10", "≥ 2 true in top 3", "questions"),
        },
    ),
    "profile": Table(
        "profile",
        {**_same("of", "operation"), "share of the time in torch": lambda row: f"{row['share']:.1%}"},
    ),
    "compiled": Table("compiled", _same("compiled / eager", "lowest", "highest", "first call, in rows")),
    "scale": Table("scale", {**_same("what", "measured", "target"), "met": _met}, "compared"),
    "memory": Table(
        "memory",
        {**_same("what", "rows", "before, MiB", "peak, MiB", "bytes a row", "target"), "met": _met},
    ),
    "estimate": Table(
        "estimate",
        {
            **_same("case", "rows"),
            **{what: f"{what}, estimated / taken" for what in ("seconds", "memory", "disk")},
            "within 30 %": "within",
        },
    ),
    "queries": Table(
        "queries",
        {
            "N": "rows",
            "p50 / its own forward + backward": "p50 / reference",
            "at most": "target",
            "within": "within",
            "p99 / the same": "p99 / reference",
            "shares of the time": "shares",
        },
    ),
    "concurrency": Table(
        "concurrency",
        {
            **_same("callers", "throughput / one caller's"),
            "of what a batch of 16 gains": "of a batch's gain",
            **_same("p50 / one caller's", "p99 / one caller's p50", "queries a batch", "429"),
            "other statuses": "other",
            "failed connections": "failures",
        },
    ),
    "search": Table(
        "search",
        {
            "stored": "dtype",
            "way": "way",
            "time / one pass over the bytes": PASSES,
            "at most": "target",
            "met": _at_most(PASSES),
        },
    ),
    "search-lists": Table(
        "search",
        {
            **_same("rows", "kinds", "noise"),
            "kept as": "kind",
            **_same("lists", "probes", "rows read", "recall@10 recorded", "recall@10, best"),
            "worst": "recall@10, worst",
            "flat / lists": "flat / lists",
            "at least": "target",
        },
        "lists",
    ),
    "startup": Table(
        "startup",
        {**_same("what", "seconds"), "/ import fastapi": "× fastapi", "at most": "target", "met": _met},
    ),
    "causal": Table(
        "causal",
        {
            **_same("question", "left out", "rows", "log p before"),
            "after": "log p after",
            **_same("change", "low", "high", "trainings"),
        },
    ),
    "causal-flips": Table(
        "causal",
        {
            **_same("question", "left out", "rows"),
            "share of trainings whose answer changed": "answer changed, share of trainings",
            "answer before": "before",
            "after": "after",
        },
        "flips",
    ),
    "pages": Table(
        "pages",
        {**_same("page", "median ms", "slowest ms"), "under 200 ms": "within 200 ms"},
    ),
}


def filled(text: str) -> str:
    """`text` with its tables made anew. Raises KeyError for a name that is not in TABLES."""
    return PLACE.sub(lambda place: f"{place[1]}\n{TABLES[place[2]].markdown()}\n{place[3]}", text)


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
