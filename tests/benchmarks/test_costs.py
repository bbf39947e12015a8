"""What the benchmarks of start-up, memory and scale make of their measurements."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import scale, startup
from benchmarks.memory import BUDGET, Peak, anonymous_bytes, growth, table, watched

MiB = 2**20


@given(power=st.floats(0.2, 3), factor=st.floats(1e-6, 1e3))
def test_the_exponent_of_a_power_is_found(power: float, factor: float) -> None:
    tokens = [1e3, 4e3, 1.6e4]
    assert scale.exponent(tokens, [factor * token**power for token in tokens]) == pytest.approx(power)


@given(constant=st.floats(0.1, 10), slope=st.floats(0, 0.1))
def test_attentions_part_is_what_grows_with_the_length(constant: float, slope: float) -> None:
    lengths = [64.0, 256.0, 1024.0, 2048.0]
    share = scale.attention_share(lengths, [constant + slope * length for length in lengths])
    assert share == pytest.approx(slope * 2048 / (constant + slope * 2048), abs=1e-9)


def test_a_cost_that_falls_with_the_length_has_no_such_part() -> None:
    assert scale.attention_share([64, 2048], [2, 1]) == 0


def points() -> list[scale.Row]:
    made = [("length", length, 65_536 // length, 1 + length / 1000) for length in scale.LENGTHS]
    made += [("number", 64, count, 1.0) for count in (1024, 4096, 16_384)]
    return [
        {
            "by": by,
            "T": length,
            "N": rows,
            "tokens": length * rows,
            "seconds": length * rows * ratio * 1e-5,
            "a token, against the first": ratio,
        }
        for by, length, rows, ratio in made
    ]


def test_the_figure_is_drawn_of_the_points_and_is_the_same_again(tmp_path: Path) -> None:
    found = scale.summary(points())
    assert found["exponent_in_tokens"] == 1.0
    first, second = (scale.drawn(points(), found, tmp_path / f"{n}.svg").read_text() for n in (1, 2))
    assert first == second
    assert "attention" not in first and "tokens a row" in first
    assert scale.INK in first and "#ffffff" not in first.lower()  # no ground of its own: pages are light or dark


def test_the_target_is_beside_what_was_measured() -> None:
    met, named = scale.compared(scale.summary(points()))
    assert met["met"] == "yes" and named["target"] is None
    assert scale.compared({**scale.summary(points()), "exponent_in_tokens": 1.4})[0]["met"] == "no"


def test_memory_is_read_of_a_process_and_its_peak_is_kept() -> None:
    assert anonymous_bytes(os.getpid()) > MiB
    assert anonymous_bytes(2**22 + 1) == 0  # there is no such process
    with watched(os.getpid()) as peak:
        held = bytearray(os.urandom(1)) * (64 * MiB)
        while peak.most - peak.before < 32 * MiB:
            pass
        del held
    assert peak.most - peak.before > 32 * MiB


@pytest.mark.parametrize(("a_row", "met"), [(BUDGET["build"] - 1, "yes"), (BUDGET["build"] + 1, "no")])
def test_growth_is_the_slope_and_is_held_to_the_budget(a_row: int, met: str) -> None:
    sizes = [1000, 2000, 5000]
    peaks = [Peak(0, before=MiB, most=3 * MiB + size * a_row) for size in sizes]
    assert growth(sizes, [peak.most for peak in peaks]) == a_row
    rows = table("build", sizes, peaks)
    assert [row["met"] for row in rows] == [None, None, met]


def test_start_up_is_held_to_seconds_and_to_the_models_load() -> None:
    found = {
        startup.PASS: [0.02, 0.02, 0.5],
        startup.FASTAPI: [0.4, 0.4, 0.4],
        startup.IMPORT: [1.0, 1.3, 1.1],
        startup.HELP: [0.6, 0.6, 0.2],
        startup.READY: [1.5, 1.5, 1.5],
        startup.ANSWER: [4.2, 4.2, 4.2],
        startup.LOAD: [3.0, 3.0, 3.0],
    }
    rows = {row["what"]: row for row in startup.table(found)}
    assert [rows[name]["met"] for name in (startup.IMPORT, startup.HELP)] == ["yes", "no"]
    assert [rows[name]["met"] for name in (startup.READY, startup.ANSWER)] == ["yes", "no"]
    assert rows[startup.IMPORT]["× fastapi"] == 2.75
    assert rows[startup.PASS]["met"] is None
