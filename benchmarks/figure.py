"""Figures that are the same bytes from the same numbers, whatever this machine's matplotlibrc says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.figure import Figure

# Text stays text, and no name is made of chance.
_STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "whence", "font.size": 9, "font.family": "sans-serif"}
_NO_METADATA = {"Date": None, "Creator": None}


def save_drawn(draw: Callable[[], Figure], path: Path) -> Path:
    """Draws in our style and saves. Returns the file."""
    with rc_context():
        rcdefaults()
        rcParams.update(_STYLE)
        draw().savefig(path, metadata=_NO_METADATA if path.suffix == ".svg" else None, dpi=120)
    if path.suffix == ".svg":  # no blanks at the ends of lines
        lines = path.read_text(encoding="utf-8").splitlines()
        path.write_text("".join(f"{line.rstrip()}\n" for line in lines), encoding="utf-8")
    return path
