"""What an answer of an approximate search says of itself, on the command line and on its page."""

from __future__ import annotations

import pytest

from app.commands.answer import searched
from app.dashboard.asking.views import _searched
from whence_client.types import Diagnostics


@pytest.mark.parametrize(("recall", "said"), [(None, False), (0.973, True)])
def test_the_recall_is_said_where_not_every_row_was_read(recall: float | None, said: bool) -> None:
    figures = Diagnostics(searched=9, total=12, search="ivf" if said else "flat", recall_at_10=recall)
    for text in (searched(figures), _searched(figures.model_dump())):
        assert ("97%" in text) == said
    assert ("--flat" in searched(figures)) == said
    assert _searched(figures.model_dump()).startswith("9 of 12 rows")


def test_answers_stored_before_there_were_lists_are_shown() -> None:
    assert _searched({"searched": 3, "total": 3}) == "3 of 3 rows"
