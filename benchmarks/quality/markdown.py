"""The quality benchmark's table for the docs: python -m benchmarks.quality.markdown

Prints one table a recipe from benchmarks/results/quality.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.quality.table import p_value
from benchmarks.report import RESULTS

COLUMNS = (
    "method",
    "half: LDS (95 %)",
    "/ ceiling",
    "− best peer (95 %; p)",
    "2 %, own seed: LDS (95 %)",
    "2 %, over seeds: LDS (95 %)",
    "P@3",
    "recall@10",
    "truth over decoys",
    "poison AUPRC",
    "mislabelled AUROC",
    "bytes/example",
)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """rows: of one recipe."""
    lines = [COLUMNS, ("---", *("---:" for _ in COLUMNS[1:])), *(_cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    found = row["detection"]
    names = ("P@3", "recall@10", "truth over decoys", "poison AUPRC", "mislabelled AUROC")
    return (
        row["method"],
        _lds(row["half"]),
        _number(row["half"]["lds / ceiling"]),
        _difference(row["half"]),
        _lds(row["drop"]),
        _lds(row.get("drop over seeds")),
        *(_number(found[name]) for name in names),
        _number(row["bytes per example"], ",.0f"),
    )


def _lds(figures: Mapping[str, Any] | None) -> str:
    if figures is None or figures["lds"] is None:
        return "—"
    return f"{figures['lds']:.2f} ({_number(figures['low'])} to {_number(figures['high'])})"


def _difference(figures: Mapping[str, Any]) -> str:
    if figures["difference"] is None:
        return "best peer" if figures["best peer"] else "—"
    low, high = _number(figures["difference low"], "+.2f"), _number(figures["difference high"], "+.2f")
    return f"{figures['difference']:+.2f} ({low} to {high}; {p_value(figures['p']) or '—'})"


def _number(value: float | None, form: str = ".2f") -> str:
    return "—" if value is None else f"{value:{form}}"


def main() -> None:
    rows = json.loads((RESULTS / "quality.json").read_text(encoding="utf-8"))["rows"]
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        print(f"**{recipe}**\n\n{markdown([row for row in rows if row['recipe'] == recipe])}")


if __name__ == "__main__":
    main()
