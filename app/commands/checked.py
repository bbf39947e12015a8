"""A check's result as text: the sentence first, then sets and rows, then what to be careful about."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from app.checks.words import (
    apart,
    difference_words,
    effect_name,
    left_out_words,
    measured_name,
    probability_words,
    set_name,
)
from app.commands.console import one_line, out, table, warn
from app.commands.trust import LONGEST
from whence_client import Attribution, Check, CheckResult
from whence_client.checks import RowEffect, SetEffect


def show_check(check: Check, answer: Attribution | None) -> None:
    """answer: whose output it is about; None where it was deleted."""
    result = check.result or CheckResult()
    for line in _summary(check, result, answer):
        out.print(line)
    if result.sets:
        out.print()
        out.print(Text(f"{measured_name(check.measurement).capitalize()} of the output, in nats", style="bold"))
        out.print(_sets(check, result.sets))
    if result.effects:
        out.print()
        out.print(Text(f"Effect of each row, in nats: {effect_name(check.kind)}", style="bold"))
        out.print(_effects(check, result.effects))
    for message in result.warnings:
        warn(message)
    out.print()
    done = f"{retrainings(check.retrainings or 0)} · {check.kind} · answer {check.attribution}"
    out.print(Text(f"{check.id} · {done}", style="dim"))


def retrainings(count: int) -> str:
    return f"{count:,} retrainings" if count > 1 else "1 retraining" if count else "No retraining"


def _summary(check: Check, result: CheckResult, answer: Attribution | None) -> list[Text]:
    said: list[str] = []
    top, control = result.of("top"), result.of("random")
    if check.kind == "leave_out" and top is not None and top.change is not None:
        difference = result.details.get("difference")
        shown = None if control is None else control.model_dump()
        said.append(left_out_words(top.model_dump(), shown, difference, check.measurement))
    elif top is not None and top.before is not None and top.after is not None:
        before, after = apart(top.before, top.after)
        said.append(f"The {measured_name(check.measurement)} went from {before} to {after} nats.")
        said.append(difference_words(result.details.get("difference"), adds=check.kind == "tail_patch"))
    if top is not None and answer is not None:
        said.append(probability_words(top.before, top.after, check.measurement, answer.measurement.tokens))
    said += _answers(check, result)
    if result.held_out is not None:
        said.append(_held_out(result.held_out))
    if check.new_model:
        said.append(f"The new version of the model is {check.new_model}.")
    return [one_line(line, LONGEST) for line in said if line]


def _answers(check: Check, result: CheckResult) -> list[str]:
    before, after = result.answer_before, result.answer_after
    changed = (
        [f"The model's own answer: “{before.strip()}” before, “{after.strip()}” after."] if before and after else []
    )
    if check.kind != "flip":
        return changed
    if result.flipped is None:
        return ["No set of so many rows that was tried changes the answer.", *changed]
    return [f"Without {', '.join(result.flipped)} the answer changes.", *changed]


def _held_out(figures: dict[str, float | None]) -> str:
    before, after = figures.get("before"), figures.get("after")
    if before is None or after is None:
        return ""
    return f"On rows that were not removed, the mean loss a token went from {before:.3f} to {after:.3f}."


def _sets(check: Check, sets: list[SetEffect]) -> Table:
    rows = [
        (
            set_name(check.kind, s.name),
            s.rows,
            s.trainings,
            _nats(s.before),
            _nats(s.after),
            _nats(s.change, True),
            _between(s),
        )
        for s in sets
    ]
    columns = ["training", ">rows", ">times", ">before", ">after", ">change", ">95 %"]
    return table(None, columns, rows)


def _effects(check: Check, effects: list[RowEffect]) -> Table:
    rows = [(e.id, _nats(e.predicted, True), _nats(e.measured, True), _between(e)) for e in effects]
    return table(None, ["example", ">predicted", ">measured", ">95 %"], rows)


def _nats(value: float | None, signed: bool = False) -> str:
    return "" if value is None else f"{value:{'+' if signed else 'z'}.3g}"


def _between(effect: RowEffect | SetEffect) -> str:
    return "" if effect.low is None or effect.high is None else f"{effect.low:+.3g} to {effect.high:+.3g}"
