"""`whence evaluate`: measure how far an index's rankings can be trusted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from app.commands.console import err, facts, out, print_json
from app.commands.following import follow
from app.commands.names import resolve_index
from app.commands.options import Json, OptionPairs, Url, parse_options, server
from app.commands.queries import read_objects
from app.commands.scorecard import show_scorecard
from whence_client import Evaluation, EvaluationCost, Whence

Candidates = Annotated[
    list[str] | None,
    typer.Option("--candidate", metavar="METHOD[:JSON]", help="What `auto` may choose, with its options; repeat."),
]


def evaluate(
    index: Annotated[str, typer.Argument(help="Id, alias or name of an index.")],
    queries: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="JSONL: {prompt | messages, completion, group?, …} a line."),
    ] = None,
    rows: Annotated[int | None, typer.Option(min=2, help="Without --queries: rows of the dataset to ask.")] = None,
    group_by: Annotated[str | None, typer.Option(metavar="tags.KEY", help="Rows of one fact, with --rows.")] = None,
    half_subsets: Annotated[int | None, typer.Option(min=3, help="Random halves to train on.")] = None,
    half_seeds: Annotated[int | None, typer.Option(min=1, help="Seeds for each half.")] = None,
    drop_subsets: Annotated[int | None, typer.Option(min=0, help="Small removals, with this run's seed.")] = None,
    leave_out_queries: Annotated[int | None, typer.Option(min=0, help="Queries whose top rows are left out.")] = None,
    candidate: Candidates = None,
    option: OptionPairs = None,
    name: Annotated[str | None, typer.Option(help="A name of your own.")] = None,
    log_odds: Annotated[bool, typer.Option("--log-odds", help="Measure log-odds.")] = False,
    estimate: Annotated[bool, typer.Option("--estimate", help="Only say what it would cost.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for it, or return its job.")] = True,
    url: Url = None,
    json_: Json = False,
) -> None:
    """Train again without some of the rows, and compare with what the index predicts: a scorecard."""
    body: dict[str, Any] = {
        "queries": None if queries is None else read_objects(queries),
        "rows": rows,
        "group_by": group_by,
        "half_subsets": half_subsets,
        "half_seeds": half_seeds,
        "drop_subsets": drop_subsets,
        "leave_out_queries": leave_out_queries,
        "candidates": _candidates(candidate),
        "measurement": "log_odds" if log_odds else None,
    } | parse_options(option)
    with server(url) as whence:
        body["index"] = resolve_index(whence, index, "INDEX")
        cost = whence.evaluations.estimate(**body)
        if estimate:
            print_json(cost) if json_ else out.print(cost_line(cost))
            return
        err.print(cost_line(cost), soft_wrap=True)
        made = _run(whence, body | {"name": name}, wait)
    print_json(made) if json_ else _show(made)


def cost_line(cost: EvaluationCost) -> Text:
    at_once = f", {cost.processes} at once" if cost.processes > 1 else ""
    line = Text(f"{cost.retrainings:,} retrainings{at_once}: about {duration(cost.seconds)}")
    return line.append(f" ({cost.basis}).", style="dim") if cost.basis else line.append(".")


def duration(seconds: float) -> str:
    """As people say it: 42 seconds, 7 minutes, 3.5 hours."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _run(whence: Whence, body: dict[str, Any], wait: bool) -> Evaluation:
    made = whence.evaluations.create(**body)
    if wait and made.job_id:
        follow(whence, made.job_id)
        made = whence.evaluations.get(made.id)
    return made


def _candidates(given: Sequence[str] | None) -> list[dict[str, Any]] | None:
    return None if given is None else [_candidate(text) for text in given]


def _candidate(text: str) -> dict[str, Any]:
    method, _, options = text.partition(":")
    try:
        parsed = json.loads(options) if options.strip() else {}
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        example = """'ekfac:{"damping": 0.1}'"""
        raise typer.BadParameter(f"{text!r} is not METHOD or METHOD:JSON, e.g. {example}", param_hint="--candidate")
    return {"method": method.strip(), "options": parsed}


def _show(made: Evaluation) -> None:
    if made.scorecard is not None:
        show_scorecard(made)
        return
    pairs: list[tuple[str, object]] = [("id", made.id), ("state", made.state), ("job", made.job_id)]
    out.print(facts([*pairs, ("index", made.index), ("questions", made.questions), ("error", made.error)]))
