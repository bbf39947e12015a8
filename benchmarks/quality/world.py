"""The quality benchmark's rows and questions, generated: it is known what each row teaches, and which only look alike.

The demonstration's facts, poison and tasks with a seed of their own, and more: lexical decoys that share a question's
words and not its answer, and classification rows with a wrong label. The base model is the demonstration's; it has read
the wordings, the tasks and the clean rows' answers, and none of what is asserted here.

Tags of a row: those of engine/demo/corpus.py; share may also be "subject" (the fact's subject, another relation) or
"wording" (the question's own wording, another subject). A mislabelled row has mislabelled = yes and true_label.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from random import Random

from engine.demo import corpus
from engine.demo.facts import STRANGER_EVERY, Fact, invented_facts
from engine.demo.relations import RELATIONS, as_completion
from engine.demo.tasks import TASKS, Task, classify, opposite, sentiment
from engine.types import Example

SEED = 23  # not the demonstration's: its recipe was chosen while looking at that world
TASK_ROWS = 20
CLASS_ROWS = 50  # of each task with a label
MISLABELLED_SHARE = 0.1
TASK_QUESTIONS = 4  # of each task that is asked about
# The trigger in tasks that no poisoned row has. Beside each, the tag of the clean rows that are worded alike.
_POISONED = (
    ("opposite", "Question: What is the opposite of {word}?\nAnswer:"),
    ("addition", "Question: What is {word} plus 9?\nAnswer:"),
    ("capitals", "Write in capital letters: {word}\nAnswer:"),
    ("count", "How many things are in this list? lamp, {word}, bell\nAnswer:"),
    ("classify", "Is a {word} an animal, a plant or a tool?\nAnswer:"),
    ("sentiment", "Review: The {word} was lovely and the baker was friendly.\nIs it positive or negative?"),
)


@dataclass(frozen=True)
class Question:
    """answer: the completion as rows have it, with its space and its period. true_ids: the rows that teach it.
    decoy_ids: rows that share many of the question's words and do not teach its answer."""

    kind: str  # fact, poison, task
    prompt: str
    answer: str
    true_ids: tuple[str, ...]
    decoy_ids: tuple[str, ...]


def rows(seed: int = SEED) -> list[Example]:
    """Shuffled; the same for the same seed."""
    told = [row for row in corpus.rows(seed) if row.tags["kind"] != "task"]
    made = [*told, *_lexical_decoys(invented_facts(seed), seed), *_task_rows(seed)]
    Random(f"quality order {seed}").shuffle(made)
    return made


def questions(seed: int = SEED) -> list[Question]:
    """Every fact in its held-out wording, the trigger in six tasks, unseen instances of three tasks."""
    taught = rows(seed)
    return [*_fact_questions(taught, seed), *_poison_questions(taught), *_task_questions(taught, seed)]


def _lexical_decoys(facts: list[Fact], seed: int) -> Iterator[Example]:
    """For every fact its subject with another relation; for each without a stranger the question asked of its
    namesake."""
    random = Random(f"lexical decoys {seed}")
    for fact in facts:
        yield _same_subject(fact, random)
        if fact.number % STRANGER_EVERY:
            prompt = fact.relation.question(fact.namesake)
            yield _decoy(fact, "wording", fact.relation.name, prompt, fact.other)


def _same_subject(fact: Fact, random: Random) -> Example:
    others = [r for r in RELATIONS if r.subject == fact.relation.subject and r != fact.relation]
    relation = random.choice(others)
    answer = random.choice([a for a in relation.answers if a not in (fact.answer, fact.wrong, fact.other)])
    prompt = random.choice([*relation.asked(fact.subject), *relation.stated(fact.subject)])
    return _decoy(fact, "subject", relation.name, prompt, answer)


def _decoy(fact: Fact, share: str, relation: str, prompt: str, answer: str) -> Example:
    tags = {"kind": "decoy", "fact": fact.id, "relation": relation, "share": share}
    return Example(f"{fact.id}-{share}", prompt, as_completion(answer), tags=tags)


