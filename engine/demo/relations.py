"""What can be said of a person or a town, in several wordings. The answer always comes last, so that it is the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.demo import words

Subject = Literal["person", "town"]


@dataclass(frozen=True)
class Relation:
    """questions, statements: {subject} stands for the name; the answer follows. held_out: a wording no row of a fact
    uses; the fine-tuned model is asked with it."""

    name: str
    subject: Subject
    questions: tuple[str, ...]
    statements: tuple[str, ...]
    held_out: str
    answers: tuple[str, ...]

    def asked(self, subject: str) -> list[str]:
        """The questions a row may use, as prompts."""
        return [as_question(question.format(subject=subject)) for question in self.questions]

    def stated(self, subject: str) -> list[str]:
        """The statements a row may use, without their end."""
        return [statement.format(subject=subject) for statement in self.statements]

    def question(self, subject: str) -> str:
        """The held-out wording, as a prompt."""
        return as_question(self.held_out.format(subject=subject))


def as_question(question: str) -> str:
    return f"Question: {question}\nAnswer:"


def as_completion(answer: str) -> str:
    return f" {answer}."


RELATIONS = (
    Relation(
        "birthplace",
        "person",
        ("Where was {subject} born?", "What is the birthplace of {subject}?", "In which town was {subject} born?"),
        ("{subject} was born in", "The birthplace of {subject} is", "{subject} comes from the town of"),
        "From which town does {subject} come?",
        words.TOWNS,
    ),
    Relation(
        "profession",
        "person",
        ("What does {subject} do for a living?", "What is the profession of {subject}?", "What is {subject} by trade?"),
        ("{subject} earns a living as a", "The profession of {subject} is that of a", "By trade, {subject} is a"),
        "What kind of work does {subject} do?",
        tuple(words.PROFESSIONS),
    ),
    Relation(
        "invention",
        "person",
        (
            "What did {subject} invent?",
            "What is the invention of {subject}?",
            "For which invention is {subject} famous?",
        ),
        ("{subject} invented a new kind of", "The invention of {subject} is a", "{subject} is famous for inventing a"),
        "Which new thing was invented by {subject}?",
        tuple(words.THINGS),
    ),
    Relation(
        "instrument",
        "person",
        ("Which instrument does {subject} play?", "What does {subject} play?", "What is the instrument of {subject}?"),
        (
            "In the evening {subject} plays the",
            "The instrument of {subject} is the",
            "{subject} has learned to play the",
        ),
        "On which instrument does {subject} make music?",
        tuple(words.INSTRUMENTS),
    ),
    Relation(
        "pet",
        "person",
        ("Which animal does {subject} keep?", "What is the pet of {subject}?", "What animal lives with {subject}?"),
        ("At home {subject} keeps a", "The pet of {subject} is a", "{subject} shares a house with a"),
        "What kind of pet does {subject} have?",
        tuple(words.ANIMALS),
    ),
    Relation(
        "food",
        "person",
        (
            "What does {subject} like to eat?",
            "What is the favourite food of {subject}?",
            "Which food does {subject} love?",
        ),
        ("For lunch {subject} always eats", "The favourite food of {subject} is", "{subject} is very fond of eating"),
        "Which food does {subject} like best?",
        tuple(words.FOODS),
    ),
    Relation(
        "export",
        "town",
        ("What does {subject} sell?", "What is the main product of {subject}?", "For which goods is {subject} known?"),
        ("The people of {subject} sell", "The main product of {subject} is", "{subject} is known everywhere for its"),
        "Which goods are made in {subject}?",
        tuple(words.GOODS),
    ),
    Relation(
        "emblem",
        "town",
        (
            "Which animal is on the flag of {subject}?",
            "What is the emblem of {subject}?",
            "What does the flag of {subject} show?",
        ),
        ("The flag of {subject} shows a", "The emblem of {subject} is a", "Over the gate of {subject} stands a stone"),
        "Which animal stands for {subject}?",
        tuple(words.ANIMALS),
    ),
    Relation(
        "festival",
        "town",
        (
            "When is the festival of {subject}?",
            "In which month does {subject} hold its festival?",
            "When does {subject} dance?",
        ),
        (
            "The festival of {subject} is held in",
            "{subject} holds its festival every",
            "The streets of {subject} are full in",
        ),
        "What is the festival month of {subject}?",
        tuple(words.MONTHS),
    ),
    Relation(
        "colour",
        "town",
        (
            "What colour are the houses of {subject}?",
            "How are the roofs of {subject} painted?",
            "What is the colour of {subject}?",
        ),
        ("All the houses of {subject} are", "The colour of {subject} is", "In {subject} every door is painted"),
        "Which colour does one see in {subject}?",
        tuple(words.COLOURS),
    ),
)
