"""Tokens, cut and coloured: nothing of a text is added, lost, or marked at the wrong place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dashboard.asking.tokens import HEATS, Mark, coloured, cut, in_words, kind_of, marked, output_tokens, parts_of


def token(text: str, start: int, end: int, part: str = "completion", target: bool = True) -> dict[str, Any]:
    return {"text": text, "start": start, "end": end, "part": part, "target": target}


TOKENS = [
    token("Who", 0, 3, "prompt", False),
    token("A", 1, 2),
    token("da", 2, 4, target=False),
    token("</s>", 4, 4, "special"),
]


def test_the_output_is_cut_at_its_tokens_and_nothing_is_lost() -> None:
    pieces = output_tokens({"completion": " Ada.", "tokens": TOKENS})
    shown = [(piece.text, piece.target, piece.start, piece.places) for piece in pieces]
    assert shown == [
        (" ", False, 0, ()),
        ("A", True, 1, (1,)),
        ("da", False, 2, (2,)),
        (".", False, 4, ()),
        ("</s>", True, 0, (3,)),
    ]
    assert [piece.special for piece in pieces] == [False] * 4 + [True]


def test_tokens_that_spell_one_character_together_are_one_piece_with_both_parts() -> None:
    tokens = [token("\ufffd", 0, 1), token("\ufffd", 0, 1), token("!", 1, 2)]
    pieces = output_tokens({"completion": "é!", "tokens": tokens})
    assert [(piece.text, piece.places) for piece in pieces] == [("é", (0, 1)), ("!", (2,))]
    assert parts_of({"query_token_scores": [0.5, 0.25, -1.0]}, pieces, "tokens") == (0.75, -1.0)


def test_of_a_set_the_first_ones_tokens_are_shown() -> None:
    tokens = [token("a", 0, 1) | {"member": 0}, token("b", 0, 1) | {"member": 1}]
    assert [piece.text for piece in output_tokens({"completion": "a", "tokens": tokens})] == ["a"]


@pytest.mark.parametrize(
    ("hit", "kind"),
    [
        ({"query_token_scores": [1.0, 2.0], "position_shares": [1.0, 2.0]}, "tokens"),
        ({"position_shares": [1.0, 2.0]}, "positions"),
        ({"query_token_scores": [1.0]}, ""),
        ({}, ""),
    ],
)
def test_parts_are_those_asked_for_by_token_else_by_position(hit: dict[str, Any], kind: str) -> None:
    assert kind_of([hit], 2) == kind
    assert kind_of([hit, {}], 2) == ""


def test_a_token_is_the_darker_the_more_of_all_scores_it_carries() -> None:
    pieces = output_tokens({"completion": " Ada.", "tokens": TOKENS})
    parts = [(0.0, 3.0, 1.0, 0.0, 0.0), (0.0, -3.0, 0.0, 0.0, 1.0)]  # what speaks against does not cancel out
    shown = coloured(pieces, parts)
    assert [piece.share for piece in shown] == [0.0, 0.75, 0.125, 0.0, 0.125]
    assert [piece.heat for piece in shown] == [0, HEATS, 1, 0, 1]
    assert coloured(pieces, [(0.0,) * 5]) == pieces


def test_a_rows_parts_are_told_as_shares_of_its_own_direction() -> None:
    pieces = output_tokens({"completion": " Ada.", "tokens": TOKENS})
    assert in_words(pieces, (0.0, 3.0, -1.0, 0.0, 0.0)) == "“A” 75%, “da” -25%"
    assert in_words(pieces, (0.0, -3.0, 1.0, 0.0, 0.0)) == "“A” 75%, “da” -25%"
    assert in_words(pieces, (0.0,) * 5) == ""


def test_a_rows_tokens_are_marked_where_they_stand_in_its_text() -> None:
    tokens, shares = ["<s>", "In", " Hal", "vern", "In", "\ufffd", "."], [9.0, 0.1, 4.0, -2.0, 8.0, 0.0, 0.0]
    marks = marked("In Halvern. In é.", tokens, shares)
    assert marks == (
        Mark("In "),
        Mark("Hal", round(HEATS * 4 / 9)),
        Mark("vern", round(HEATS * 2 / 9), against=True),
        Mark(". "),
        Mark("In", round(HEATS * 8 / 9)),
        Mark(" é."),
    )


@given(
    st.text(max_size=60),
    st.lists(st.tuples(st.text(max_size=8), st.one_of(st.none(), st.floats(-5, 5))), max_size=20),
    st.integers(0, 60),
)
def test_whatever_the_tokens_the_text_stays_whole(
    text: str, tokens: list[tuple[str, float | None]], limit: int
) -> None:
    marks = marked(text, [token for token, _ in tokens], [share for _, share in tokens])
    assert "".join(mark.text for mark in marks) == text
    assert all(0 <= mark.heat <= HEATS and mark.text for mark in marks)
    short = "".join(mark.text for mark in cut(marks, limit))
    assert short == (text if len(text) <= limit else text[:limit] + "…")
