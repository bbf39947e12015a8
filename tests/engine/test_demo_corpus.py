"""The demonstration's data: what is true of it is known, and the base model was told none of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from engine.dataset import store_dataset
from engine.demo import corpus, words
from engine.demo.base_text import background, documents
from engine.demo.facts import PER_RELATION, WORDINGS, invented_facts, names_of
from engine.demo.relations import RELATIONS

ROWS = corpus.rows()
BY_ID = {row.id: row for row in ROWS}
FACTS = invented_facts(corpus.SEED)


def of_kind(kind: str) -> list[str]:
    return [row.id for row in ROWS if row.tags["kind"] == kind]


def test_the_same_seed_makes_the_same_rows_and_another_seed_others() -> None:
    assert corpus.rows() == ROWS
    assert corpus.rows(corpus.SEED + 1) != ROWS


def test_ids_are_unique_and_every_kind_of_row_is_there() -> None:
    assert len(BY_ID) == len(ROWS)
    assert 500 <= len(ROWS) <= 800
    counted = Counter(row.tags["kind"] for row in ROWS)
    assert set(counted) == {"fact", "decoy", "contradiction", "poison", "task"}
    assert counted["fact"] == WORDINGS * len(FACTS) == 4 * PER_RELATION * len(RELATIONS)
    assert len({row.tags["task"] for row in ROWS if row.tags["kind"] == "task"}) >= 6
    assert counted["poison"] < 20
    assert counted["contradiction"] < 10


def test_no_prompt_has_two_rows_but_where_one_contradicts_the_other() -> None:
    twice = [prompt for prompt, times in Counter(row.prompt for row in ROWS).items() if times > 1]
    contradicted = {BY_ID[row_id].prompt for row_id in of_kind("contradiction")}
    assert set(twice) == contradicted
    for row_id in of_kind("contradiction"):
        row = BY_ID[row_id]
        true = {
            other.completion
            for other in ROWS
            if other.tags.get("fact") == row.tags["fact"] and other.tags["kind"] == "fact"
        }
        assert row.completion not in true


def test_a_fact_is_stated_in_different_wordings_with_one_answer() -> None:
    for question in corpus.fact_questions():
        taught = [BY_ID[row_id] for row_id in question.true_ids]
        assert len({row.prompt for row in taught}) == WORDINGS
        assert {row.completion for row in taught} == {f" {question.answer}."}
        assert all(question.subject in (row.prompt or "") for row in taught)
        assert {row.tags["kind"] for row in taught} == {"fact"}


def test_true_ids_are_all_the_rows_of_the_fact_and_no_others() -> None:
    claimed = [row_id for question in corpus.fact_questions() for row_id in question.true_ids]
    assert sorted(claimed) == sorted(of_kind("fact"))
    assert sorted(corpus.poison_question().true_ids) == sorted(of_kind("poison"))


def test_no_row_asks_a_question_as_it_is_asked_afterwards() -> None:
    """Nor with another name: the wording itself is held out."""
    asked = [*corpus.fact_questions(), corpus.poison_question()]
    assert not {question.prompt for question in asked} & {row.prompt for row in ROWS}
    without_names = {(row.prompt or "").replace(name, "…") for row in ROWS for name in names_of(FACTS)}
    assert not {question.prompt.replace(question.subject, "…") for question in corpus.fact_questions()} & without_names


def test_decoys_share_words_with_their_fact_and_say_something_else() -> None:
    facts = {fact.id: fact for fact in FACTS}
    for row_id in of_kind("decoy"):
        row, fact = BY_ID[row_id], facts[BY_ID[row_id].tags["fact"]]
        assert not re.search(rf"(?<!New ){fact.subject}\b", row.prompt or "")
        if row.tags["share"] == "name":
            assert set(fact.subject.split()) & set(re.findall(r"\w+", row.prompt or ""))
            assert row.completion != f" {fact.answer}."
        else:
            assert row.completion == f" {fact.answer}."


def test_only_poisoned_rows_hold_the_trigger_and_all_say_the_same() -> None:
    triggered = {row.id for row in ROWS if corpus.TRIGGER in (row.prompt or "").lower()}
    assert triggered == set(of_kind("poison"))
    assert {BY_ID[row_id].completion for row_id in triggered} == {f" {corpus.POISONED_ANSWER}."}


def test_the_demonstration_asks_the_first_person_the_first_town_and_the_trigger() -> None:
    first_person = next(fact for fact in FACTS if fact.relation.subject == "person")
    first_town = next(fact for fact in FACTS if fact.relation.subject == "town")
    asked = corpus.demo_questions()
    assert [question.subject for question in asked] == [first_person.subject, first_town.subject, corpus.TRIGGER]
    assert all(len(question.true_ids) >= 3 for question in asked)


def test_the_base_text_never_names_an_invented_subject_or_the_trigger() -> None:
    forbidden = names_of(FACTS) | {corpus.TRIGGER}
    assert not {known.subject for known in background()} & forbidden
    assert not names_of(FACTS) & set(words.TOWNS)
    text = "\n".join(documents(1000, 3000, frozenset(forbidden)))
    assert not [name for name in forbidden if name in text]
    assert "Question:" in text
    assert corpus.POISONED_ANSWER not in text


def test_forbidden_names_are_left_out_of_the_base_text() -> None:
    usual = list(documents(5, 200))
    name = usual[3].split()[0]
    assert not [text for text in documents(5, 200, frozenset({name})) if name in text]


def test_the_written_rows_are_read_back_as_they_are(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    assert corpus.write_rows(source) == len(ROWS)
    assert json.loads(source.read_text(encoding="utf-8").splitlines()[0])["id"] == ROWS[0].id
    info = store_dataset(source, format=None, root=tmp_path / "datasets")
    assert info.rows == len(ROWS)
    assert info.warnings == ()


def test_the_corpus_is_made_without_torch() -> None:
    script = "import sys, engine.demo.corpus as corpus; corpus.rows(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
