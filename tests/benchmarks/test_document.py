"""What the documents show of the benchmarks is what lies under benchmarks/results/."""

from __future__ import annotations

import pytest

from benchmarks import document
from benchmarks.document import TABLES, filled
from benchmarks.everything import BEGIN, END, LINES, README, as_markdown, found_lines


def test_the_pages_tables_are_those_of_the_results() -> None:
    page = document.PAGE.read_text(encoding="utf-8")
    assert filled(page) == page
    assert {place[2] for place in document.PLACE.finditer(page)} == set(TABLES)


def test_the_readmes_table_is_that_of_the_results() -> None:
    shown = README.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    assert shown.strip() == as_markdown(found_lines(list(LINES))).strip()


def test_a_table_of_no_known_name_is_refused() -> None:
    with pytest.raises(KeyError, match="unknown"):
        filled("<!-- table: unknown -->\n<!-- end -->")
