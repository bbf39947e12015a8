"""What an evaluation measures, and what comes of it, as one figure: python -m benchmarks.trust.plot

Reads benchmarks/results/trust.json and trust/*.npz, writes docs/trust.svg: the same bytes from the same figures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.figure import save_drawn
from benchmarks.report import RESULTS

FIGURE = Path(__file__).resolve().parents[2] / "docs" / "trust.svg"
OWN, CONTROL, TWIN = "#1f5fbf", "#7a7a7a", "#b03030"
COLOURS = {"index": OWN, "control": CONTROL, "sanity": TWIN}
FAINT = "#bbbbbb"


def drawn(
    rows: Sequence[Mapping[str, Any]],
    methods: Sequence[Mapping[str, Any]],
    arrays: Mapping[str, Mapping[str, np.ndarray]],
    path: Path = FIGURE,
) -> Path:
    """rows, methods: of trust.json; arrays: of each world's npz. Returns the file."""
    return save_drawn(lambda: _draw(rows, methods, arrays), path)


def _draw(
    rows: Sequence[Mapping[str, Any]],
    methods: Sequence[Mapping[str, Any]],
    arrays: Mapping[str, Mapping[str, np.ndarray]],
) -> Figure:
    figure = Figure(figsize=(13.5, 3.6 * len(rows)), layout="constrained")
    lines = figure.subplots(len(rows), 4, squeeze=False)
    for axes, row in zip(lines, rows, strict=True):
        found = arrays[row["world"]]
        _subsets(axes[0], row, found)
        _methods(axes[1], row, [method for method in methods if method["world"] == row["world"]])
        _reliability(axes[2], found)
        _effects(axes[3], found)
        for axis in axes:
            axis.spines[["top", "right"]].set_visible(False)
    return figure


def _subsets(axis: Axes, row: Mapping[str, Any], found: Mapping[str, np.ndarray]) -> None:
    predicted_M, measured_M = found["example"]
    axis.plot(_standard(predicted_M), measured_M, "o", markersize=3.5, color=OWN)
    axis.set_title(f"{row['world']}: one question, {len(measured_M)} halves of the rows")
    axis.set_xlabel("predicted: sum of the kept rows (standardised)")
    axis.set_ylabel("measured: log-probability after retraining")


def _methods(axis: Axes, row: Mapping[str, Any], methods: Sequence[Mapping[str, Any]]) -> None:
    for place, method in enumerate(methods):
        colour = COLOURS[method["role"]]
        if method["low"] is not None:
            axis.plot([method["low"], method["high"]], [place, place], color=colour, linewidth=1.3)
        if method["LDS"] is not None:
            axis.plot(method["LDS"], place, "o", markersize=4.5, color=colour)
    axis.set_yticks(range(len(methods)), [f"{method['method']} ({method['verdict']})" for method in methods])
    axis.set_ylim(len(methods) - 0.5, -0.5)
    axis.axvline(0, color=FAINT, linewidth=0.8, zorder=0)
    if row["ceiling"] is not None:
        axis.axvline(row["ceiling"], color="black", linestyle=(0, (4, 2)), linewidth=1)
    axis.set_title("LDS with 95 % interval; verdict")
    axis.set_xlabel("LDS (dashed: the ceiling)")


def _reliability(axis: Axes, found: Mapping[str, np.ndarray]) -> None:
    predicted_Q, lds_Q = found["predicted_Q"], found["lds_Q"]
    middle = float(np.median(predicted_Q))
    better_Q = predicted_Q > middle
    for chosen_Q, colour in ((better_Q, OWN), (~better_Q, TWIN)):
        axis.plot(predicted_Q[chosen_Q], lds_Q[chosen_Q], "o", markersize=3.5, color=colour)
        x = predicted_Q[chosen_Q]
        axis.plot([x.min(), x.max()], [lds_Q[chosen_Q].mean()] * 2, color=colour, linewidth=2)
    axis.set_title("reliability of single answers")
    axis.set_xlabel("predicted LDS (its group unseen)")
    axis.set_ylabel("measured LDS (lines: means of the halves)")


def _effects(axis: Axes, found: Mapping[str, np.ndarray]) -> None:
    value_C, low_C, high_C, measured_C = found["hits"].T
    order_C = np.argsort(value_C)
    place_C = np.arange(len(value_C))
    inside_C = ((low_C <= measured_C) & (measured_C <= high_C))[order_C]
    axis.vlines(place_C, low_C[order_C], high_C[order_C], color=FAINT, linewidth=1.2)
    axis.plot(place_C, value_C[order_C], "_", markersize=4, color="#444444")
    measured_C = measured_C[order_C]
    axis.plot(place_C[inside_C], measured_C[inside_C], "o", markersize=3, color=OWN)
    axis.plot(place_C[~inside_C], measured_C[~inside_C], "o", markersize=3, color=TWIN)
    axis.set_title("effect of a question's top rows")
    axis.set_xlabel("questions, by predicted effect")
    axis.set_ylabel("nats (grey: 90 % interval, dot: measured)")


def _standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


def main() -> None:
    content = json.loads((RESULTS / "trust.json").read_text(encoding="utf-8"))
    arrays = {}
    for row in content["rows"]:
        with np.load(RESULTS / "trust" / f"{row['world']}.npz", allow_pickle=False) as kept:
            arrays[row["world"]] = dict(kept)
    print(f"Drawn: {drawn(content['rows'], content['methods'], arrays).relative_to(FIGURE.parents[1])}")


if __name__ == "__main__":
    main()
