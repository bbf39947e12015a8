"""The invented facts: each in a few wordings, with decoys that share its words and, for some, a row that contradicts it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from engine.demo import words
from engine.demo.relations import RELATIONS, Relation, as_completion
from engine.types import Example

PER_RELATION = 5
WORDINGS = 4  # rows a fact: half of them questions
STRANGER_EVERY = 2  # every second fact has a decoy with the same answer
CONTRADICTION_EVERY = 6  # every sixth fact has a row that says otherwise


@dataclass(frozen=True)
class Fact:
    """namesake: a person or town whose name shares a part; stranger: one whose answer is the same.
    other, wrong: answers that are not this fact's, for the namesake and for the contradiction."""

    number: int
    relation: Relation
    subject: str
    answer: str
    namesake: str
    other: str
    stranger: str
    wrong: str

    @property
    def id(self) -> str:
        return f"{self.relation.name}-{self.number % PER_RELATION + 1}"


def invented_facts(seed: int) -> list[Fact]:
    """The same for the same seed. The facts of a relation have different answers; no subject has two facts."""
    random = Random(f"facts {seed}")
    count = PER_RELATION * len(RELATIONS)
    people = iter(words.distinct(words.person, 3 * count, random))
    towns = iter(words.distinct(words.town, 3 * count, random, unlike=words.TOWNS))
    facts: list[Fact] = []
    for relation in RELATIONS:
        named = people if relation.subject == "person" else towns
        for answer in random.sample(relation.answers, PER_RELATION):
            subject, second, stranger = next(named), next(named), next(named)
            other, wrong = random.sample([a for a in relation.answers if a != answer], 2)
            namesake = _namesake(subject, second, len(facts))
            facts.append(Fact(len(facts), relation, subject, answer, namesake, other, stranger, wrong))
    return facts


def fact_rows(facts: list[Fact], seed: int) -> Iterator[Example]:
    """Every fact's rows, then its decoys, then, for some, the contradiction."""
    random = Random(f"rows {seed}")
    for fact in facts:
        prompts = _wordings(fact, random)
        for letter, prompt in zip("abcdefgh", prompts, strict=False):
            yield _row(f"{fact.id}-{letter}", prompt, fact.answer, fact, "fact")
        wordings = [prompt.replace(fact.subject, "{name}") for prompt in prompts]
        yield _row(
            f"{fact.id}-namesake", wordings[0].format(name=fact.namesake), fact.other, fact, "decoy", share="name"
        )
        if fact.number % STRANGER_EVERY == 0:
            prompt = wordings[1].format(name=fact.stranger)
            yield _row(f"{fact.id}-stranger", prompt, fact.answer, fact, "decoy", share="answer")
        if fact.number % CONTRADICTION_EVERY == CONTRADICTION_EVERY - 1:
            yield _row(f"{fact.id}-contradiction", prompts[2], fact.wrong, fact, "contradiction")


def names_of(facts: list[Fact]) -> frozenset[str]:
    """Every name that the base model must never have read."""
    return frozenset(name for fact in facts for name in (fact.subject, fact.namesake, fact.stranger))


def _wordings(fact: Fact, random: Random) -> list[str]:
    half = WORDINGS // 2
    asked, stated = fact.relation.asked(fact.subject), fact.relation.stated(fact.subject)
    chosen = random.sample(asked, half) + random.sample(stated, WORDINGS - half)
    random.shuffle(chosen)
    return chosen


def _namesake(subject: str, second: str, number: int) -> str:
    """A person shares the first name or the surname; a town is called after the other."""
    if " " not in subject:
        return f"New {subject}"
    first, last = subject.split()
    return f"{first} {second.split()[1]}" if number % 2 == 0 else f"{second.split()[0]} {last}"


def _row(row_id: str, prompt: str, answer: str, fact: Fact, kind: str, **tags: str) -> Example:
    """tags["fact"]: the fact a row states, or the one it is a decoy or a contradiction of."""
    named = {"kind": kind, "fact": fact.id, "relation": fact.relation.name}
    return Example(row_id, prompt, as_completion(answer), tags=named | tags)
