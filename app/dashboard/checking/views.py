"""What a check measured, as a page shows it: sentences, and charts with their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.checks.schemas import CheckOut, CheckResultOut, RowEffectOut, SetEffectOut
from app.checks.words import (
    apart,
    difference_words,
    effect_name,
    left_out_words,
    measured_name,
    probability_words,
    set_short,
)
from app.dashboard.checking.forms import KINDS
from app.dashboard.pages import Notice, notice_of
from app.dashboard.running.views_jobs import JobView
from app.dashboard.trust.charts import Chart, Column, Row, number, text, whole, with_interval
from app.dashboard.words import count, duration, moment

DRAWN_ROWS = 40  # of a chart of single rows; its table has all
CONTROLS = ("none", "random", "bm25")


@dataclass(frozen=True)
class CheckView:
    """words: the result in sentences. problem: why there is none. took: of a ready one."""

    id: str
    title: str
    kind: str
    state: str
    attribution: str
    asked: str
    words: tuple[str, ...]
    charts: tuple[Chart, ...]
    warnings: tuple[str, ...]
    new_model: str | None
    problem: Notice | None
    job: JobView | None
    took: str
    created: str

    @property
    def active(self) -> bool:
        return self.job is not None and self.job.active


def check_view(
    check: CheckOut, job: JobView | None, *, tokens: int = 0, predicted: Mapping[str, float] | None = None
) -> CheckView:
    """tokens: of the answer's output, 0 where that is gone. predicted: by the index's scorecard, in nats, what leaving
    a row out does, for where the ranking itself predicts nothing."""
    result = check.result
    return CheckView(
        id=check.id,
        title=check.name or KINDS.get(check.kind, check.kind),
        kind=check.kind,
        state=check.state,
        attribution=check.attribution,
        asked=_asked(check.config),
        words=() if result is None else _words(check, result, tokens),
        charts=() if result is None else _charts(check, result, predicted or {}),
        warnings=() if result is None else tuple(result.warnings),
        new_model=check.new_model,
        problem=None if check.error is None else notice_of(check.error.model_dump()),
        job=job,
        took=_took(check),
        created=moment(check.created_at),
    )


def _took(check: CheckOut) -> str:
    if not check.retrainings:
        return f"no retraining, {duration(check.seconds)}"
    plural = "" if check.retrainings == 1 else "s"
    return f"rests on {count(check.retrainings)} retraining{plural}, took {duration(check.seconds)}"


def _asked(config: Mapping[str, Any]) -> str:
    if config["ids"]:
        rows = f"{len(config['ids'])} named rows"
    else:
        rows = "the top row" if config["rows"] == 1 else f"the {config['rows']} top rows"
    if config["kind"] == "unlearn":
        return f"{rows}, by {'training again' if config['how'] == 'retrain' else 'one influence step'}"
    if config["kind"] == "leave_out":
        draws = "1 random set" if config["draws"] == 1 else f"{config['draws']} random sets"
        return f"{rows}, {config['seeds']} trainings of each set, {draws}"
    return rows


def _words(check: CheckOut, result: CheckResultOut, tokens: int) -> tuple[str, ...]:
    sets = {one.name: one for one in result.sets}
    top, control = sets.get("top"), sets.get("random")
    difference, said = result.details.get("difference"), list[str]()
    if top is not None and None not in (top.before, top.after, top.change):
        if check.kind == "leave_out":
            shown = control and control.model_dump()
            said.append(left_out_words(top.model_dump(), shown, difference, check.measurement))
        else:
            said.append(_set_words(check, top))
            said.append(difference_words(difference, adds=check.kind == "tail_patch"))
        said.append(probability_words(top.before, top.after, check.measurement, tokens))
    said += _answer_words(check, result)
    held_out = result.held_out or {}
    if None not in (held_out.get("before"), held_out.get("after")):
        before, after = held_out["before"], held_out["after"]
        said.append(f"On rows that were not removed, the mean loss a token went from {before:.3f} to {after:.3f}.")
    return tuple(filter(None, said))


def _set_words(check: CheckOut, top: SetEffectOut) -> str:
    what = f"The {measured_name(check.measurement)} of this output"
    done = "after one more step on a top row (the mean over them)" if check.kind == "tail_patch" else "without the rows"
    before, after = apart(top.before or 0.0, top.after or 0.0)
    return f"{what} was {before} nats, and {after} {done}."


def _answer_words(check: CheckOut, result: CheckResultOut) -> list[str]:
    before, after = result.answer_before, result.answer_after
    changed = []
    if before and after:
        same = before.strip() == after.strip()
        then = "the same then" if same else f"“{after.strip()}” then"
        changed.append(f"The model's own answer was “{before.strip()}”, and is {then}.")
    if check.kind != "flip":
        return changed
    if result.flipped is None:
        return ["No set of so many rows that was tried changes the answer.", *changed]
    return [f"Without {', '.join(result.flipped)} the answer changes.", *changed]


def _charts(check: CheckOut, result: CheckResultOut, predicted: Mapping[str, float]) -> tuple[Chart, ...]:
    found = _sets_chart(check, result.sets), _effects_chart(check, result.effects, predicted)
    return tuple(chart for chart in found if chart is not None)


def _sets_chart(check: CheckOut, sets: Sequence[SetEffectOut]) -> Chart | None:
    """The change by each set, random ones and BM25's in grey."""
    rows = tuple(
        Row(
            (
                text(set_short(one.name)),
                number(one.change, signed=True),
                number(one.low, signed=True),
                number(one.high, signed=True),
                number(one.before),
                number(one.after),
                whole(one.rows),
                whole(one.trainings),
                *([] if one.answer_changed is None else [text(f"{one.answer_changed:.0%}")]),
            ),
            control=one.name in CONTROLS,
        )
        for one in sets
    )
    skipped = [Column(name, skip=True) for name in ("before", "after", "rows", "times")]
    if any(one.answer_changed is not None for one in sets):
        skipped.append(Column("answer changed", skip=True))
    done = "trained on once more" if check.kind == "tail_patch" else "left out"
    columns = (Column(done), *with_interval("change"), *skipped)
    title = f"Change of the output's {measured_name(check.measurement)}, by what was {done}"
    return Chart("bars", title, columns, rows, x_title="change in nats (95 %)") if rows else None


def _effects_chart(check: CheckOut, effects: Sequence[RowEffectOut], predicted: Mapping[str, float]) -> Chart | None:
    """Predicted beside measured, row by row."""
    expected = {one.id: _predicted(check, one, predicted) for one in effects}
    rows = tuple(
        Row(
            (
                text(one.id),
                number(expected[one.id], signed=True),
                number(one.measured, signed=True),
                number(one.low, signed=True),
                number(one.high, signed=True),
            )
        )
        for one in effects[:DRAWN_ROWS]
    )
    columns = (Column("row"), Column("predicted"), *with_interval("measured"))
    title = f"Effect of each row: {effect_name(check.kind)}"
    return Chart("bars", title, columns, rows, x_title="change in nats") if rows else None


def _predicted(check: CheckOut, effect: RowEffectOut, predicted: Mapping[str, float]) -> float | None:
    """A scorecard's predictions are of leaving rows out, not of one step more on them."""
    if effect.predicted is not None or check.kind == "tail_patch":
        return effect.predicted
    return predicted.get(effect.id)
