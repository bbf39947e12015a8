"""`whence verify`: check one stored answer by changing the training and measuring."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer
from rich.text import Text

from app.commands.checked import retrainings, show_check
from app.commands.console import err, facts, out, print_json, size
from app.commands.evaluate import duration
from app.commands.following import follow
from app.commands.options import Json, Url, server
from whence_client import Attribution, Check, CheckCost, NotFound, Whence

Kind = Annotated[
    Literal["tail_patch", "leave_out", "replay", "flip", "unlearn"],
    typer.Option(
        help="tail_patch: one more step on each row. leave_out: train again without the first rows. replay: the exact "
        "derivative of the run. flip: the smallest set that changes the answer. unlearn: an adapter without the rows."
    ),
]


def verify(
    attribution: Annotated[str, typer.Argument(help="Id of a stored answer (`whence ask` prints it).")],
    kind: Kind = "leave_out",
    rows: Annotated[int | None, typer.Option(min=1, help="So many of its first rows; 10 unless it has fewer.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Trainings of each set (leave_out, flip).")] = None,
    draws: Annotated[int | None, typer.Option(min=1, help="Random sets, or rows, to compare with.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of tail_patch's step; else the recipe's.")] = None,
    ids: Annotated[list[str] | None, typer.Option("--id", help="Of unlearn: this row; may be repeated.")] = None,
    how: Annotated[
        Literal["retrain", "influence"] | None, typer.Option(help="Of unlearn: train again, or one influence step.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of every random draw.")] = None,
    name: Annotated[str | None, typer.Option(help="A name of your own.")] = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Only say what it would cost.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for it, or return its job.")] = True,
    url: Url = None,
    json_: Json = False,
) -> None:
    """Check one answer by an experiment: change the training, and measure what that does to the output."""
    body: dict[str, Any] = {"kind": kind, "rows": rows, "seeds": seeds, "draws": draws, "learning_rate": learning_rate}
    body |= {"ids": ids or None, "how": how, "seed": seed}
    with server(url) as whence:
        cost = whence.attributions.estimate_verification(attribution, **body)
        if estimate:
            print_json(cost) if json_ else out.print(cost_line(cost))
            return
        err.print(cost_line(cost), soft_wrap=True)
        made = _run(whence, attribution, body | {"name": name}, wait)
        if json_:
            print_json(made)
        elif made.result is None:
            _show_state(made)
        else:
            show_check(made, _answer(whence, attribution))


def cost_line(cost: CheckCost) -> Text:
    line = Text(f"{retrainings(cost.retrainings)}: about {duration(cost.seconds)}")
    return line.append(f", {size(cost.memory_bytes)} of memory." if cost.memory_bytes else ".", style="dim")


def _run(whence: Whence, attribution: str, body: dict[str, Any], wait: bool) -> Check:
    made = whence.attributions.verify(attribution, **body)
    if wait and made.job_id:
        follow(whence, made.job_id)
        made = whence.checks.get(made.id)
    return made


def _answer(whence: Whence, attribution: str) -> Attribution | None:
    try:
        found = whence.attributions.get(attribution)
    except NotFound:
        return None
    return found if isinstance(found, Attribution) else None


def _show_state(made: Check) -> None:
    pairs: list[tuple[str, object]] = [("id", made.id), ("state", made.state), ("job", made.job_id)]
    out.print(facts([*pairs, ("answer", made.attribution), ("kind", made.kind), ("error", made.error)]))
