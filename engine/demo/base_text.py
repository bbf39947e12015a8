"""The base model's training text: a little world of its own, told in the wordings that the facts will use later.

A world of background people and towns, told over and over in every wording, teaches the model what the wordings mean
and how to recall; passages about people met once teach it to read answers from the text before; tasks and plain
sentences the rest. None of the invented facts is in it, nor the trigger.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from engine.demo import words
from engine.demo.relations import RELATIONS, Relation, as_completion
from engine.demo.tasks import any_task

PEOPLE, PLACES = 90, 40
NAMES = 32  # first names and surnames: few, so that only both together say who is meant


@dataclass(frozen=True)
class Known:
    """One fact of the background world."""

    relation: Relation
    subject: str
    answer: str


def background() -> list[Known]:
    """The same world every time: each person and town with an answer to every relation."""
    random = Random("background")
    subjects = {"person": _people(random), "town": _towns(random)}
    return [
        Known(relation, subject, random.choice(relation.answers))
        for relation in RELATIONS
        for subject in subjects[relation.subject]
    ]


def _people(random: Random) -> list[str]:
    first, last = words.distinct(words.first_name, NAMES, random), words.distinct(words.surname, NAMES, random)
    return words.distinct(lambda draw: f"{draw.choice(first)} {draw.choice(last)}", PEOPLE, random)


def _towns(random: Random) -> list[str]:
    """A third of them are new towns, called after an old one."""
    old = words.distinct(words.town, PLACES - PLACES // 3, random, unlike=words.TOWNS)
    return [*old, *(f"New {town}" for town in old[: PLACES // 3])]


def documents(seed: int, count: int, without: frozenset[str] = frozenset()) -> Iterator[str]:
    """`count` short texts. without: names that must not occur in any of them."""
    random, world = Random(seed), background()
    made = 0
    while made < count:
        text = _document(random, world)
        if not any(name in text for name in without):
            made += 1
            yield text


def _document(random: Random, world: list[Known]) -> str:
    draw = random.random()
    if draw < 0.55:
        return "\n".join(_told(random, known) for known in random.sample(world, random.choice((1, 1, 2, 3))))
    if draw < 0.75:
        return _passage(random)
    if draw < 0.92:
        task = any_task(random)
        return task.prompt + task.completion
    return " ".join(_sentence(random) for _ in range(random.randint(1, 3)))


def _told(random: Random, known: Known) -> str:
    relation, subject = known.relation, known.subject
    prompts = [*relation.asked(subject), *relation.stated(subject), relation.question(subject)]
    return random.choice(prompts) + as_completion(known.answer)


def _passage(random: Random) -> str:
    """Two strangers, one of whom is then asked about: the answer stands in the text."""
    relation = random.choice(RELATIONS)
    make = words.person if relation.subject == "person" else words.town
    strangers = [Known(relation, make(random), random.choice(relation.answers)) for _ in range(2)]
    told = [random.choice(relation.stated(k.subject)) + as_completion(k.answer) for k in strangers]
    return "\n".join([*told, _told(random, random.choice(strangers))])


def _sentence(random: Random) -> str:
    thing, other = random.sample(words.THINGS, 2)
    colour, animal = random.choice(words.COLOURS), random.choice(words.ANIMALS)
    worker, place = random.choice(words.PROFESSIONS), random.choice(words.TOWNS)
    return random.choice(
        (
            f"The {colour} {thing} stood beside the {other}.",
            f"A {worker} from {place} bought a {colour} {thing}.",
            f"In the morning the {animal} slept under the {thing}.",
            f"{words.first_name(random)} gave the {thing} to the {worker} and went home.",
            f"The {worker} saw a {animal} and a {colour} {other} near {place}.",
            f"There was no {thing} in {place}, so the {worker} took a {other}.",
        )
    )
