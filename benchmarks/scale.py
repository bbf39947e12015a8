"""What indexing costs by the length of rows and by their number: linear in tokens, but for attention's own part.

    python -m benchmarks.scale [--pairs 5] [--most-rows 16384]

Every point is measured, none extrapolated. Whole builds (tokenize, sketch, write; method graddot, float16) of a random
Llama with LoRA, in turns: each turn builds every point once, in a random order, and times are medians over the turns.

    length   T = 64 … 2,048 at 32,768 tokens: seconds a token against those at T = 64
    number   N = 1,024 … 16,384 rows of 64 tokens: the exponent of seconds in tokens, fitted on log–log axes

Attention multiplies every pair of a row's tokens, so seconds a token are fitted as a + b·T as well: b·T is its part.
One layer of width 64 has little else to do, so that this part is far larger here than in a real model.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.figure import save_drawn
from benchmarks.random_llama import text_rows
from benchmarks.report import RESULTS, show, write
from engine.build import build_index
from engine.config import IndexConfig, IndexOptions, ModelConfig, Recipe, TemplateConfig
from engine.dataset import Dataset
from engine.model import LoadedModel, load_model
from tests import factories

COMMAND = "python -m benchmarks.scale"
FIGURE = Path(__file__).resolve().parents[1] / "docs" / "performance-scale.svg"
LENGTHS = (64, 256, 1024, 2048)
TOKENS = 32_768
ROW_TOKENS = 64
LEAST_ROWS, MOST_ROWS = 1024, 16_384
TARGET = 1.1  # most that the exponent of seconds in tokens may be
# One grey and one blue that stand out from white and from black alike; the ground stays as the page has it.
INK, LINE = "#808080", "#3b82d6"
Row = dict[str, Any]


def measure(work: Path, turns: int, most_rows: int) -> list[Row]:
    """One row a point: by, T, N, tokens, seconds (the median), per token against the first of its sweep."""
    model = _model(work)
    counts = [rows for rows in (LEAST_ROWS * 4**n for n in range(8)) if rows <= most_rows]
    points = [("length", length, TOKENS // length) for length in LENGTHS]
    points += [("number", ROW_TOKENS, count) for count in counts]
    data = {(length, rows): text_rows(work / f"{length}-{rows}", rows, length) for _, length, rows in points}
    seconds: dict[tuple[int, int], list[float]] = {key: [] for key in data}
    _build(model, data[ROW_TOKENS, LEAST_ROWS], work)  # the first of a process pays for what is made once
    order = list(data)
    for turn in range(turns):
        random.Random(turn).shuffle(order)
        for key in order:
            seconds[key].append(_build(model, data[key], work))
    medians = {key: statistics.median(taken) for key, taken in seconds.items()}
    return [_row(by, length, rows, medians, points) for by, length, rows in points]


def _row(
    by: str, length: int, rows: int, medians: Mapping[tuple[int, int], float], points: Sequence[tuple[str, int, int]]
) -> Row:
    first = next((t, n) for sweep, t, n in points if sweep == by)
    per_token = medians[length, rows] / (length * rows)
    return {
        "by": by,
        "T": length,
        "N": rows,
        "tokens": length * rows,
        "seconds": round(medians[length, rows], 3),
        "a token, against the first": per_token / (medians[first] / (first[0] * first[1])),
    }


def _model(work: Path) -> LoadedModel:
    base = factories.llama(hidden=64, layers=1, num_attention_heads=4, max_position_embeddings=max(LENGTHS))
    factories.save_base(work / "base", base)
    factories.save_adapter(work / "adapter", base, 1, r=4, lora_alpha=8)
    recipe = Recipe(template=TemplateConfig(eos=False))
    return load_model(ModelConfig(str(work / "base"), adapter=str(work / "adapter"), recipe=recipe))


def _build(model: LoadedModel, data: Dataset, work: Path) -> float:
    config = IndexConfig("graddot", options=IndexOptions(projection_dim=8, sketch="random", search="flat"))
    with tempfile.TemporaryDirectory(dir=work) as place:
        began = time.perf_counter()
        build_index(model, data, config, Path(place) / "index", factories.ignore)
        return time.perf_counter() - began


# --- what is made of the points ---


def exponent(tokens: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of log seconds over log tokens, by least squares."""
    return float(np.polyfit(np.log(tokens), np.log(seconds), 1)[0])