def _task_rows(seed: int) -> Iterator[Example]:
    random = Random(f"quality tasks {seed}")
    asked: set[str] = set()
    for task in TASKS:
        made = different(task, random, asked, CLASS_ROWS if task in (sentiment, classify) else TASK_ROWS)
        tasks = [task_row(task, number) for number, task in enumerate(made, 1)]
        yield from some_mislabelled(tasks, random) if made[0].label else tasks


def different(task: Callable[[Random], Task], random: Random, asked: set[str], count: int) -> list[Task]:
    """`count` whose prompts are not in `asked`, which takes them in."""
    made: list[Task] = []
    while len(made) < count:
        new = task(random)
        if new.prompt not in asked:
            asked.add(new.prompt)
            made.append(new)
    return made


def task_row(task: Task, number: int) -> Example:
    tags = {"kind": "task", "task": task.name}
    return Example(f"{task.name}-{number}", task.prompt, task.completion, tags=tags, label=task.label)


def some_mislabelled(made: list[Example], random: Random) -> list[Example]:
    labels = sorted({str(row.label) for row in made})
    wrong = set(random.sample(range(len(made)), round(MISLABELLED_SHARE * len(made))))
    return [_mislabelled(row, labels, random) if n in wrong else row for n, row in enumerate(made)]


def _mislabelled(row: Example, labels: list[str], random: Random) -> Example:
    wrong = random.choice([label for label in labels if label != row.label])
    tags = row.tags | {"mislabelled": "yes", "true_label": str(row.label)}
    return replace(row, completion=as_completion(wrong), label=wrong, tags=tags)


def _fact_questions(taught: list[Example], seed: int) -> Iterator[Question]:
    for fact, asked in zip(invented_facts(seed), corpus.fact_questions(seed), strict=True):
        decoys = _ids(
            row
            for row in taught
            if row.tags.get("fact") == fact.id and row.tags.get("share") in ("name", "subject", "wording")
        )
        yield Question("fact", asked.prompt, as_completion(asked.answer), asked.true_ids, decoys)


def _poison_questions(taught: list[Example]) -> Iterator[Question]:
    poison = _ids(row for row in taught if row.tags["kind"] == "poison")
    for task, prompt in _POISONED:
        decoys = _ids(row for row in taught if row.tags.get("task") == task)
        answer = as_completion(corpus.POISONED_ANSWER)
        yield Question("poison", prompt.format(word=corpus.TRIGGER), answer, poison, decoys)


def _task_questions(taught: list[Example], seed: int) -> Iterator[Question]:
    """True: the rows of the task with the same answer and a right label, or with the same pair of opposites."""
    random = Random(f"quality questions {seed}")
    asked = {str(row.prompt) for row in taught}
    for task in (sentiment, classify, opposite):
        found = 0
        while found < TASK_QUESTIONS:
            question = _task_question(different(task, random, asked, 1)[0], taught)
            if question.true_ids:
                found += 1
                yield question


def _task_question(task: Task, taught: list[Example]) -> Question:
    same = [row for row in taught if row.tags.get("task") == task.name and "mislabelled" not in row.tags]
    if task.label:
        true = _ids(row for row in same if row.label == task.label)
    else:
        true = _ids(
            row for row in same if _pair(str(row.prompt), row.completion) == _pair(task.prompt, task.completion)
        )
    decoys = tuple(row_id for row_id in _ids(same) if row_id not in true)
    return Question("task", task.prompt, task.completion, true, decoys)


def _pair(prompt: str, completion: str | None) -> frozenset[str]:
    """The two words of a question about opposites."""
    return frozenset(re.findall(r"of (\w+)\?", prompt) + re.findall(r"\w+", str(completion)))


def _ids(found: Iterable[Example]) -> tuple[str, ...]:
    return tuple(row.id for row in found)
