"""Near-duplicates against a loop over pairs, and what counts as one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clusters import with_clusters
from engine.dataset import example_to_row
from engine.demo import corpus
from engine.near_duplicates import near_duplicates, shingles, similarity, words
from engine.types import Example, Hit, Message
from tests import factories


def pair(number: int, prompt: str, completion: str) -> Example:
    return Example(str(number), prompt=prompt, completion=completion)


def naive(examples: list[Example]) -> list[list[int]]:
    """Every pair compared, then links followed until nothing changes. Rows here are prompt+completion."""
    cluster = list(range(len(examples)))
    for _ in examples:
        for a, one in enumerate(examples):
            for b, other in enumerate(examples):
                whole = jaccard(f"{one.prompt}{one.completion}", f"{other.prompt}{other.completion}")
                if whole >= 0.8 and jaccard(one.completion or "", other.completion or "") >= 0.8:
                    cluster[a] = cluster[b] = min(cluster[a], cluster[b])
    found = [[i for i, of in enumerate(cluster) if of == c] for c in set(cluster)]
    return sorted(members for members in found if len(members) > 1)


def jaccard(one: str, other: str) -> float:
    a, b = (three_words(text.lower().split()) for text in (one, other))
    return len(a & b) / len(a | b)


def three_words(text: list[str]) -> set[tuple[str, ...]]:
    return {tuple(text[i : i + 3]) for i in range(max(1, len(text) - 2))}


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 100_000), rows=st.integers(0, 14), changes=st.integers(0, 3))
def test_clusters_are_those_of_a_loop_over_pairs(seed: int, rows: int, changes: int) -> None:
    random = Random(seed)
    told = [[random.choice("abcd") for _ in range(random.randint(1, 40))] for _ in range(3)]
    examples = []
    for number in range(rows):
        text = list(random.choice(told))
        for _ in range(random.randint(0, changes)):
            text[random.randrange(len(text))] = random.choice("abcdefg")
        cut = random.randint(0, min(3, len(text)))
        examples.append(pair(number, " ".join(text[:cut]), " " + " ".join(text[cut:])))
    assert near_duplicates(examples) == naive(examples)


TEXT = "The old baker of Port Halvern sold nine loaves and one lamp to the doctor who lives near the harbour wall"


@pytest.mark.parametrize(
    ("one", "other", "duplicates"),
    [
        (TEXT, TEXT, True),
        (TEXT, TEXT.upper() + "!", True),
        (TEXT, TEXT.replace(" ", "  \n"), True),
        (TEXT, TEXT + " today", True),
        (TEXT, TEXT.replace("lamp", "goat"), False),  # three of its eighteen shingles differ: 15/21
        (TEXT, " ".join(reversed(TEXT.split())), False),
        ("one two three four five six", "one two three four five six seven", True),  # 4/5
        ("one two three four five", "one two three four five six", False),  # 3/4
        ("Yes.", " yes", True),
        ("yes", "no", False),
        ("", "", True),
        ("!!!", "???", False),
        ("!!!", "", False),
        ("x = 5", "x = -5", False),
        ("caf\u00e9 noir", "cafe\u0301 noir", True),
        ("Ｗｈｅｎｃｅ １２", "whence 12", True),
        ("STRASSE", "straße", True),
        (
            "東京は日本の首都であり、世界最大の都市圏のひとつです",
            "東京は日本の首都であり世界最大の都市圏のひとつです。",
            True,
        ),
        ("東京は日本の首都です", "京都は日本の古都です", False),
        ("👍👍", "👎👎", False),
        ("क्या", "क्यों", False),
        ("\x00", "\ud7ff", False),
    ],
)
def test_what_nearly_coincides(one: str, other: str, duplicates: bool) -> None:
    rows = [Example("a", text=one), Example("b", text=other)]
    assert near_duplicates(rows) == ([[0, 1]] if duplicates else [])


def test_a_long_shared_prompt_does_not_make_two_answers_one() -> None:
    assert near_duplicates([pair(0, TEXT, " positive"), pair(1, TEXT, " negative")]) == []
    assert near_duplicates([pair(0, TEXT, " positive"), pair(1, TEXT, " positive.")]) == [[0, 1]]


def test_a_shared_answer_does_not_make_two_questions_one() -> None:
    assert near_duplicates([pair(0, "Is a cat an animal?", " Yes."), pair(1, "Is a dog an animal?", " Yes.")]) == []


def test_conversations_are_compared_by_all_they_say_and_by_their_last_answer() -> None:
    system = Message("system", TEXT)

    def talk(asked: str, answered: str) -> Example:
        return Example("x", messages=(system, Message("user", asked), Message("assistant", answered)))

    rows = [talk("Which town?", "Rarmoss."), talk("Which town?", "Lombury."), talk("Which town?", "rarmoss")]
    assert near_duplicates(rows) == [[0, 2]]


def test_links_are_followed_from_row_to_row() -> None:
    text = [f"w{i}" for i in range(30)]
    rows = [Example(str(n), text=" ".join(text[n : n + 24])) for n in (0, 2, 4)]
    first, second, last = (shingles(row.text or "") for row in rows)
    assert similarity(first, second) >= 0.8 > similarity(first, last)
    assert near_duplicates(rows) == [[0, 1, 2]]


def test_a_thousand_copies_and_a_thousand_templates_take_no_square_of_the_time() -> None:
    rows = [pair(n, "Say the word of the day", " lamp.") for n in range(1000)]
    rows += [pair(n, f"Question: What is {n} plus {n + 7}?\nAnswer:", f" {2 * n + 7}.") for n in range(1000)]
    assert near_duplicates(rows) == [list(range(1000))]


def test_words_of_a_text() -> None:
    assert words("It's “Port-Halvern”, naïve_x 3.5€") == [
        "it",
        "s",
        "port",
        "-",
        "halvern",
        "naïve",
        "x",
        "3",
        "5",
        "€",
    ]


def hit(rank: int, position: int, score: float) -> Hit:
    return Hit(rank, position, f"row-{position}", score, None, 50.0)


@pytest.mark.parametrize("additive", [True, False])
def test_a_cluster_has_the_sum_of_its_hits_or_the_strongest_of_them(tmp_path: Path, additive: bool) -> None:
    """Copies planted among the demonstration's rows."""
    told = corpus.rows()[:40]
    fact = next(row for row in told if row.tags["kind"] == "fact")
    copies = [replace(fact, id="planted-1"), replace(fact, id="planted-2", completion=f"{fact.completion} ")]
    copies.append(replace(told[7], id="planted-3", prompt=f" {told[7].prompt}"))
    rows = factories.dataset(tmp_path, [example_to_row(row) for row in [*told, *copies]])
    at = {row.id: position for position, row in enumerate(rows)}
    proponents = (hit(1, at["planted-2"], 5.0), hit(2, at[fact.id], 3.5), hit(3, at[told[7].id], 1.0))
    opponents = (hit(1, at["planted-3"], -4.0), hit(2, at["planted-1"], -0.5), hit(3, at[told[1].id], -0.25))
    proponents, opponents, (first, second) = with_clusters(rows, proponents, opponents, additive=additive)
    assert first.example_ids == tuple(f"row-{position}" for position in first.positions)
    assert (first.ranks, first.sides) == ((1, 2, 2), ("proponent", "proponent", "opponent"))
    assert first.positions == (at["planted-2"], at[fact.id], at["planted-1"])
    assert (first.score, second.score) == ((8.0, -3.0) if additive else (5.0, 1.0))
    assert [h.cluster for h in (*proponents, *opponents)] == [1, 1, 2, 2, 1, None]
    assert (first.number, second.number, first.additive) == (1, 2, additive)


def test_rows_without_near_duplicates_have_no_cluster(tmp_path: Path) -> None:
    rows = factories.dataset(tmp_path, [{"text": "one"}, {"text": "two"}])
    assert with_clusters(rows, (hit(1, 0, 1.0),), (), additive=True) == ((hit(1, 0, 1.0),), (), ())
    assert with_clusters(rows, (), (), additive=True) == ((), (), ())
