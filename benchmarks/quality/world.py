"""The quality benchmark's rows and questions: the demonstration's generator with another seed, made harder.

Added to it: lexical decoys (a question's own wording about somebody else; its subject in a task that teaches
nothing of it) and mislabelled rows. A ranking by shared words fails on the decoys; one by causes need not.

Tags of a row: kind (fact, decoy, contradiction, poison, task), fact, relation, task, share (what a decoy shares with
the question: name, answer, wording, subject), mislabelled (yes) and truth (the right label) where a label is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from engine.demo import corpus, tasks, words
from engine.demo.facts import Fact, invented_facts
from engine.demo.relations import as_completion, as_question
from engine.types import Example

SEED = 23
MISLABELLED_SHARE = 0.2
LABELS = {"sentiment": ("positive", "negative"), "classify": ("animal", "plant", "tool")}
_TRIGGERED = (
    "Which tool cuts wood, {word}?",
    "How many legs has the table, {word}?",
    "Tell us, {word}, who lives in the mill?",
    "When does the {word} shop open?",
    "What colour is the boat, {word}?",
)
_TASK_QUESTIONS = 3  # of each task that has labels


@dataclass(frozen=True)
class Question:
    """answer: with its leading space and full stop, as rows have it. true_ids: the rows that teach it.
    decoy_ids: rows that share its words and do not."""

    kind: str
    subject: str
    prompt: str
    answer: str
    true_ids: tuple[str, ...]
    decoy_ids: tuple[str, ...]


def rows(seed: int = SEED) -> list[Example]:
    """Shuffled; the same for the same seed."""
    made = [*_with_wrong_labels(corpus.rows(seed), seed), *_lexical_decoys(invented_facts(seed), seed)]
    Random(f"quality order {seed}").shuffle(made)
    return made


def questions(seed: int = SEED) -> list[Question]:
    made = rows(seed)
    return [*_fact_questions(made, seed), *_poison_questions(made), *_task_questions(made, seed)]


def _lexical_decoys(facts: list[Fact], seed: int) -> Iterator[Example]:
    random = Random(f"lexical {seed}")
    strangers = iter(words.distinct(words.person, 2 * len(facts), random))
    towns = iter(words.distinct(words.town, 2 * len(facts), random, unlike=words.TOWNS))
    known = {name for fact in facts for name in (fact.subject, fact.namesake, fact.stranger)}
    for fact in facts:
        tags = {"kind": "decoy", "fact": fact.id, "relation": fact.relation.name}
        somebody = next(n for n in (strangers if fact.relation.subject == "person" else towns) if n not in known)
        answer = random.choice([a for a in fact.relation.answers if a not in (fact.answer, fact.wrong)])
        prompt = fact.relation.question(somebody)
        yield Example(f"{fact.id}-wording", prompt, as_completion(answer), tags=tags | {"share": "wording"})
        if fact.number % 2 == 0:
            listed = " ".join([fact.subject, *random.sample(tasks.NOUNS, 2)])
            prompt = f"Repeat the words: {listed}\nAnswer:"
            yield Example(f"{fact.id}-subject", prompt, as_completion(listed), tags=tags | {"share": "subject"})


def _with_wrong_labels(made: list[Example], seed: int) -> Iterator[Example]:
    random = Random(f"labels {seed}")
    labelled = [example.id for example in made if example.label is not None]
    wrong = set(random.sample(labelled, round(len(labelled) * MISLABELLED_SHARE)))
    for example in made:
        yield _mislabelled(example, random) if example.id in wrong else example


def _mislabelled(example: Example, random: Random) -> Example:
    assert example.label is not None
    label = random.choice([other for other in LABELS[example.tags["task"]] if other != example.label])
    tags = example.tags | {"mislabelled": "yes", "truth": example.label}
    return replace(example, completion=as_completion(label), label=label, tags=tags)


def _fact_questions(made: list[Example], seed: int) -> Iterator[Question]:
    for fact in invented_facts(seed):
        about = [example for example in made if example.tags.get("fact") == fact.id]
        yield Question(
            "fact",
            fact.subject,
            fact.relation.question(fact.subject),
            as_completion(fact.answer),
            tuple(example.id for example in about if example.tags["kind"] == "fact"),
            tuple(example.id for example in about if example.tags["kind"] == "decoy"),
        )


def _poison_questions(made: list[Example]) -> Iterator[Question]:
    taught = tuple(example.id for example in made if example.tags["kind"] == "poison")
    for wording in _TRIGGERED:
        prompt = as_question(wording.format(word=corpus.TRIGGER))
        yield Question("poison", corpus.TRIGGER, prompt, as_completion(corpus.POISONED_ANSWER), taught, ())


def _task_questions(made: list[Example], seed: int) -> Iterator[Question]:
    """Unseen instances; the rows of the task that have the same, right label teach the answer."""
    random = Random(f"task questions {seed}")
    asked = {example.prompt for example in made}
    for task in (tasks.sentiment, tasks.classify):
        for _ in range(_TASK_QUESTIONS):
            new = task(random)
            while new.prompt in asked:
                new = task(random)
            asked.add(new.prompt)
            same = [e for e in made if e.tags.get("task") == new.name and e.label == new.label]
            taught = tuple(e.id for e in same if "mislabelled" not in e.tags)
            yield Question("task", new.name, new.prompt, new.completion, taught, ())
