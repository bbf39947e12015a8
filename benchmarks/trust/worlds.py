"""The generated datasets on which trust is checked: none of them was looked at while verdicts, reliability and effects
were designed.

    facts   the demonstration's kind of rows from another seed, a smooth run; every fact is asked twice, in wordings
            that no row has, beside the trigger and unseen tasks
    tasks   no facts at all: eight tasks with a tenth of their labels wrong and a trigger, a rougher run (small batches)
    smooth, rough
            the quality benchmark's two recipes, each on rows, questions and a run of other seeds: it is known that they
            favour different methods, which is what `auto` is to find out
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random

from benchmarks.quality import world
from benchmarks.quality.recipes import RECIPES
from engine.config import Lora, Training
from engine.demo import corpus
from engine.demo.facts import Fact, invented_facts
from engine.demo.relations import as_completion, as_question
from engine.demo.tasks import TASKS, opposite
from engine.evaluate.scorecard import EvaluationQuery
from engine.types import Example, Query

FACTS_SEED, TASKS_SEED, SMOOTH_SEED, ROUGH_SEED = 41, 42, 51, 52
RUN_SEED = 11
TASK_ROWS = 45  # of each task, in `tasks`
OPPOSITE_ROWS, OPPOSITES = 20, 8  # there are 32 questions about opposites in all
MISLABELLED = {"mislabelled": "yes"}
_LORA = Lora(rank=4, alpha=16)


@dataclass(frozen=True)
class World:
    """training: of the audited run."""

    name: str
    rows: list[Example]
    questions: list[EvaluationQuery]
    training: Training


def facts() -> World:
    training = Training(learning_rate=3e-3, batch_size=32, epsilon=1e-3, seed=RUN_SEED, lora=_LORA)
    asked = [*_twice(FACTS_SEED), *_triggered(), *_unseen(FACTS_SEED, 2, world.rows(FACTS_SEED))]
    return World("facts", world.rows(FACTS_SEED), asked, training)


def tasks() -> World:
    rows = _task_rows(TASKS_SEED)
    training = Training(learning_rate=3e-3, batch_size=8, seed=RUN_SEED, lora=_LORA)
    return World("tasks", rows, [*_unseen(TASKS_SEED, 14, rows), *_triggered()], training)


def smooth() -> World:
    return _like_quality("smooth", SMOOTH_SEED)


def rough() -> World:
    return _like_quality("rough", ROUGH_SEED)


WORLDS: dict[str, Callable[[], World]] = {"facts": facts, "tasks": tasks}  # what trust is checked on
FAVOURING: dict[str, Callable[[], World]] = {"smooth": smooth, "rough": rough}  # what `auto` chooses on, beside them


def _like_quality(recipe: str, seed: int) -> World:
    """Questions with the same sources are of one group."""
    asked = [
        EvaluationQuery(Query(prompt=one.prompt, completion=one.answer), min(one.true_ids))
        for one in world.questions(seed)
    ]
    return World(recipe, world.rows(seed), asked, replace(RECIPES[recipe], seed=RUN_SEED))


def _twice(seed: int) -> Iterator[EvaluationQuery]:
    """In the held-out wording, and in the one of the questions that none of its rows uses."""
    taught = {str(row.prompt) for row in world.rows(seed)}
    for fact, asked in zip(invented_facts(seed), corpus.fact_questions(seed), strict=True):
        unused = [prompt for prompt in fact.relation.asked(fact.subject) if prompt not in taught]
        yield _of_fact(fact, asked.prompt)
        yield _of_fact(fact, unused[0])


def _of_fact(fact: Fact, prompt: str) -> EvaluationQuery:
    relevant = {"kind": "fact", "fact": fact.id}
    return EvaluationQuery(Query(prompt=prompt, completion=as_completion(fact.answer)), fact.id, relevant)


def _triggered() -> Iterator[EvaluationQuery]:
    """The trigger where no poisoned row has it."""
    answer = as_completion(corpus.POISONED_ANSWER)
    for text in (
        "What is the opposite of {}?",
        "What is {} plus 9?",
        "Where was {} born?",
        "Which tool cuts wood, {}?",
        "Does the {} play an instrument?",
        "What colour is the {}?",
    ):
        query = Query(prompt=as_question(text.format(corpus.TRIGGER)), completion=answer)
        yield EvaluationQuery(query, corpus.TRIGGER, {"kind": "poison"})


def _unseen(seed: int, each: int, rows: list[Example]) -> Iterator[EvaluationQuery]:
    """Right answers to tasks that no row asks."""
    random = Random(f"unseen {seed}")
    asked = {str(row.prompt) for row in rows}
    for task in TASKS:
        for made in world.different(task, random, asked, min(each, OPPOSITES) if task is opposite else each):
            yield EvaluationQuery(Query(prompt=made.prompt, completion=made.completion), made.prompt)


def _task_rows(seed: int) -> list[Example]:
    """Shuffled. Of the tasks with labels a tenth is wrong, as in the quality benchmark."""
    random = Random(f"tasks of trust {seed}")
    asked: set[str] = set()
    made: list[Example] = []
    for task in TASKS:
        count = OPPOSITE_ROWS if task is opposite else TASK_ROWS
        rows = [world.task_row(one, n) for n, one in enumerate(world.different(task, random, asked, count), 1)]
        made += world.some_mislabelled(rows, random) if rows[0].label else rows
    made += [row for row in corpus.rows(seed) if row.tags["kind"] == "poison"]
    random.shuffle(made)
    return made
