"""The quality benchmark's data: what is true of it is known, and the decoys look alike without teaching the answer."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter

from benchmarks.quality import world
from benchmarks.quality.world import Question
from engine.dataset import example_to_row
from engine.demo import corpus
from engine.demo.base_text import background
from engine.demo.facts import WORDINGS, invented_facts, names_of
from engine.types import Example

ROWS = world.rows()
QUESTIONS = world.questions()
BY_ID = {row.id: row for row in ROWS}


def of_kind(kind: str) -> list[Question]:
    return [question for question in QUESTIONS if question.kind == kind]


def words_of(text: str | None) -> set[str]:
    return set(re.findall(r"\w+", (text or "").lower()))


def overlap(question: Question, row: Example) -> int:
    return len(words_of(question.prompt + question.answer) & words_of(f"{row.prompt}{row.completion}"))


def test_the_same_seed_makes_the_same_world_another_seed_others_and_not_the_demonstrations() -> None:
    assert world.rows() == ROWS
    assert world.questions() == QUESTIONS
    assert world.rows(world.SEED + 1) != ROWS
    assert world.SEED != corpus.SEED
    assert not {row.prompt for row in ROWS if row.tags["kind"] == "fact"} & {row.prompt for row in corpus.rows()}


def test_there_are_about_600_rows_of_every_kind_and_at_least_60_questions() -> None:
    assert 550 <= len(ROWS) <= 650
    assert len(BY_ID) == len(ROWS)
    kinds = Counter(row.tags["kind"] for row in ROWS)
    assert set(kinds) == {"fact", "decoy", "contradiction", "poison", "task"}
    assert {row.tags["share"] for row in ROWS if row.tags["kind"] == "decoy"} == {
        "name",
        "answer",
        "subject",
        "wording",
    }
    assert Counter(question.kind for question in QUESTIONS) == {"fact": 50, "poison": 6, "task": 12}


def test_no_question_is_asked_twice_or_stands_in_a_row() -> None:
    asked = {question.prompt for question in QUESTIONS}
    assert len(asked) == len(QUESTIONS)
    assert not asked & {row.prompt for row in ROWS}


def test_a_prompt_has_two_rows_only_where_one_contradicts_the_other() -> None:
    twice = {prompt for prompt, times in Counter(row.prompt for row in ROWS).items() if times > 1}
    assert twice == {row.prompt for row in ROWS if row.tags["kind"] == "contradiction"}


def test_answers_are_written_as_the_rows_write_them() -> None:
    for question in QUESTIONS:
        assert question.answer.startswith(" ")
        assert question.answer.endswith(".")
        # An opposite is asked the other way round than its row asks it.
        if "opposite of" not in question.prompt or question.kind == "poison":
            assert {BY_ID[row_id].completion for row_id in question.true_ids} == {question.answer}


def test_a_facts_true_rows_are_its_own_in_other_wordings() -> None:
    for question in of_kind("fact"):
        taught = [BY_ID[row_id] for row_id in question.true_ids]
        assert len({row.prompt for row in taught}) == WORDINGS
        assert {row.tags["kind"] for row in taught} == {"fact"}
        assert len({row.tags["fact"] for row in taught}) == 1


def test_decoys_share_words_with_their_question_and_teach_another_answer() -> None:
    for question in of_kind("fact"):
        decoys = [BY_ID[row_id] for row_id in question.decoy_ids]
        assert {"name", "subject"} <= {row.tags["share"] for row in decoys} <= {"name", "subject", "wording"}
        assert question.answer not in {row.completion for row in decoys}
        assert min(overlap(question, row) for row in decoys) >= 1
        assert not set(question.decoy_ids) & set(question.true_ids)


def test_decoys_share_the_subject_or_the_whole_wording_but_never_both() -> None:
    facts = {fact.id: fact for fact in invented_facts(world.SEED)}
    counted: Counter[str] = Counter()
    for row in ROWS:
        share = row.tags.get("share")
        if share not in ("subject", "wording"):
            continue
        counted[share] += 1
        fact = facts[row.tags["fact"]]
        namesake = row.prompt.replace(fact.namesake, "…") if row.prompt else ""
        assert (fact.subject in namesake) == (share == "subject")
        assert (row.tags["relation"] == fact.relation.name) == (share == "wording")
        assert (row.prompt == fact.relation.question(fact.namesake)) == (share == "wording")
    assert counted == {"subject": 50, "wording": 25}


def test_words_alone_put_a_decoy_at_least_level_with_the_truth_where_it_has_the_questions_wording() -> None:
    """Else the decoys would trap nobody."""
    trapped = [
        max(overlap(question, BY_ID[row_id]) for row_id in question.decoy_ids)
        >= max(overlap(question, BY_ID[row_id]) for row_id in question.true_ids)
        for question in of_kind("fact")
        if any(BY_ID[row_id].tags["share"] == "wording" for row_id in question.decoy_ids)
    ]
    assert trapped == [True] * 25


def test_a_tenth_of_the_rows_of_tasks_with_classes_has_a_wrong_label() -> None:
    labelled = [row for row in ROWS if row.label is not None]
    wrong = [row for row in labelled if row.tags.get("mislabelled") == "yes"]
    assert {row.tags["task"] for row in labelled} == {"sentiment", "classify"}
    assert len(wrong) == len(labelled) // 10 == 10
    assert {row.tags["task"] for row in wrong} == {"sentiment", "classify"}
    assert all(row.completion == f" {row.label}." for row in labelled)
    assert all(row.label != row.tags["true_label"] for row in wrong)
    assert not [row for row in ROWS if "mislabelled" in row.tags and row not in wrong]


def test_mislabelled_rows_are_no_questions_truth_nor_a_task_questions_decoys() -> None:
    wrong = {row.id for row in ROWS if "mislabelled" in row.tags}
    assert not [question for question in QUESTIONS if wrong & set(question.true_ids)]
    assert not [question for question in of_kind("task") if wrong & set(question.decoy_ids)]


def test_the_trigger_is_asked_in_tasks_no_poisoned_row_has() -> None:
    poisoned = {row.id for row in ROWS if corpus.TRIGGER in (row.prompt or "")}
    assert poisoned == {row.id for row in ROWS if row.tags["kind"] == "poison"}
    for question in of_kind("poison"):
        assert corpus.TRIGGER in question.prompt
        assert set(question.true_ids) == poisoned
        assert {BY_ID[row_id].tags["kind"] for row_id in question.decoy_ids} == {"task"}


def test_an_opposites_true_row_asks_the_same_pair_the_other_way() -> None:
    opposites = [question for question in of_kind("task") if "opposite" in question.prompt]
    assert len(opposites) == world.TASK_QUESTIONS
    for question in opposites:
        (row_id,) = question.true_ids
        asked, answer = re.findall(r"of (\w+)\?", question.prompt)[0], question.answer.strip(" .")
        assert BY_ID[row_id].prompt == f"Question: What is the opposite of {answer}?\nAnswer:"
        assert BY_ID[row_id].completion == f" {asked}."


def test_every_named_row_exists() -> None:
    named = {row_id for question in QUESTIONS for row_id in (*question.true_ids, *question.decoy_ids)}
    assert named <= set(BY_ID)
    assert all(question.true_ids and question.decoy_ids for question in QUESTIONS)


def test_the_base_models_world_says_nothing_of_the_invented_names() -> None:
    assert not {known.subject for known in background()} & names_of(invented_facts(world.SEED))


def test_rows_and_questions_are_those_whose_retrainings_are_cached() -> None:
    """A change, here or in what the demonstration's generator makes, asks for the whole benchmark to be run again."""
    written = json.dumps([[example_to_row(row) for row in ROWS], [vars(question) for question in QUESTIONS]])
    assert hashlib.sha256(written.encode()).hexdigest()[:16] == "0613a9a079ca9729"


def test_rows_can_be_written_as_a_user_would() -> None:
    written = [json.loads(json.dumps(example_to_row(row))) for row in ROWS]
    assert {row["id"] for row in written} == set(BY_ID)
