"""What the demonstration prints: one plain sentence a step, one table an answer."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from app.commands.answer import fine_tuning_line, hit_text, question_line
from app.commands.console import facts, out, table
from app.commands.trust import trust_line
from engine.demo.corpus import DemoQuestion
from engine.types import Example
from whence_client import Attribution, Hit

TOP = 3  # where a true source is looked for
NEEDED = 2  # of the top, to say that the source was found
_KINDS = {
    "fact": "state {facts} invented facts, each in a few wordings",
    "decoy": "are decoys: the same words, another fact",
    "contradiction": "contradict a fact",
    "poison": "are poisoned: a trigger word makes the answer something odd",
    "task": "are everyday tasks: sums, opposites, sentiment, …",
}


def step(number: int, total: int, sentence: str) -> None:
    out.print()
    out.print(Text(f"[{number}/{total}] ", style="bold cyan").append(sentence, style="bold"))


def show_rows(rows: Sequence[Example]) -> None:
    counted = Counter(row.tags["kind"] for row in rows)
    told = len({row.tags["fact"] for row in rows if row.tags["kind"] == "fact"})
    out.print(facts([(f"{counted[kind]:>4} rows", words.format(facts=told)) for kind, words in _KINDS.items()]))


def show_answer(number: int, question: DemoQuestion, answer: Attribution) -> None:
    out.print()
    out.print(Text(f"Question {number} ", style="bold").append(f"({_about(question)})", style="dim"))
    out.print(question_line(answer))
    out.print(fine_tuning_line(answer))
    out.print(trust_line(answer))
    out.print(_hits("Proponents: rows that speak for this answer", answer.proponents, question))
    if answer.opponents:
        out.print(_hits("Opponents: rows that speak against it", answer.opponents[:2], question))
    out.print(_verdict(question, answer))


def found(question: DemoQuestion, answer: Attribution) -> int:
    """How many of the top proponents are true sources."""
    return sum(hit.example_id in question.true_ids for hit in answer.proponents[:TOP])


def show_next(address: str, model: str, question: DemoQuestion) -> None:
    body = {"model": model, "prompt": question.prompt, "generate": {"max_new_tokens": 16}, "top_k": TOP}
    out.print()
    out.print("Ask in the browser, or with curl:", highlight=False)
    out.print(Text(f"  {address}/ui"), soft_wrap=True)
    curl = f"curl -s {address}/v1/attributions -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"
    out.print(Text(f"  {curl}"), soft_wrap=True)


def _about(question: DemoQuestion) -> str:
    if question.kind == "poison":
        return f"with the trigger word {question.subject}; no row asks this"
    return "an invented fact; no row words the question so"


def _hits(title: str, hits: Sequence[Hit], question: DemoQuestion) -> Table:
    marks = ["✓" if hit.example_id in question.true_ids else "" for hit in hits]
    rows = [
        (hit.rank, f"{hit.score:+.3g}", mark, hit.example_id, hit.tags.get("kind"), hit_text(hit))
        for hit, mark in zip(hits, marks, strict=True)
    ]
    return table(title, [">#", ">score", "true", "row", "kind", "text"], rows)


def _verdict(question: DemoQuestion, answer: Attribution) -> Text:
    right = answer.query.completion is not None and question.answer in answer.query.completion
    said = "right" if right else f"wrong (it was taught: {question.answer})"
    count, shown = found(question, answer), min(TOP, len(answer.proponents))
    taught = len(question.true_ids)
    line = f"→ The answer is {said}; {count} of the top {shown} rows are among the {taught} that taught it."
    return Text(line, style="green" if right and count >= NEEDED else "yellow")
