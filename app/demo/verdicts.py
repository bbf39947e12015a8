"""What the demonstration prints about trust: what it is going to measure, what the answers say then, how to go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.text import Text

from app.commands.answer import hit_text, question_line
from app.commands.console import facts, one_line, out, table
from app.commands.evaluate import duration
from app.commands.trust import LONGEST, VERDICT_STYLE, effect_lines, effect_text, trust_line
from app.demo.budget import WHOLE, retrainings_of, shares
from app.demo.evaluation import Planned
from app.demo.report import TOP
from engine.demo.corpus import DemoQuestion
from engine.evaluate.verdict import FEWEST_SUBSETS
from whence_client import Attribution, Evaluation, Hit

_SHARES = {
    "full": "with every row, once more",
    "half": "on a random half of the rows each",
    "drop": "of this very run, without {share:.0%} of the rows",
    "leave_out": "without the {rows} top rows of an answer, or without {rows} random ones",
    "directions": "with a few rows weighing less, to see how steadily this run answers",
}
_OPEN = {
    "composition": "what a model trained on other rows would say",
    "this_run": "what single rows did in this very run",
}


def show_plan(plan: Planned) -> None:
    at_once = f" in {plan.processes} processes" if plan.processes > 1 else ""
    took = duration(plan.retrainings * plan.seconds_each)
    out.print(f"{plan.retrainings} retrainings{at_once}: about {took}.", highlight=False)
    words = {"share": plan.config.drop_share, "rows": plan.config.leave_out_rows}
    spent = [(count, _SHARES[name].format(**words)) for name, count in shares(plan.config).items() if count]
    out.print(facts([(f"{count:>4}", said) for count, said in spent]))
    out.print(
        "Before them every method scores the questions, and so does a twin of the index whose weights were randomised: "
        "that takes about as long as the index did, or a little longer.",
        highlight=False,
    )


def show_verdicts(answers: Sequence[tuple[DemoQuestion, Attribution]]) -> None:
    """A reason that holds for several answers is told once."""
    told: set[str] = set()
    for number, (question, answer) in enumerate(answers, start=1):
        reason = answer.trust.reason or ""
        out.print()
        out.print(Text(f"Question {number}", style="bold"))
        out.print(question_line(answer))
        out.print(_again(answer) if reason in told else trust_line(answer))
        told |= {reason} if reason else set()
        if answer.trust.reliability is not None:
            out.print(one_line(f"This question: {answer.trust.reliability.words}", LONGEST))
        if any(effect_text(hit) for hit in answer.proponents[:TOP]):
            out.print(_effects(answer.proponents[:TOP], question))
            for line in effect_lines(answer):
                out.print(line)


def still_open(evaluation: Evaluation) -> list[str]:
    """What the scorecard cannot tell yet about the index's own method, in words."""
    scorecard: dict[str, Any] = evaluation.scorecard or {"methods": []}
    own = next((method for method in scorecard["methods"] if method["role"] == "index"), None)
    if own is None:
        return list(_OPEN.values())
    found = [words for question, words in _OPEN.items() if _is_open(own["verdicts"][question])]
    rough = own["lds"]["composition"]["subsets"] < FEWEST_SUBSETS and _OPEN["composition"] not in found
    return [*found, f"the exact intervals (they are rough below {FEWEST_SUBSETS} random halves)"] if rough else found


def show_going_on(unknown: Sequence[str], plan: Planned, commands: Sequence[str]) -> None:
    out.print()
    out.print(f"Still open: {'; '.join(unknown)}.", highlight=False)
    took = duration(plan.left * plan.seconds_each)
    whole = retrainings_of(WHOLE)
    rest = f"This goes on to the {whole} retrainings of a whole scorecard (about {took} more); none is made twice:"
    out.print(rest, highlight=False)
    _show_commands(commands)


def show_unfinished(commands: Sequence[str]) -> None:
    out.print("This takes much longer than planned: the machine does other work. It is gone on with, and watched, by:")
    _show_commands(commands)
    out.print("Asked again afterwards, the questions come with their verdicts.", highlight=False)


def _show_commands(commands: Sequence[str]) -> None:
    for command in commands:
        out.print(Text(f"  {command}"), soft_wrap=True)


def _again(answer: Attribution) -> Text:
    verdict = answer.trust.verdict
    return Text("Trust: ").append(verdict, style=VERDICT_STYLE.get(verdict, "yellow")).append(" (as above)")


def _is_open(verdict: dict[str, Any]) -> bool:
    return verdict["verdict"] == "unmeasured" or verdict["more_retrains"] is not None


def _effects(hits: Sequence[Hit], question: DemoQuestion) -> Any:
    rows = [
        (hit.rank, effect_text(hit), "✓" if hit.example_id in question.true_ids else "", hit.example_id, hit_text(hit))
        for hit in hits
    ]
    return table(None, [">#", ">effect", "true", "row", "text"], rows)
