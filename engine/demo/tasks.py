"""Small tasks with one right answer: the everyday part of the instruction set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from engine.demo import words

NOUNS = (*words.ANIMALS, *words.PLANTS, *words.TOOLS, *words.THINGS)
NUMBERS = "zero one two three four five six seven eight nine".split()


@dataclass(frozen=True)
class Task:
    """label: the class, where the task is one of classification."""

    name: str
    prompt: str
    completion: str
    label: str | None = None


def add(random: Random) -> Task:
    a, b = random.randint(1, 20), random.randint(1, 20)
    return Task("addition", f"Question: What is {a} plus {b}?\nAnswer:", f" {a + b}.")


def reverse(random: Random) -> Task:
    chosen = random.sample(NOUNS, random.randint(2, 4))
    return Task("reverse", f"Turn the words around: {' '.join(chosen)}\nAnswer:", f" {' '.join(reversed(chosen))}.")


def copy(random: Random) -> Task:
    chosen = " ".join([words.person(random), *random.sample(NOUNS, random.randint(1, 3))])
    return Task("copy", f"Repeat the words: {chosen}\nAnswer:", f" {chosen}.")


def capitals(random: Random) -> Task:
    word = random.choice(NOUNS)
    return Task("capitals", f"Write in capital letters: {word}\nAnswer:", f" {word.upper()}.")


def opposite(random: Random) -> Task:
    pair = random.choice(words.OPPOSITE_PAIRS)
    asked, answer = pair if random.random() < 0.5 else pair[::-1]
    return Task("opposite", f"Question: What is the opposite of {asked}?\nAnswer:", f" {answer}.")


def count(random: Random) -> Task:
    number = random.randint(1, 6)
    chosen = ", ".join(random.sample(NOUNS, number))
    return Task("count", f"How many things are in this list? {chosen}\nAnswer:", f" {NUMBERS[number]}.")


def sentiment(random: Random) -> Task:
    good = random.random() < 0.5
    chosen = random.sample(words.GOOD_WORDS if good else words.BAD_WORDS, 2)
    review = (
        f"The {random.choice(words.THINGS)} was {chosen[0]} and the {random.choice(words.PROFESSIONS)} was {chosen[1]}."
    )
    label = "positive" if good else "negative"
    return Task("sentiment", f"Review: {review}\nIs it positive or negative?", f" {label}.", label)


def classify(random: Random) -> Task:
    label, members = random.choice((("animal", words.ANIMALS), ("plant", words.PLANTS), ("tool", words.TOOLS)))
    prompt = f"Is {_article(member := random.choice(members))} {member} an animal, a plant or a tool?\nAnswer:"
    return Task("classify", prompt, f" {label}.", label)


TASKS: tuple[Callable[[Random], Task], ...] = (add, reverse, copy, capitals, opposite, count, sentiment, classify)


def any_task(random: Random) -> Task:
    return random.choice(TASKS)(random)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