def attention_share(lengths: Sequence[float], per_token: Sequence[float]) -> float:
    """Of a token's seconds at the longest length, the part that grows with T: b·T / (a + b·T), by least squares of the
    relative errors; 0 where nothing grows."""
    lengths_P, seconds_P = np.asarray(lengths, float), np.asarray(per_token, float)
    terms_P2 = np.stack([np.ones_like(lengths_P), lengths_P], 1) / seconds_P[:, None]
    (constant, slope), *_ = np.linalg.lstsq(terms_P2, np.ones_like(lengths_P), rcond=None)
    longest = lengths_P.max()
    return max(0.0, float(slope * longest / (constant + slope * longest)))


def summary(rows: Sequence[Row]) -> Row:
    number = [row for row in rows if row["by"] == "number"]
    length = [row for row in rows if row["by"] == "length"]
    return {
        "exponent_in_tokens": round(exponent(*_columns(number, "tokens", "seconds")), 3),
        "largest_N": max(row["N"] for row in number),
        "attention_share_at_2048": round(attention_share(*_columns(length, "T", "a token, against the first")), 3),
    }


def _columns(rows: Sequence[Row], *names: str) -> list[list[float]]:
    return [[float(row[name]) for row in rows] for name in names]


def compared(found: Row) -> list[Row]:
    """Target beside measured."""
    slope = found["exponent_in_tokens"]
    return [
        {
            "what": f"exponent of seconds in tokens, N up to {found['largest_N']:,}",
            "measured": slope,
            "target": f"1 (at most {TARGET})",
            "met": "yes" if slope <= TARGET else "no",
        },
        {
            "what": "attention's part of a token at T = 2,048 (one layer of width 64)",
            "measured": found["attention_share_at_2048"],
            "target": None,
            "met": None,
        },
    ]


# --- the figure ---


def drawn(rows: Sequence[Row], found: Row, path: Path = FIGURE) -> Path:
    """Draws and saves: the same bytes from the same figures. Returns the file."""
    return save_drawn(lambda: _draw(rows, found), path)


def _draw(rows: Sequence[Row], found: Row) -> Figure:
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    figure.patch.set_alpha(0)
    left, right = figure.subplots(1, 2)
    tokens, seconds = _columns([row for row in rows if row["by"] == "number"], "tokens", "seconds")
    left.loglog(tokens, seconds, "o-", color=LINE, markersize=4)
    left.loglog(tokens, [seconds[0] * token / tokens[0] for token in tokens], "--", color=INK, linewidth=1)
    _named(
        left, "tokens (rows of 64)", "seconds", f"by the number of rows: tokens to the {found['exponent_in_tokens']}"
    )
    lengths, ratios = _columns([row for row in rows if row["by"] == "length"], "T", "a token, against the first")
    right.semilogx(lengths, ratios, "o-", color=LINE, markersize=4, base=2)
    right.axhline(1, linestyle="--", color=INK, linewidth=1)
    right.set_ylim(bottom=0)
    right.set_xticks(lengths, [f"{int(length):,}" for length in lengths])
    _named(right, "T, tokens a row", "seconds a token, T = 64 is 1", f"by their length, {TOKENS:,} tokens each")
    return figure


def _named(axis: Axes, across: str, up: str, title: str) -> None:
    axis.set_facecolor("none")
    axis.set_xlabel(across, color=INK)
    axis.set_ylabel(up, color=INK)
    axis.set_title(title, fontsize=9, color=INK)
    axis.tick_params(which="both", colors=INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(INK)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2, help="turns")
    parser.add_argument("--most-rows", type=int, default=MOST_ROWS)
    parser.add_argument("--draw", action="store_true", help="only draw again what was measured")
    chosen = parser.parse_args()
    if chosen.draw:
        content = json.loads((RESULTS / "scale.json").read_text(encoding="utf-8"))
        print(drawn(content["rows"], content["summary"]))
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        rows = measure(Path(work), chosen.pairs, chosen.most_rows)
    found = summary(rows)
    show("indexing by length and number of rows", rows)
    show("scale", compared(found))
    command = f"{COMMAND} --pairs {chosen.pairs} --most-rows {chosen.most_rows}"
    write("scale", command, rows, summary=found, turns=chosen.pairs, compared=compared(found))
    print(drawn(rows, found))


if __name__ == "__main__":
    main()
