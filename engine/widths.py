"""How many numbers a row takes: chosen from the options, the tracked modules and the bytes there are.

A random sketch is per module and checkpoint (engine/sketch.py), a learned one of all of them together and after it
(engine/compression.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from engine.config import IndexOptions
from engine.errors import InvalidOption
from engine.manifest import NUMBER_BYTES, ROW_SCALE_BYTES, row_bytes
from engine.modules import TrackedModule
from engine.sketch import Projection

WIDTHS = (256, 128, 64, 32, 16, 8)
_NARROW = (4, 2, 1)  # only where bytes_per_row leaves nothing else
_LEARNED_BYTES = 2048  # docs/sketches.md
_SKETCH_ROWS = 2048
_BASIS_BYTES = 2  # float16


@dataclass(frozen=True)
class Widths:
    """projection: of each module's sides, None = whole. dims: numbers a row, all checkpoints. learned: numbers kept of
    them, None = all; sketch_rows: what the learned basis is fitted to."""

    projection: int | None
    dims: int
    learned: int | None = None
    sketch_rows: int | None = None

    @property
    def stored(self) -> int:
        return self.learned or self.dims


MOST_NUMBERS = 1 << 20  # FAISS writes wider rows and then refuses to read them (read_index_header)


def choose_widths(options: IndexOptions, tracked: Sequence[TrackedModule], vectors: int, rows: int) -> Widths:
    """vectors: checkpoints a row has a vector of. Raises InvalidOption where the options contradict each other."""
    _check(options)
    kind = sketch_kind(options)
    if kind == "learned":
        return _learned(options, tracked, vectors, rows)
    if kind == "none":
        return _fitting(options, Widths(None, vectors * module_dims(tracked, None)))
    width = _projection_width(options, tracked, vectors, rows)
    return _fitting(options, Widths(width, vectors * module_dims(tracked, width)))


def sketch_kind(options: IndexOptions) -> Literal["none", "random", "learned"]:
    if options.sketch != "auto":
        return options.sketch
    return "random" if options.learned_dim is None and options.bytes_per_row is None else "learned"


def module_dims(tracked: Sequence[TrackedModule], width: int | None) -> int:
    """Numbers of one checkpoint."""
    shapes = (Projection(width, 0, 0).shape(module) for module in tracked)
    return sum(rows * cols for rows, cols in shapes)


def _check(options: IndexOptions) -> None:
    for name in ("bytes_per_row", "learned_dim", "sketch_rows"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InvalidOption(f"{name} is {value}; it must be 1 or more.", pointer=f"/options/{name}")
    if options.sketch == "none" and options.projection_dim not in ("auto", 0):
        detail = f"sketch is none and projection_dim is {options.projection_dim}: choose one of them."
        raise InvalidOption(detail, pointer="/options/projection_dim")
    if options.learned_dim is not None and options.sketch in ("none", "random"):
        detail = f"sketch is {options.sketch} and has no learned_dim."
        raise InvalidOption(detail, remedy="Use sketch: learned.", pointer="/options/learned_dim")


def _fitting(options: IndexOptions, widths: Widths) -> Widths:
    """`widths`, unless its rows take more than was allowed, or more than FAISS reads back."""
    if widths.dims > MOST_NUMBERS:
        detail = f"A row takes {widths.dims:,} numbers; FAISS reads back at most {MOST_NUMBERS:,}."
        raise InvalidOption(detail, remedy="Use a smaller projection_dim, or auto.", pointer="/options/projection_dim")
    taken = row_bytes(widths.dims, options.dtype)
    if options.bytes_per_row is not None and taken > options.bytes_per_row:
        detail = f"A row takes {taken:,} bytes of {options.dtype}, and bytes_per_row is {options.bytes_per_row:,}."
        raise InvalidOption(
            detail, remedy="Use sketch: learned, a narrower dtype or more bytes.", pointer="/options/bytes_per_row"
        )
    return widths


def _projection_width(options: IndexOptions, tracked: Sequence[TrackedModule], vectors: int, rows: int) -> int | None:
    """None = exact. `auto` keeps gradients exact while the index fits, else takes the widest sketch that does."""
    if options.projection_dim != "auto":
        return options.projection_dim or None
    budget = options.exact_limit_mb << 20
    widths = (None, *WIDTHS)
    if options.bytes_per_row is not None:
        budget, widths = rows * options.bytes_per_row, (*widths, *_NARROW)
    for width in widths:
        dims = vectors * module_dims(tracked, width)
        if dims <= MOST_NUMBERS and rows * row_bytes(dims, options.dtype) <= budget:
            return width
    return widths[-1]


def _learned(options: IndexOptions, tracked: Sequence[TrackedModule], vectors: int, rows: int) -> Widths:
    """What the basis is learned from is whole while the basis (numbers kept × dims) fits into exact_limit_mb; beyond
    that the widest random sketch for which it does."""
    asked = options.learned_dim or _numbers(options)
    sample = min(rows, options.sketch_rows or max(_SKETCH_ROWS, asked))
    chosen = (None, *WIDTHS) if options.projection_dim == "auto" else (options.projection_dim or None,)
    widths = [_learned_from(asked, sample, width, vectors * module_dims(tracked, width)) for width in chosen]
    limit = options.exact_limit_mb << 20
    fitting = (w for w in widths if w.stored * w.dims * _BASIS_BYTES <= limit)
    return next(fitting, widths[-1])


def _learned_from(asked: int, sample: int, projection: int | None, dims: int) -> Widths:
    return Widths(projection, dims, min(asked, sample, dims), sample)


def _numbers(options: IndexOptions) -> int:
    allowed = options.bytes_per_row or _LEARNED_BYTES
    scale = ROW_SCALE_BYTES if options.dtype == "int8" else 0
    numbers = (allowed - scale) // NUMBER_BYTES[options.dtype]
    if numbers < 1:
        detail = f"{allowed} bytes hold no {options.dtype} number and its scale."
        raise InvalidOption(detail, pointer="/options/bytes_per_row")
    return numbers
