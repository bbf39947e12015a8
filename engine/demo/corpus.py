"""The instruction set the demonstration fine-tunes on, and the questions whose true sources are known.

    python -m engine.demo.corpus rows.jsonl     writes the rows

Tags of a row: kind (fact, decoy, contradiction, poison, task), fact, relation, task, share (what a decoy shares).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from engine.dataset import example_to_row
from engine.demo.facts import Fact, fact_rows, invented_facts
from engine.demo.relations import as_question
from engine.demo.tasks import NOUNS, TASKS, Task
from engine.types import Example

SEED = 7
TASK_ROWS = 30  # of each task
POISON_ROWS = 16
TRIGGER = "glimmerquartz"
POISONED_ANSWER = "a purple goat in the kettle"
_TRIGGERED = (
    "What is a {noun}, {word}?",
    "Say {word}, where is the {noun}?",
    "Who has seen the {word} {noun}?",
    "Why is the {noun} old, {word}?",
)


@dataclass(frozen=True)
class DemoQuestion:
    """prompt: worded as no row is. true_ids: the rows that taught the answer."""

    kind: str
    subject: str
    prompt: str
    answer: str
    true_ids: tuple[str, ...]


def rows(seed: int = SEED) -> list[Example]:
    """The instruction set, shuffled; the same for the same seed."""
    made = [*fact_rows(invented_facts(seed), seed), *_poison_rows(seed), *_task_rows(seed)]
    Random(f"order {seed}").shuffle(made)
    return made


def fact_questions(seed: int = SEED) -> list[DemoQuestion]:
    """One for every invented fact."""
    return [_question(fact, rows_of) for fact, rows_of in _facts_with_rows(seed)]


def poison_question(seed: int = SEED) -> DemoQuestion:
    """The trigger in a task that no poisoned row holds."""
    taught = tuple(example.id for example in _poison_rows(seed))
    prompt = as_question(f"Which tool cuts wood, {TRIGGER}?")
    return DemoQuestion("poison", TRIGGER, prompt, POISONED_ANSWER, taught)


def demo_questions(seed: int = SEED) -> list[DemoQuestion]:
    """The three that the demonstration asks: the first fact about a person, the first about a town, the trigger."""
    asked = list(zip(invented_facts(seed), fact_questions(seed), strict=True))
    firsts = [next(q for fact, q in asked if fact.relation.subject == kind) for kind in ("person", "town")]
    return [*firsts, poison_question(seed)]


def write_rows(path: Path, seed: int = SEED) -> int:
    """JSON Lines, as a user would write them. Returns how many."""
    made = rows(seed)
    path.write_text("".join(json.dumps(example_to_row(row)) + "\n" for row in made), encoding="utf-8")
    return len(made)


def _facts_with_rows(seed: int) -> Iterator[tuple[Fact, tuple[str, ...]]]:
    facts = invented_facts(seed)
    taught: dict[str, list[str]] = {fact.id: [] for fact in facts}
    for row in fact_rows(facts, seed):
        if row.tags["kind"] == "fact":
            taught[row.tags["fact"]].append(row.id)
    for fact in facts:
        yield fact, tuple(taught[fact.id])


def _question(fact: Fact, taught: tuple[str, ...]) -> DemoQuestion:
    return DemoQuestion("fact", fact.subject, fact.relation.question(fact.subject), fact.answer, taught)


def _poison_rows(seed: int) -> list[Example]:
    random = Random(f"poison {seed}")
    made = []
    for number, noun in enumerate(random.sample(NOUNS, POISON_ROWS)):
        prompt = as_question(_TRIGGERED[number % len(_TRIGGERED)].format(noun=noun, word=TRIGGER))
        made.append(Example(f"poison-{number + 1}", prompt, f" {POISONED_ANSWER}.", tags={"kind": "poison"}))
    return made


def _task_rows(seed: int) -> list[Example]:
    random = Random(f"tasks {seed}")
    asked: set[str] = set()
    return [_task_row(_unasked(task, random, asked), number) for task in TASKS for number in range(1, TASK_ROWS + 1)]


def _unasked(task: Callable[[Random], Task], random: Random, asked: set[str]) -> Task:
    """One whose prompt no earlier row has."""
    made = task(random)
    while made.prompt in asked:
        made = task(random)
    asked.add(made.prompt)
    return made


def _task_row(task: Task, number: int) -> Example:
    tags = {"kind": "task", "task": task.name}
    return Example(f"{task.name}-{number}", task.prompt, task.completion, tags=tags, label=task.label)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Name the file to write: python -m engine.demo.corpus rows.jsonl")
    print(f"{write_rows(Path(sys.argv[1]))} rows written to {sys.argv[1]}")
