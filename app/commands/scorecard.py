"""A scorecard as text: one line a method, then what it means."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from app.commands.console import one_line, out, table, warn
from app.commands.trust import LONGEST, VERDICT_STYLE
from whence_client import Evaluation

QUESTIONS = {
    "composition": "On other rows (what would a differently composed training set do?)",
    "this_run": "In this run (what did these rows do in it?)",
}
_COLUMNS = ["method", "role", ">LDS, other rows", "verdict", ">LDS, this run", "verdict"]


def show_scorecard(evaluation: Evaluation) -> None:
    scorecard: dict[str, Any] = evaluation.scorecard or {}
    methods: list[dict[str, Any]] = scorecard["methods"]
    out.print(table(None, _COLUMNS, [_row(method) for method in methods]))
    for own in (method for method in methods if method["role"] == "index"):
        for question, title in QUESTIONS.items():
            out.print()
            out.print(Text(title, style="bold"))
            out.print(_headline(own["verdicts"][question]))
        if found := detection_text(own["detection"]):
            out.print()
            out.print(Text("Rows that are known to matter: ", style="bold").append(found, style="not bold"))
    for question, tuned in scorecard["tuned"].items():
        out.print(f"`auto` takes {one_line(tuned['chosen']).plain} ({question}).", markup=False, highlight=False)
    for message in scorecard["warnings"]:
        warn(message)
    out.print()
    done = f"{scorecard['retrainings']:,} retrainings · {evaluation.questions} questions"
    out.print(Text(f"{evaluation.id} · index {evaluation.index} · {done}", style="dim"))


def _row(method: dict[str, Any]) -> list[object]:
    cells: list[object] = [method["name"], method["role"]]
    for question in QUESTIONS:
        verdict = method["verdicts"][question]["verdict"]
        cells += [lds_text(method["lds"][question]), Text(verdict, style=VERDICT_STYLE.get(verdict, ""))]
    return cells


def lds_text(lds: dict[str, Any]) -> str:
    """0.70 (0.60 to 0.80); "not measured" where it is not."""
    if lds["value"] is None:
        return "not measured"
    between = "" if lds["low"] is None or lds["high"] is None else f" ({lds['low']:.2f} to {lds['high']:.2f})"
    return f"{lds['value']:.2f}{between}"


def detection_text(detection: dict[str, float | None]) -> str:
    """Metric after metric; what is undefined is left out."""
    return " · ".join(f"{name} {value:.2f}" for name, value in detection.items() if value is not None)


def _headline(verdict: dict[str, Any]) -> Text:
    said = Text(verdict["verdict"], style=VERDICT_STYLE.get(verdict["verdict"], ""))
    said.append(f": {one_line(verdict['reason'], LONGEST).plain}")
    return said.append(f" {one_line(verdict['remedy'], LONGEST).plain}") if verdict["remedy"] else said
