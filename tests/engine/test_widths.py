"""How many numbers a row takes: the options, resolved."""

from __future__ import annotations

from typing import Any

import pytest

from engine.config import IndexOptions
from engine.errors import InvalidOption
from engine.manifest import row_bytes
from engine.modules import TrackedModule
from engine.widths import Widths, choose_widths


def tracked(*shapes: tuple[int, int]) -> list[TrackedModule]:
    return [
        TrackedModule(f"m{n}", f"m{n}", "linear", inputs, outputs, False, f"g{n}")
        for n, (outputs, inputs) in enumerate(shapes)
    ]


MODULES = tracked((64, 32), (16, 64))  # 3,072 numbers a checkpoint


def widths(rows: int = 10_000, vectors: int = 2, **options: Any) -> Widths:
    return choose_widths(IndexOptions(**options), MODULES, vectors, rows)


def test_the_default_is_exact_where_it_fits_and_the_widest_random_sketch_where_not() -> None:
    assert widths() == Widths(None, 6144)
    assert widths(exact_limit_mb=30) == Widths(16, 2 * (16 * 16 + 16 * 16))
    assert widths(projection_dim=8) == Widths(8, 2 * 2 * 64)
    assert widths(projection_dim=0, exact_limit_mb=0) == Widths(None, 6144)


@pytest.mark.parametrize(("dtype", "numbers"), [("int8", 2044), ("float16", 1024), ("float32", 512)])
def test_a_learned_sketch_holds_as_many_numbers_as_its_bytes(dtype: str, numbers: int) -> None:
    assert widths(sketch="learned", dtype=dtype) == Widths(None, 6144, numbers, 2048)
    assert widths(bytes_per_row=2048, dtype=dtype) == Widths(None, 6144, numbers, 2048)
    assert row_bytes(numbers, dtype) == 2048


def test_a_learned_sketch_is_no_wider_than_its_sample_or_its_rows() -> None:
    assert widths(learned_dim=300, rows=200) == Widths(None, 6144, 200, 200)
    assert widths(learned_dim=300, sketch_rows=100) == Widths(None, 6144, 100, 100)
    assert widths(learned_dim=3000) == Widths(None, 6144, 3000, 3000)
    assert widths(learned_dim=9000) == Widths(None, 6144, 6144, 9000)


def test_a_basis_too_large_is_learned_from_a_random_sketch() -> None:
    assert widths(learned_dim=1024, exact_limit_mb=12) == Widths(None, 6144, 1024, 2048)
    assert widths(learned_dim=1024, exact_limit_mb=2) == Widths(16, 1024, 1024, 2048)
    assert widths(learned_dim=64, projection_dim=8) == Widths(8, 256, 64, 2048)


def test_a_random_sketch_fits_its_bytes() -> None:
    assert widths(sketch="random", bytes_per_row=20_000) == Widths(None, 6144)
    assert widths(sketch="random", bytes_per_row=2048) == Widths(16, 1024)
    assert widths(sketch="random", bytes_per_row=20) == Widths(1, 4)


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ({"sketch": "none", "projection_dim": 8}, "/options/projection_dim"),
        ({"sketch": "none", "bytes_per_row": 2048}, "/options/bytes_per_row"),
        ({"sketch": "random", "bytes_per_row": 4}, "/options/bytes_per_row"),
        ({"sketch": "random", "projection_dim": 16, "bytes_per_row": 2000}, "/options/bytes_per_row"),
        ({"sketch": "random", "learned_dim": 4}, "/options/learned_dim"),
        ({"learned_dim": 0}, "/options/learned_dim"),
        ({"dtype": "int8", "bytes_per_row": 4}, "/options/bytes_per_row"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        widths(**options)
    assert caught.value.pointer == pointer


@pytest.mark.parametrize(
    "options", [{}, {"exact_limit_mb": 30}, {"bytes_per_row": 500}, {"sketch": "random", "bytes_per_row": 2048}]
)
def test_what_was_resolved_resolves_to_itself(options: dict[str, Any]) -> None:
    """An index is opened by the options in its manifest."""
    first = widths(**options)
    kind = "learned" if first.learned else "random" if first.projection else "none"
    taken = row_bytes(first.stored, "float16")
    again = {"sketch": kind, "projection_dim": first.projection or 0, "bytes_per_row": taken}
    assert widths(**again, learned_dim=first.learned, sketch_rows=first.sketch_rows) == first
