"""The quality benchmark as one figure: python -m benchmarks.quality.plot

Reads benchmarks/results/quality.json, writes docs/quality.svg: the same bytes from the same figures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.figure import save_drawn
from benchmarks.quality.table import CONTROL, WHENCE
from benchmarks.report import RESULTS

FIGURE = Path(__file__).resolve().parents[2] / "docs" / "quality.svg"
COLOURS = {WHENCE: "#1f5fbf", "peer": "#d1620f", CONTROL: "#7a7a7a"}
TITLES = {"half": "half of the rows removed", "drop": "2 % of the rows removed"}
OVER_SEEDS = "drop over seeds"
APART = 0.17  # of a line, between the two marks of a method


def drawn(rows: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]], path: Path = FIGURE) -> Path:
    """Draws and saves. Returns the file."""
    return save_drawn(lambda: _draw(rows, runs), path)


def _draw(rows: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]) -> Figure:
    """rows: of the table; runs: the recipes' summaries, one pair of panels each."""
    names = _ordered(rows, runs[0]["recipe"])
    figure = Figure(figsize=(3.1 + 2.5 * 2 * len(runs), 1.6 + 0.27 * len(names)), layout="constrained")
    panels = [(run, regime) for run in runs for regime in TITLES]
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (run, regime) in zip(axes, panels, strict=True):
        of_recipe = {row["method"]: row for row in rows if row["recipe"] == run["recipe"]}
        _panel(axis, run, regime, [of_recipe.get(name) for name in names])
    _name_lines(axes[0], names, {row["method"]: _group(row) for row in rows})
    figure.supxlabel("LDS: rank correlation of predicted and retrained outcomes, with its 95 % interval", fontsize=9)
    _legend(figure, {_group(row) for row in rows}, any(OVER_SEEDS in run for run in runs))
    return figure


def _ordered(rows: Sequence[Mapping[str, Any]], recipe: str) -> list[str]:
    """Top to bottom: ours, the peers, the controls, each by the first recipe's half-subset LDS."""
    groups = list(COLOURS)
    value = {row["method"]: row["half"]["lds"] or 0.0 for row in rows if row["recipe"] == recipe}
    group = {row["method"]: groups.index(_group(row)) for row in rows}
    return sorted(group, key=lambda name: (group[name], -value.get(name, 0.0), name))


def _group(row: Mapping[str, Any]) -> str:
    return row["source"] if row["source"] in (WHENCE, CONTROL) else "peer"


def _panel(axis: Axes, run: Mapping[str, Any], regime: str, lines: Sequence[Mapping[str, Any] | None]) -> None:
    beside = OVER_SEEDS if regime == "drop" and OVER_SEEDS in run else None
    for place, row in enumerate(lines):
        if row is not None:
            _mark(axis, place - (APART if beside else 0), row[regime], COLOURS[_group(row)])
            if beside:
                _mark(axis, place + APART, row[beside], COLOURS[_group(row)], hollow=True)
    ceiling = None if regime == "drop" and beside is None else run[beside or regime]["ceiling"]
    if ceiling is not None:
        axis.axvline(ceiling, color="black", linestyle=(0, (4, 2)), linewidth=1)
    axis.axvline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
    axis.grid(axis="x", color="#eeeeee", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.set_title(f"{_named(run)}\n{TITLES[regime]}", fontsize=9)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)


def _named(run: Mapping[str, Any]) -> str:
    smooth = run["metasmoothness"]["value"]
    return f"{run['recipe']} run" + ("" if smooth is None else f" (metasmoothness {smooth:.2f})")


def _mark(axis: Axes, place: float, figures: Mapping[str, Any], colour: str, hollow: bool = False) -> None:
    if figures["lds"] is None:
        return
    if figures["low"] is not None:
        axis.plot([figures["low"], figures["high"]], [place, place], color=colour, linewidth=1.3)
    face = "white" if hollow else colour
    axis.plot(figures["lds"], place, "o", markersize=4.2, markerfacecolor=face, markeredgecolor=colour)


def _name_lines(axis: Axes, names: Sequence[str], group: Mapping[str, str]) -> None:
    axis.set_yticks(range(len(names)), names)
    for label in axis.get_yticklabels():
        label.set_color(COLOURS[group[label.get_text()]])
    axis.set_ylim(len(names) - 0.5, -0.5)


def _legend(figure: Figure, groups: set[str], over_seeds: bool) -> None:
    marks = [_key("o", colour, colour, group) for group, colour in COLOURS.items() if group in groups]
    if over_seeds:
        marks += [
            _key("o", "#444444", "#444444", "2 %: the audited run's own seed"),
            _key("o", "#444444", "white", "2 %: mean over seeds"),
        ]
    marks.append(Line2D([], [], color="black", linestyle=(0, (4, 2)), linewidth=1, label="ceiling (mean over seeds)"))
    figure.legend(handles=marks, loc="outside upper center", ncols=len(marks), frameon=False, handletextpad=0.4)


def _key(marker: str, edge: str, face: str, label: str) -> Line2D:
    return Line2D([], [], marker=marker, linestyle="", markersize=5, color=edge, markerfacecolor=face, label=label)


def main() -> None:
    content = json.loads((RESULTS / "quality.json").read_text(encoding="utf-8"))
    print(f"Drawn: {drawn(content['rows'], content['runs']).relative_to(FIGURE.parents[1])}")


if __name__ == "__main__":
    main()
