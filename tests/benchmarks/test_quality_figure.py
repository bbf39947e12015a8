"""The quality benchmark's figure and its table for the docs, from rows as the table gives them."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.quality.markdown import COLUMNS, markdown
from benchmarks.quality.plot import COLOURS, drawn

SOURCES = {"ekfac": "whence", "peer ekfac": "a peer", "other peer": "b peer", "bm25": "control", "constant": "control"}


def figures(lds: float | None, best: str = "peer ekfac", own: bool = False) -> dict[str, Any]:
    bounds = (None, None) if lds is None else (lds - 0.1, lds + 0.1)
    compared = lds is not None and not own
    return {
        "lds": lds,
        "low": bounds[0],
        "high": bounds[1],
        "lds / ceiling": lds and lds / 0.8,
        "difference": 0.25 if compared else None,
        "difference low": 0.2 if compared else None,
        "difference high": 0.3 if compared else None,
        "p": 1e-5 if compared else None,
        "best peer": best,
    }


def row(recipe: str, method: str, lds: float | None) -> dict[str, Any]:
    own = method == "peer ekfac"
    found = dict.fromkeys(("P@3", "recall@10", "truth over decoys", "poison AUPRC", "mislabelled AUROC"), 0.5)
    return {
        "recipe": recipe,
        "method": method,
        "source": SOURCES[method],
        "half": figures(lds, own=own),
        "drop": figures(lds and lds / 2, own=own),
        "drop over seeds": figures(lds and lds / 1.5, own=own),
        "detection": found,
        "seconds": 12.34,
        "bytes per example": None if method == "bm25" else 12345.6,
    }


LDS = {"ekfac": 0.6, "peer ekfac": 0.5, "other peer": 0.3, "bm25": 0.1, "constant": None}
ROWS = [row(recipe, method, lds) for recipe in ("smooth", "rough") for method, lds in LDS.items()]
RUNS = [
    {
        "recipe": recipe,
        "metasmoothness": {"value": value},
        "half": {"ceiling": 0.9},
        "drop": {"ceiling": 1.0},
        "drop over seeds": {"ceiling": 0.8},
    }
    for recipe, value in (("smooth", 0.91), ("rough", None))
]


@pytest.fixture(scope="module")
def svg(tmp_path_factory: pytest.TempPathFactory) -> str:
    return drawn(ROWS, RUNS, tmp_path_factory.mktemp("figure") / "quality.svg").read_text()


def test_the_same_figures_give_the_same_bytes(svg: str, tmp_path: Path) -> None:
    assert drawn(ROWS, RUNS, tmp_path / "again.svg").read_text() == svg


def test_the_svg_is_small_and_tells_neither_date_nor_program(svg: str) -> None:
    ElementTree.fromstring(svg)
    assert len(svg.encode()) < 200_000
    assert "dc:date" not in svg
    assert "atplotlib v" not in svg
    assert not re.search(r"[ \t]$", svg, flags=re.MULTILINE)


def test_methods_recipes_and_groups_are_named_and_coloured_apart(svg: str) -> None:
    texts = re.findall(r">([^<>]+)</text>", svg)
    assert set(SOURCES) <= set(texts)
    assert {"whence", "peer", "control"} <= set(texts)
    assert "smooth run (metasmoothness 0.91)" in texts
    assert "rough run" in texts
    assert len(set(COLOURS.values())) == 3
    assert all(colour in svg for colour in COLOURS.values())


def test_a_moved_figure_moves_the_drawing(svg: str, tmp_path: Path) -> None:
    for regime in ("half", "drop", "drop over seeds"):
        moved = deepcopy(ROWS)
        moved[0][regime]["lds"] += 0.05
        assert drawn(moved, RUNS, tmp_path / "moved.svg").read_text() != svg


def test_an_undefined_method_has_a_line_without_a_mark(svg: str, tmp_path: Path) -> None:
    marks = svg.count("<use ")
    defined = deepcopy(ROWS)
    defined[4]["half"] = figures(0.2)  # smooth, constant
    assert drawn(defined, RUNS, tmp_path / "more.svg").read_text().count("<use ") == marks + 1


def test_a_quick_run_without_further_seeds_is_drawn(tmp_path: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "drop over seeds"} for row in ROWS[:5]]
    run = {key: value for key, value in RUNS[0].items() if key != "drop over seeds"} | {"half": {"ceiling": None}}
    assert "mean over seeds" not in drawn(rows, [run], tmp_path / "quick.svg").read_text().split("ceiling")[0]


def test_the_table_for_the_docs() -> None:
    lines = markdown(ROWS[:5]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len(lines) == 2 + 5
    assert {len(line) for line in cells} == {len(COLUMNS)}
    assert cells[2][:4] == ["ekfac", "0.60 (0.50 to 0.70)", "0.75", "+0.25 (+0.20 to +0.30; < 0.001)"]
    assert cells[2][-1] == "12,346"
    assert cells[3][3] == "best peer"
    assert cells[5][-1] == "—"
    assert cells[6][1] == "—"
